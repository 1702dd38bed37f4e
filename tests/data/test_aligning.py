"""Aligning photographs by landmarks of a file: every face where it belongs, every wrong line named."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedveil import checks, cli
from fedveil.data import aligning, detection
from fedveil.data import landmarks as columns
from fedveil.data.alignment import TEMPLATE
from fedveil.data.sources.folder import read_folder
from fedveil.data.sources.procedural import draw_faces

FACES = draw_faces(3, 0, 3, 2, 112)


def photographs(root: Path) -> list[str]:
    """Write drawn faces, each turned, scaled and put somewhere in a larger picture; return the lines of landmarks."""
    lines = [",".join(columns.COLUMNS)]
    for i, pixels in enumerate(FACES.images().transpose(0, 2, 3, 1)):
        angle, scale, where = 0.3 * (i - 2), 1.5 + 0.3 * i, np.array([90.0 + 20 * i, 70.0])
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        back = np.linalg.inv(turn)
        shift = -back @ where + 56
        shift += 0.5 - 0.5 * back.sum(1)
        data = (*back[0], shift[0], *back[1], shift[1])
        picture = Image.fromarray(pixels).transform((400, 300), Image.Transform.AFFINE, data, Image.Resampling.BICUBIC)
        path = root / FACES.names[i // 2] / f"{i % 2}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        points = (TEMPLATE - 56) @ turn.T + where
        lines.append(",".join([f"{path.parent.name}/{path.name}", *(f"{v:.4f}" for v in points.ravel())]))
    return lines


def landmarks(tmp_path: Path, lines: list[str]) -> Path:
    (tmp_path / "points.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "points.csv"


def test_faces_come_back_to_where_they_were_drawn(tmp_path: Path) -> None:
    lines = photographs(tmp_path / "photos")
    done = aligning.align(tmp_path / "photos", aligning.Listed(landmarks(tmp_path, lines)), tmp_path / "faces")
    assert (done.written, done.problems) == (6, ())
    made = read_folder(str(tmp_path / "faces"), 112)
    assert made.present_names == FACES.present_names
    inner = (slice(None), slice(None), slice(30, 82), slice(30, 82))  # the corners were outside of some pictures
    error = np.abs(made.images()[inner].astype(int) - FACES.images()[inner]).mean()
    moved = np.abs(np.roll(FACES.images(), 3, 3)[inner].astype(int) - FACES.images()[inner]).mean()
    assert error < 6
    assert error < moved / 2


def test_what_is_left_out_is_listed(tmp_path: Path) -> None:
    lines = photographs(tmp_path / "photos")
    (tmp_path / "photos/p0000/0.png").write_bytes(b"no picture")
    lines[2] = lines[2].replace("p0000/1.png", "p0000/gone.png")
    done = aligning.align(tmp_path / "photos", aligning.Listed(landmarks(tmp_path, lines)), tmp_path / "faces", 64)
    assert done.written == 4
    assert [str(problem) for problem in done.problems] == [
        "p0000/1.png: no landmarks",
        "p0000/0.png: not a picture of a kind that is read (JPEG, PNG, BMP, WEBP, TIFF, PPM, GIF)",
        "p0000/gone.png: missing",
    ]
    with Image.open(tmp_path / "faces/p0001/0.png") as image:
        assert image.size == (64, 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace("y5", "z5"), r"lacks the columns \['y5'\] in its first line"),
        (lambda t: t.replace("p0000/1.png", "../1.png"), r"line 3: expected file to be PERSON/PICTURE .*'\.\./1\.png'"),
        (lambda t: t.replace("p0000/1.png", "1.png"), "line 3: expected file to be PERSON/PICTURE"),
        (lambda t: t.replace("p0000/1.png,", "p0000/1.png,x"), "line 3: expected ten numbers"),
        (lambda t: t.replace("p0000/1.png,", "p0000/1.png,nan,"), "line 3: .* inf pixels of 112 away"),
        (lambda t: t.replace("p0000/1.png", "p0000/0.png"), "line 3: .* not that of line 2 again"),
        (lambda t: t.replace("p0000/1.png", "p0000/0.jpg"), r"would both become 'p0000/0\.png'; rename one"),
        (lambda t: t.replace("p0000/1.png", '"p0000/1.png'), "line .*: expected fields with commas"),
        (lambda t: t.splitlines()[0], "lists no face"),
    ],
)
def test_a_wrong_list_names_the_line_and_nothing_is_written(change, message: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = landmarks(tmp_path, photographs(tmp_path / "photos"))
    path.write_text(change(path.read_text()))
    with pytest.raises(checks.UserError, match=message):
        aligning.align(tmp_path / "photos", aligning.Listed(path), tmp_path / "faces")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["photos", "points.csv"]


def test_points_in_another_order_are_no_face(tmp_path: Path) -> None:
    lines = photographs(tmp_path / "photos")
    name, *numbers = lines[1].split(",")
    mirrored = [*numbers[2:4], *numbers[0:2], *numbers[4:6], *numbers[8:10], *numbers[6:8]]
    path = landmarks(tmp_path, [lines[0], ",".join([name, *mirrored])])
    with pytest.raises(checks.UserError, match=r"line 2: expected the eyes, the nose .* left in the picture first"):
        columns.read(path)


def test_the_command_says_what_it_needs_and_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = landmarks(tmp_path, photographs(tmp_path / "photos"))
    words = ["data", "align", "--photographs", str(tmp_path / "photos")]
    assert cli.main(words) == 2
    assert "needs one of --landmarks FILE.csv and --detector FILE.onnx" in capsys.readouterr().err
    words += ["--landmarks", str(path), "--out", str(tmp_path / "faces")]
    assert cli.main([*words, "seed=3"]) == 2
    assert "seed=3 does nothing here" in capsys.readouterr().err
    assert cli.main(words) == 0
    assert "6 aligned faces of 112 pixels" in " ".join(capsys.readouterr().out.split())
    assert cli.main(words) == 2
    assert "is there already" in capsys.readouterr().err


class Stub:
    """What of OpenCV is used: a detector that finds marks of known colours, as its documentation lays rows out."""

    error = RuntimeError

    class FaceDetectorYN:
        @staticmethod
        def create(model: str, *_: object) -> Stub.FaceDetectorYN:
            if Path(model).read_bytes() != b"model":
                raise Stub.error("OpenCV says\nthat it is none")
            return Stub.FaceDetectorYN()

        def setInputSize(self, size: tuple[int, int]) -> None:
            self.size = size

        def detect(self, image: np.ndarray) -> tuple[int, np.ndarray | None]:
            assert image.shape == (self.size[1], self.size[0], 3)
            assert max(self.size) <= 1024
            rows = []
            for channel in (1, 2):  # a green face and a red one; red comes last
                places = np.argwhere(image[..., channel] > 50)
                if len(places):
                    low, high = places.min(0)[::-1], places.max(0)[::-1] + 1
                    box = high - low
                    points = low - 0.5 + (TEMPLATE + 0.5) / 112 * box
                    rows.append([*low, *box, *points.ravel(), 0.9])
            return 1, np.array(rows, np.float32) if rows else None


def test_a_detector_finds_the_largest_face_of_large_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", Stub)
    (tmp_path / "yunet.onnx").write_bytes(b"model")
    (tmp_path / "photos/ann").mkdir(parents=True)
    picture = np.zeros((1500, 3000, 3), np.uint8)
    picture[200:424, 300:524, 1], picture[800:1248, 1000:1448, 0] = 100, 100
    Image.fromarray(picture).save(tmp_path / "photos/ann/two.png")
    Image.fromarray(picture[1250:]).save(tmp_path / "photos/ann/none.png")
    done = aligning.align(tmp_path / "photos", detection.Yunet(tmp_path / "yunet.onnx"), tmp_path / "faces")
    assert [str(problem) for problem in done.problems] == ["ann/none.png: no face was found"]
    made = np.asarray(Image.open(tmp_path / "faces/ann/two.png"))[..., 0]
    assert np.abs(made[2:-2, 2:-2].astype(int) - 100).max() <= 1  # the larger one, and all of it
    (tmp_path / "yunet.onnx").write_bytes(b"something else")
    with pytest.raises(checks.UserError, match=r"yunet\.onnx is no model of YuNet: that it is none"):
        detection.Yunet(tmp_path / "yunet.onnx")


def test_a_detector_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(checks.UserError, match=r"--detector .*none\.onnx is missing"):
        detection.Yunet(tmp_path / "none.onnx")
    (tmp_path / "yunet.onnx").write_bytes(b"model")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(checks.UserError, match=r"--detector needs OpenCV: pip install 'fedveil\[align\]'"):
        detection.Yunet(tmp_path / "yunet.onnx")


@pytest.mark.skipif(
    not os.environ.get("FEDVEIL_YUNET") or importlib.util.find_spec("cv2") is None,
    reason="needs OpenCV and FEDVEIL_YUNET=face_detection_yunet_*.onnx, which is not part of the repository",
)
def test_the_real_detector_finds_drawn_faces(tmp_path: Path) -> None:
    lines = photographs(tmp_path / "photos")
    done = aligning.align(tmp_path / "photos", detection.Yunet(Path(os.environ["FEDVEIL_YUNET"])), tmp_path / "faces")
    assert done.written == len(lines) - 1
