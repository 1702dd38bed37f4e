from __future__ import annotations

import io
import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedveil import checks
from fedveil.data import archive, in_place, packed_faces
from fedveil.data.inspect import inspect
from fedveil.data.sources.packed import Packed
from fedveil.data.sources.procedural import draw_faces
from fedveil.data.stores import Unreadable

ORL = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "orl.npz"


def some_fields(kind: str) -> dict[str, Any]:
    faces = draw_faces(3, 0, 6, 3, 40)
    pixels = faces.images().transpose(0, 2, 3, 1)
    fields: dict[str, Any] = {"labels": faces.labels, "names": np.array(faces.names)}
    if kind == "jpeg":
        parts = []
        for image in pixels:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=0)
            parts.append(np.frombuffer(buffer.getvalue(), np.uint8))
        fields |= {"jpeg": np.concatenate(parts), "offsets": np.cumsum([0, *map(len, parts)])}
    else:
        fields["images"] = pixels if kind == "colour" else pixels[..., 1]
    return fields


def write(path: Path, fields: dict[str, Any]) -> Packed:
    np.savez(path, **fields)
    return Packed(path=str(path), size=32, evaluation="procedural", pairs=20)


@pytest.mark.parametrize("kind", ["colour", "grey", "jpeg"])
def test_every_kind_shows_the_same_faces(kind: str, tmp_path: Path) -> None:
    train = write(tmp_path / "faces.npz", some_fields(kind)).load(1).train
    images = train.images().astype(float)
    assert images.shape == (18, 3, 32, 32)
    assert train.present_names == tuple(f"p{i:04d}" for i in range(6))
    original = draw_faces(3, 0, 6, 3, 40).images().astype(float)
    if kind == "grey":
        assert (images[:, 0] == images[:, 2]).all()
        np.testing.assert_allclose(images[:, 1].mean((1, 2)), original[:, 1].mean((1, 2)), atol=2)
    else:
        np.testing.assert_allclose(images.mean((2, 3)), original.mean((2, 3)), atol=2)
    assert len(set(train.keys)) == 18
    assert train.keys[0].startswith("sha256:")


def test_held_out_needs_the_declaration(tmp_path: Path) -> None:
    write(tmp_path / "faces.npz", some_fields("colour"))
    path = str(tmp_path / "faces.npz")
    with pytest.raises(checks.UserError, match="declared_public_evaluation=False"):
        Packed(path=path).load(1)
    split = Packed(path=path, declared_public_evaluation=True, evaluation_fraction=0.5, pairs=6).load(1)
    assert len(split.evaluation.faces.present_names) == len(split.train.present_names) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offsets": np.array([0, 50, 20, *range(60, 76)], np.uint64)}, "offsets must ascend"),  # a wrap looks positive
        (
            {"offsets": np.array([0, 2**63], np.uint64)},
            r"offsets must lie in 0\.\.\d+ .*, got 0\.\.9223372036854775808",
        ),
        ({"offsets": np.full(19, np.nan)}, "offsets must be whole numbers"),
        ({"offsets": np.empty(0, int)}, "offsets must ascend"),
        ({"offsets": np.zeros((19, 1), int)}, r"offsets must be whole numbers \(N,\)"),
        ({"jpeg": np.zeros(99, np.int64)}, r"jpeg must be uint8 \(B,\), got int64 \(99,\)"),
        ({"jpeg": np.zeros((9, 9), np.uint8)}, r"jpeg must be uint8 \(B,\)"),
    ],
)
def test_wrong_fields_of_jpegs_name_the_file(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(checks.UserError, match=f"wrong\\.npz: {message}"):
        write(tmp_path / "wrong.npz", {**some_fields("jpeg"), **change}).load(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.full(18, 2**63, np.uint64)}, r"got 9223372036854775808"),
        ({"labels": np.zeros((18, 1), int)}, r"whole numbers \(N,\), got int64 \(18, 1\)"),
        ({"labels": np.zeros(18, bool)}, "whole numbers"),
        ({"labels": np.int64(3)}, r"whole numbers \(N,\), got int64 \(\)"),
        ({"names": np.zeros(6)}, r"names must be words \(N,\), got float64"),
        ({"names": np.array([["a"] * 6])}, r"names must be words \(N,\), got <U1 \(1, 6\)"),
        ({"names": np.array([b"\xff\xfe", *b"abcde"], "S2")}, "names holds bytes that are no UTF-8 text"),
        ({"names": np.array(["", *"abcde"])}, "1 names of people cannot be used: '' is empty"),
        ({"names": np.array(["a/b", *"bcdef"])}, "'a/b' holds a path separator"),
        (
            {"names": np.array(["a", "a", "b", "B", "c", "d"])},
            "4 names of people .*in 2 groups: 'a' and 'a'; 'b' and 'B'",
        ),
        ({"files": np.array(["x"] * 17)}, r"files must be words \(18,\)"),
        ({"images": np.zeros((18, 40, 40, 4), np.uint8)}, "images must be uint8"),
        ({"images": np.zeros((18, 40, 40), np.uint16)}, "got uint16 .*only you know what other numbers mean"),
        ({"images": np.zeros((18, 0, 40, 3), np.uint8)}, "40x0 has no pixels"),
        ({"images": np.zeros((18, 4, 400, 3), np.uint8)}, "400x4 is a strip"),
        ({"labels": np.zeros(0, int), "images": np.zeros((0, 40, 40, 3), np.uint8)}, "holds no picture"),
        ({"labels": np.full(18, 6)}, r"labels must lie in 0\.\.5 \(6 names\), got 6\.\.6"),
        ({"labels": np.full(18, -1)}, r"got -1\.\.-1"),
        ({"labels": np.zeros(17, int)}, "17 labels but 18 images"),
        ({"labels": np.zeros(18)}, "whole numbers"),
        ({"names": None}, r"lacks the fields \['names'\]"),
        ({"images": None}, r"lacks the fields \['jpeg', 'offsets'\]"),
        ({"images": np.zeros((18, 40, 40, 2), np.uint8)}, r"images must be uint8 \(N, H, W\)"),
        ({"images": np.zeros((18, 40, 40))}, "float64"),
        ({"names": np.array([object()] * 6)}, "without pickles"),
    ],
)
def test_wrong_fields_name_the_file(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    fields = {name: value for name, value in {**some_fields("colour"), **change}.items() if value is not None}
    source = write(tmp_path / "wrong.npz", fields)
    with pytest.raises(checks.UserError, match=message) as caught:
        source.load(1)
    assert "wrong.npz" in str(caught.value)


def test_files_that_are_no_archive_are_named(tmp_path: Path) -> None:
    source = write(tmp_path / "cut.npz", some_fields("colour"))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:1000])
    with pytest.raises(checks.UserError, match=r"cut\.npz cannot be read"):
        source.load(1)
    (tmp_path / "cut.npz").write_bytes(b"")
    with pytest.raises(checks.UserError, match=r"cut\.npz cannot be read"):
        source.load(1)
    (tmp_path / "cut.npz").unlink()
    with pytest.raises(checks.UserError, match=r"cut\.npz' is missing"):
        source.load(1)
    with pytest.raises(checks.UserError, match=r"data\.path='' says nothing.*Write data\.path=PLACE"):
        Packed(declared_public_evaluation=True).load(1)


@pytest.mark.parametrize(
    "damage", ["array", "pickle", "twice", "another twice", "no array", "encrypted", "bomb", "header", "crc"]
)
def test_hostile_archives_are_refused_by_name(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, path = write(tmp_path / "bad.npz", some_fields("colour")), tmp_path / "bad.npz"
    message = r"bad\.npz cannot be read as an \.npz"
    if damage == "array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif damage == "pickle":
        path.write_bytes(pickle.dumps({"labels": [0]}))
    elif damage == "twice":
        with zipfile.ZipFile(path, "a") as members, pytest.warns(UserWarning, match="Duplicate"):
            members.writestr("labels.npy", b"other labels")
        message = "it holds labels twice"
    elif damage == "another twice":
        with zipfile.ZipFile(path, "a") as members:
            members.writestr("labels", b"other labels")
        message = "it holds labels twice"
    elif damage == "no array":
        np.savez(path, **{name: value for name, value in some_fields("colour").items() if name != "labels"})
        with zipfile.ZipFile(path, "a") as members:
            members.writestr("labels.npy", b"these are no numbers")
        message = "labels is no array"
    elif damage == "encrypted":
        data = bytearray(path.read_bytes())
        for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            for at in [found.start() for found in re.finditer(re.escape(mark), bytes(data))]:
                data[at + place] |= 1
        path.write_bytes(data)
    elif damage == "bomb":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as members, members.open("images.npy", "w") as member:
            member.write(bytes(2**23))
        monkeypatch.setattr(archive, "_BOMB_BYTES", 2**22)
        message = r"bad\.npz of [\d,]+ bytes unpacks to 8,388,608"
    elif damage == "header":
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<i8", "fortran_order": False, "shape": (2**60,)})
        with zipfile.ZipFile(path, "w") as members:
            members.writestr("labels.npy", header.getvalue())
    else:
        data = path.read_bytes()
        path.write_bytes(data.replace(b"\x05\x00\x00\x00\x00\x00\x00\x00", b"\x04\x00\x00\x00\x00\x00\x00\x00", 1))
    with pytest.raises(checks.UserError, match=message):
        source.load(1)


def test_a_path_that_is_no_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, words in ((tmp_path / "pipe", "a named pipe"), (tmp_path, "a folder"), ("/dev/zero", "a device")):
        with pytest.raises(checks.UserError, match=f"data.path='{path}' is {words}; expected an .npz file"):
            Packed(path=str(path), evaluation="procedural").load(1)


def test_fields_that_are_not_needed_are_not_read(tmp_path: Path) -> None:
    fields = {**some_fields("colour"), "more": np.array([object()], object)}
    assert len(write(tmp_path / "faces.npz", fields).load(1).train) == 18


def test_a_record_is_the_place_and_a_key_the_picture(tmp_path: Path) -> None:
    fields = some_fields("colour")
    before = write(tmp_path / "faces.npz", fields).load(1).train
    assert before.records[4] == "p0001/position 4"
    fields["images"][4] = 255 - fields["images"][4]
    after = write(tmp_path / "faces.npz", fields).load(1).train
    assert after.records == before.records
    assert [i for i in range(18) if after.keys[i] != before.keys[i]] == [4]  # nobody else's cache is void
    files = np.array([f"{i}.png" for i in range(18)])
    assert write(tmp_path / "faces.npz", {**fields, "files": files}).load(1).train.records[4] == "p0001/4.png"
    # The same name for two people is no clash; for two pictures of one person, or unprintable, positions are used.
    files[3] = files[0]
    assert write(tmp_path / "faces.npz", {**fields, "files": files}).load(1).train.records[4] == "p0001/4.png"
    for other in ("3.png", "a\x1b"):
        files = np.array([f"{i}.png" for i in range(18)])
        files[4] = other
        train = write(tmp_path / "faces.npz", {**fields, "files": files}).load(1).train
        assert train.records == before.records
        assert "positions name them" in " ".join(train.notes)
    files = np.array([f"{i}.png" for i in range(18)])
    files[[3, 4]] = ["a.png", "A.png"]
    train = write(tmp_path / "faces.npz", {**fields, "files": files}).load(1).train
    assert train.records[3:5] == ("p0001/a.png", "p0001/A.png")
    assert "2 pictures' names are equal but for case or accents, kept apart" in " ".join(train.notes)


def test_broken_pictures_are_listed_and_bad_offsets_refused(tmp_path: Path) -> None:
    fields = some_fields("jpeg")
    fields["jpeg"] = fields["jpeg"].copy()
    fields["jpeg"][fields["offsets"][4]] = 0
    train = write(tmp_path / "faces.npz", fields).load(1).train
    assert [str(problem) for problem in train.skipped] == ["p0001/position 4: not a JPEG"]
    assert (len(train), train.readable.sum()) == (18, 17)  # its place stays
    with pytest.raises(Unreadable, match="p0001/position 4: cannot be read"):
        train.images([4])
    with pytest.raises(checks.UserError, match="holds no picture that can be read: the first is not a JPEG"):
        write(tmp_path / "faces.npz", {**fields, "jpeg": np.zeros_like(fields["jpeg"])}).load(1)
    fields["offsets"] = fields["offsets"] + 10
    with pytest.raises(checks.UserError, match=r"offsets must lie in 0\.\.\d+ \(the bytes of jpeg\)"):
        write(tmp_path / "faces.npz", fields).load(1)


def test_damage_inside_a_picture_is_named_when_it_is_read(tmp_path: Path) -> None:
    fields = some_fields("jpeg")
    fields["jpeg"] = fields["jpeg"].copy()
    fields["jpeg"][fields["offsets"][4] + 2 : fields["offsets"][5] - 2] = 0
    train = write(tmp_path / "faces.npz", fields).load(1).train
    with pytest.raises(checks.UserError, match=r"faces\.npz: p0001/position 4: picture 4 cannot be decoded"):
        train.images([4])


@pytest.mark.parametrize("kind", ["colour", "grey", "jpeg"])
def test_a_large_file_is_read_in_place_and_shows_the_same(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "faces.npz", some_fields(kind))
    loaded = source.load(1).train
    monkeypatch.setattr(in_place, "LARGE", 1000)
    placed = source.load(1).train
    opened = archive.open_archive(source.path, packed_faces.FIELDS)
    assert set(opened.large) == {"jpeg" if kind == "jpeg" else "images"}
    assert np.array_equal(placed.images(), loaded.images())
    assert (placed.keys, placed.records, placed.notes) == (loaded.keys, loaded.records, loaded.notes)
    compressed = tmp_path / "small.npz"
    np.savez_compressed(compressed, **some_fields(kind))
    assert not archive.open_archive(str(compressed), packed_faces.FIELDS).large


def test_broken_pictures_in_place_are_those_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = some_fields("jpeg")
    fields["jpeg"] = fields["jpeg"].copy()
    fields["jpeg"][fields["offsets"][4]] = 0
    fields["jpeg"][fields["offsets"][8] - 1] = 0
    fields["offsets"] = fields["offsets"].copy()
    fields["offsets"][12] = fields["offsets"][11] + 2  # two bytes are no picture, and the next does not begin like one
    source = write(tmp_path / "faces.npz", fields)
    loaded = source.load(1).train
    assert [str(problem).partition(": ")[2] for problem in loaded.skipped] == [
        "not a JPEG", "truncated JPEG", "not a JPEG", "not a JPEG",
    ]  # fmt: skip
    monkeypatch.setattr(in_place, "LARGE", 1000)
    assert source.load(1).train.skipped == loaded.skipped


def test_a_large_file_that_changes_or_lies_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_place, "LARGE", 1000)
    path = tmp_path / "faces.npz"
    train = write(path, some_fields("jpeg")).load(1).train
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    for read in (lambda: train.images([3]), lambda: train.keys):
        with pytest.raises(Unreadable, match=r"faces\.npz: p000[01]/position [03]: .*its file has changed since"):
            read()
    path.unlink()
    with pytest.raises(Unreadable, match="its file is missing"):
        train.images([3])
    # A header that promises another shape, and a place in the archive that is none.
    shape = re.search(rb"'shape': \((\d+),\)", data[data.index(b"jpeg.npy") :])
    assert shape is not None
    path.write_bytes(data.replace(shape[0], shape[0].replace(shape[1], b"9" * len(shape[1]))))
    with pytest.raises(checks.UserError, match=r"jpeg\.npy of \(9+,\) does not fill its place"):
        write_nothing(path).load(1)
    central = data.rindex(b"PK\x01\x02", 0, data.rindex(b"jpeg.npy"))
    for place in (7, len(data) - 9, len(data) - 200, 2**31):
        moved = bytearray(data)
        moved[central + 42 : central + 46] = place.to_bytes(4, "little")
        path.write_bytes(moved)
        with pytest.raises(checks.UserError, match=r"faces\.npz cannot be read as an \.npz"):
            write_nothing(path).load(1)


def write_nothing(path: Path) -> Packed:
    return Packed(path=str(path), size=32, evaluation="procedural", pairs=20)


@pytest.mark.skipif(not ORL.is_file(), reason="needs a packed ORL, which is not part of the repository")
def test_orl_is_read_and_reported() -> None:
    report = inspect("packed", Packed(path=str(ORL), size=48, evaluation="procedural"), 1)
    train = report.parts[0]
    assert (train.images, train.identities, train.grey, train.duplicates) == (400, 40, 400, ())
    assert "400 of 400 images resized to 48x48 from 92x112 (400)" in train.notes
