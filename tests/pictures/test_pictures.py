"""Pictures are files that show the numbers they were given; what cannot be drawn is refused in words."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedveil import checks
from fedveil.pictures import faces
from fedveil.pictures import run as pictures

WEIGHTS = np.random.default_rng(7).lognormal(size=(3, 8, 8))
WEIGHTS[:, 0, 0] = 0
FACES = np.zeros((4, 3, 16, 16), dtype=np.uint8)
FACES[:, 0], FACES[:, 1, ::2] = 200, 90

DRAW: dict[str, Callable[[Path], Path]] = {
    "rounds": lambda path: pictures.rounds_curve(path, [1, 2, 3], [0.5, 0.6, 0.7], [1.0, 2.0, None], 0.8),
    "rounds-plain": lambda path: pictures.rounds_curve(path, [1], [0.5]),
    "rounds-none": lambda path: pictures.rounds_curve(path, [1, 2], [0.5, 0.6], [None, float("inf")]),
    "roc": lambda path: pictures.roc_curve(path, [0.0, 0.01, 0.1, 1.0], [0.0, 0.4, 0.8, 1.0], "dctdp"),
    "budget": lambda path: pictures.budget_shape(path, WEIGHTS),
    "budget-flat": lambda path: pictures.budget_shape(path, np.ones((3, 8, 8))),
    "faces": lambda path: faces.face_grid(path, {"original": FACES, "released": FACES[:, :, ::2, ::2]}),
}


@pytest.mark.parametrize("name", DRAW)
def test_a_picture_is_a_readable_light_png_and_the_same_every_time(name: str, tmp_path: Path) -> None:
    path = tmp_path / "new folder" / f"{name}.png"
    assert DRAW[name](path) == path
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert min(image.size) >= 200
        pixels = np.asarray(image.convert("L"))
    assert (pixels > 250).mean() > 0.2  # a light ground
    assert (pixels < 120).any()  # and something on it
    assert DRAW[name](tmp_path / "again.png").read_bytes() == path.read_bytes()


def test_faces_keep_their_colours_in_the_order_given(tmp_path: Path) -> None:
    red, blue = np.zeros((2, 3, 8, 8), np.uint8), np.zeros((2, 3, 8, 8), np.uint8)
    red[:, 0], blue[:, 2] = 255, 255
    with Image.open(faces.face_grid(tmp_path / "grid.png", {"red": red, "blue": blue})) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    red_lines, blue_lines = (np.argwhere((pixels == colour).all(-1))[:, 0] for colour in ([255, 0, 0], [0, 0, 255]))
    assert red_lines.size > 5000
    assert red_lines.size == pytest.approx(blue_lines.size, rel=0.05)
    assert red_lines.max() < blue_lines.min()


def test_a_larger_weight_is_drawn_darker(tmp_path: Path) -> None:
    def darkness(weight: float) -> float:
        shape = np.ones((3, 8, 8))
        shape[0, :4] = weight
        with Image.open(pictures.budget_shape(tmp_path / "b.png", shape)) as image:
            return float(np.asarray(image.convert("L"), dtype=float)[:, : image.width // 3].mean())

    assert darkness(100.0) < darkness(0.01)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda path: pictures.rounds_curve(path, [1, 2], [0.5]), "accuracy of shape"),
        (lambda path: pictures.rounds_curve(path, [], []), "rounds_drawn=0"),
        (lambda path: pictures.budget_shape(path, np.ones((8, 8))), "weights of shape"),
        (lambda path: pictures.budget_shape(path, np.zeros((3, 8, 8))), "largest_weight"),
        (lambda path: faces.face_grid(path, {"a": FACES, "b": FACES[:2]}), "rows\\['b'\\] of shape"),
        (lambda path: faces.face_grid(path, {"a": FACES.astype(float)}), "uint8"),  # type: ignore[dict-item]
        (lambda path: faces.face_grid(path, {}), "rows_of_faces=0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    with pytest.raises(checks.UserError, match=message):
        draw(tmp_path / "never.png")
    assert not (tmp_path / "never.png").exists()


def test_drawing_opens_no_window_and_loads_no_pyplot(tmp_path: Path) -> None:
    code = (
        "import sys, fedveil.pictures.run as p; from pathlib import Path; assert 'matplotlib' not in sys.modules;"
        f"p.rounds_curve(Path({str(tmp_path / 'p.png')!r}), [1], [0.5]); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_picture_in_zero_to_one_is_stretched_and_pixels_are_not() -> None:
    ramp = np.linspace(0.0, 1.0, 64, dtype=np.float32).reshape(1, 8, 8).repeat(3, 0)
    assert int(faces.mosaic(ramp).max()) == 255
    assert len(np.unique(faces.mosaic(ramp))) > 30
    assert faces.mosaic(ramp * 100).max() == 100
