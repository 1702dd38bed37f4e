"""Packing: the same pictures, people and records in one file, whatever the source; nothing half-written."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedveil import checks, cli
from fedveil.data import packing
from fedveil.data.caps import within_cap
from fedveil.data.faces import FaceSet
from fedveil.data.sources.folder import Folder
from fedveil.data.sources.packed import Packed
from fedveil.data.sources.procedural import draw_faces

FACES = draw_faces(3, 0, 5, 4, 32)


def folder(root: Path, kind: str = "png", size: int = 32) -> Folder:
    for i, pixels in enumerate(FACES.images().transpose(0, 2, 3, 1)):
        path = root / FACES.names[i // 4] / f"{i % 4}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((size, size)).save(path, **({"quality": 90} if kind == "jpg" else {}))
    return Folder(root=str(root), size=32, evaluation="procedural", pairs=20)


def packed(path: Path, faces: FaceSet, **how: Any) -> FaceSet:
    packing.pack(faces, path, {"source": "folder"}, **how)
    return Packed(path=str(path), size=faces.size[0]).whole(1)


def test_jpegs_of_the_right_size_are_copied_byte_for_byte(tmp_path: Path) -> None:
    source = folder(tmp_path / "faces", "jpg")
    done = packing.pack(source.whole(1), tmp_path / "faces.npz", {})
    assert (done.pictures, done.people, done.copied, done.problems) == (20, 5, 20, ())
    found = Packed(path=str(tmp_path / "faces.npz"), size=32).whole(1)
    assert found.store.encoded(5) == (tmp_path / "faces/p0001/1.jpg").read_bytes()
    read = source.load(1).train
    assert np.array_equal(found.images(), read.images())
    assert (found.records, found.present_names) == (read.records, read.present_names)
    assert within_cap(found, 2, 1).tolist() == within_cap(read, 2, 1).tolist()


@pytest.mark.parametrize(("kind", "size"), [("png", 32), ("jpg", 64)])
def test_other_pictures_are_scaled_and_encoded_once(kind: str, size: int, tmp_path: Path) -> None:
    source = folder(tmp_path / "faces", kind, size)
    found = packed(tmp_path / "faces.npz", source.whole(1), quality=98)
    wanted = source.load(1).train.images().astype(int)
    assert np.abs(found.images() - wanted).mean() < 1.5
    assert "source folder" in found.notes[-1]
    again = tmp_path / "again.npz"
    packing.pack(source.whole(1), again, {"source": "folder"}, quality=98)
    assert again.read_bytes() == (tmp_path / "faces.npz").read_bytes()  # equal input, equal bytes


def test_a_turned_picture_is_packed_upright(tmp_path: Path) -> None:
    source = folder(tmp_path / "faces", "jpg")
    image = Image.open(tmp_path / "faces/p0000/0.jpg")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "faces/p0000/0.jpg", exif=exif, quality=98)
    done = packing.pack(source.whole(1), tmp_path / "faces.npz", {})
    assert done.copied == 19
    found = Packed(path=str(tmp_path / "faces.npz"), size=32).whole(1).images([0])[0].astype(int)
    assert np.abs(found - source.load(1).train.images([0])[0]).mean() < 3


def test_a_broken_picture_keeps_its_place(tmp_path: Path) -> None:
    source = folder(tmp_path / "faces", "jpg")
    (tmp_path / "faces/p0001/1.jpg").write_bytes(b"no picture")
    done = packing.pack(source.whole(1), tmp_path / "faces.npz", {})
    assert [problem.file for problem in done.problems] == ["p0001/1.jpg"]
    found = Packed(path=str(tmp_path / "faces.npz"), size=32).whole(1)
    assert np.flatnonzero(~found.readable).tolist() == [5]
    assert found.records == source.load(1).train.records
    with np.load(tmp_path / "faces.npz") as fields:
        kept = json.loads(str(fields["provenance"][0]))
    assert kept["pictures"] == 20
    assert kept["unreadable"] == [str(problem) for problem in done.problems]


@pytest.mark.parametrize(
    ("out", "message"),
    [("there.npz", "is there already"), ("none/x.npz", "there is no folder"), ("faces.zip", r"the name of an \.npz")],
)  # fmt: skip
def test_a_place_that_cannot_be_written_is_named(out: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "there.npz").write_bytes(b"mine")
    with pytest.raises(checks.UserError, match=message):
        packing.pack(FACES, tmp_path / out, {})
    assert [path.name for path in tmp_path.iterdir()] == ["there.npz"]
    assert (tmp_path / "there.npz").read_bytes() == b"mine"


def test_nothing_is_left_of_an_attempt_that_failed(tmp_path: Path) -> None:
    source = folder(tmp_path / "faces", "jpg")

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        packing.pack(source.whole(1), tmp_path / "faces.npz", {}, progress=stop)
    for path in (tmp_path / "faces").rglob("*.jpg"):
        path.write_bytes(b"no picture")
    with pytest.raises(checks.UserError, match="no picture that can be read: 20 files skipped"):
        packing.pack(source.whole(1), tmp_path / "faces.npz", {})
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]


def test_the_command_packs_and_says_how_to_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder(tmp_path / "faces", "jpg")
    words = ["data", "pack", "data=folder", f"data.root={tmp_path / 'faces'}", "data.size=32"]
    assert cli.main([*words, "--out", str(tmp_path / "faces.npz")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "20 pictures of 5 people" in said
    assert "data=packed data.path=" in said
    assert cli.main([*words, "--out", str(tmp_path / "faces.npz")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert cli.main(["data", "pack", "data=lfw", "data.root=x"]) == 2
    assert "is a benchmark with its own lists" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["data", "inspect", "--out", "x.npz"])
    assert "--out does nothing for `fedveil data inspect`" in capsys.readouterr().err


def test_many_jpegs_are_registered_in_constant_memory(tmp_path: Path) -> None:
    """Of one small picture many times: what is kept is about 30 bytes a picture, and one is read where it is."""
    count = 200_000
    one = packing.encoded(FACES.images([0])[0], 50)
    path = tmp_path / "many.npz"
    labels = np.arange(count) // 20
    with _Zip(path) as made:
        made.array("labels", labels)
        made.array("names", np.array([f"n{i}" for i in range(count // 20)]))
        made.array("offsets", np.arange(count + 1) * len(one))
        made.repeated("jpeg", one, count)
    tracemalloc.start()
    faces = Packed(path=str(path), size=112).whole(1)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(faces), faces.readable.all()) == (count, True)
    assert kept < 60 * count
    assert peak < 200 * count
    assert np.array_equal(faces.images([count - 1]), faces.images([0]))
    assert faces.subset([count - 1]).records == (f"n{count // 20 - 1}/position {count - 1}",)


class _Zip:
    def __init__(self, path: Path) -> None:
        import zipfile

        self._zip = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED)

    def __enter__(self) -> _Zip:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def array(self, name: str, value: Any) -> None:
        with self._zip.open(f"{name}.npy", "w") as member:
            np.lib.format.write_array(member, value)

    def repeated(self, name: str, data: bytes, count: int) -> None:
        with self._zip.open(f"{name}.npy", "w", force_zip64=True) as member:
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(data) * count,)}
            np.lib.format.write_array_header_1_0(member, header)
            for _ in range(count // 1000):
                member.write(data * 1000)
