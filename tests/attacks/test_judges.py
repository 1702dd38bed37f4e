"""A recogniser of an ONNX file: how it reads pixels is found, and a file that is none is refused."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedveil import checks
from fedveil.attacks import _judges

WANTED = "ImageNet"


class Session:
    """A recogniser that works where pixels arrive as one scaling makes them, and sees only noise otherwise."""

    shape: Any = (1, 3, 16, 16)

    def __init__(self, place: str, *_: Any, **__: Any) -> None:
        if Path(place).read_bytes() != b"model":
            raise ValueError("no protobuf")

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(shape=self.shape, name="input")]

    def run(self, _: Any, fed: dict[str, np.ndarray]) -> list[np.ndarray]:
        images = fed["input"]
        assert images.shape[1:] == (3, 16, 16)
        assert len(images) == 1 or self.shape[0] != 1
        mean, scale = (np.array(values).reshape(1, 3, 1, 1) for values in _judges._SCALINGS[WANTED])
        pixels = images * scale + mean
        right = np.abs(pixels - np.round(pixels)).max(axis=(1, 2, 3)) < 1e-3
        who = pixels.mean(axis=(2, 3))
        noise = np.random.default_rng(int(1e6 * abs(float(images.sum())))).normal(size=who.shape)
        return [np.where(right[:, None], who - 127.5, noise)]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    fake: Any = SimpleNamespace(InferenceSession=Session, SessionOptions=SimpleNamespace)
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: fake if name == "onnxruntime" else real(name))
    path = tmp_path / "judge.onnx"
    path.write_bytes(b"model")
    return path


def people() -> tuple[np.ndarray, np.ndarray]:
    """Return two flat pictures each of 30 people, 16 x 16: a person is a colour."""
    rng = np.random.default_rng(1)
    colours = np.repeat(rng.integers(20, 230, (30, 3)), 2, axis=0) + rng.integers(-2, 3, (60, 3))
    images = np.broadcast_to(colours[:, :, None, None], (60, 3, 16, 16)).astype(np.uint8)
    return images, np.repeat(np.arange(30), 2)


@pytest.mark.parametrize("shape", [[1, 3, 16, 16], ["batch", 3, 16, 16]])
def test_how_it_reads_pixels_is_found_on_the_attackers_people(
    model: Path, shape: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "shape", shape)
    judge = _judges.onnx(str(model), *people())
    assert judge.scaling == WANTED
    assert judge.said["file"] == "judge.onnx"
    embedded = judge.embed(people()[0])
    assert np.linalg.norm(embedded, axis=1) == pytest.approx(1)


def test_pictures_of_another_size_are_scaled_to_its_input(model: Path) -> None:
    images, labels = people()
    judge = _judges.onnx(str(model), images, labels)
    large = images.repeat(4, axis=2).repeat(4, axis=3)
    np.testing.assert_allclose(judge.embed(large), judge.embed(images), atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "said"),
    [([1, 112, 112, 3], "expected one input"), ([1, 128], "expected one input"), ([8, 3, 16, 16], "reads 8 at once")],
)
def test_a_model_of_another_input_is_refused(
    model: Path, shape: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "shape", shape)
    with pytest.raises(checks.UserError, match=said):
        _judges.onnx(str(model), *people())


def test_what_is_no_model_is_refused(model: Path) -> None:
    model.write_bytes(b"text")
    with pytest.raises(checks.UserError, match="no readable ONNX model: no protobuf"):
        _judges.onnx(str(model), *people())
    with pytest.raises(checks.UserError, match="is no file"):
        _judges.onnx(str(model.parent / "nowhere.onnx"), *people())
