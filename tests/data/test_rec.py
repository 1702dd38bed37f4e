"""RecordIO training sets, written here by the format's own description, and every damage named."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedveil import checks
from fedveil.configuration.schema import Partition
from fedveil.data import decode, recordio
from fedveil.data.partition import deal
from fedveil.data.sources.procedural import draw_faces
from fedveil.data.sources.rec import Rec, read_rec
from fedveil.data.stores import Unreadable

MAGIC = struct.pack("<I", 0xCED7230A)
FACES = draw_faces(3, 0, 6, 4, 48)
PIXELS = FACES.images().transpose(0, 2, 3, 1)


def jpeg(image: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS[image]).save(buffer, "JPEG")
    return buffer.getvalue()


def packed(labels: list[float], key: int, content: bytes) -> bytes:
    """Return an image record: header and content."""
    if len(labels) == 1:
        return struct.pack("<IfQQ", 0, labels[0], key, 0) + content
    return struct.pack("<IfQQ", len(labels), 0, key, 0) + struct.pack(f"<{len(labels)}f", *labels) + content


def written(data: bytes) -> bytes:
    """Return a record on disk: split where four aligned bytes are the magic, padded to four bytes."""
    cuts = [i for i in range(0, len(data) // 4 * 4, 4) if data[i : i + 4] == MAGIC]
    parts, start = [], 0
    for cut in [*cuts, len(data)]:
        parts.append(data[start:cut])
        start = cut + 4
    found = b""
    for number, part in enumerate(parts):
        flag = 0 if len(parts) == 1 else 1 if not number else 3 if number == len(parts) - 1 else 2
        found += MAGIC + struct.pack("<I", flag << 29 | len(part)) + part + bytes(-len(part) % 4)
    return found


def records(contents: list[bytes], labels: list[list[float]]) -> dict[int, bytes]:
    """Return InsightFace's records by key: a header, the pictures, and one record for each person's pictures."""
    people = int(max(label[0] for label in labels)) + 1
    made = {0: packed([len(contents) + 1, len(contents) + 1 + people], 0, b"")}
    made |= {i + 1: packed(label, i + 1, data) for i, (label, data) in enumerate(zip(labels, contents, strict=True))}
    for person in range(people):
        own = [i + 1 for i, label in enumerate(labels) if label[0] == person]
        key = len(contents) + 1 + person
        made[key] = packed([own[0], own[-1] + 1], key, b"")
    return made


def write(folder: Path, made: dict[int, bytes], index: bool = True) -> Path:
    """Write train.rec and train.idx."""
    data, lines = b"", []
    for key, record in made.items():
        lines.append(f"{key}\t{len(data)}\n")
        data += written(record)
    (folder / "train.rec").write_bytes(data)
    if index:
        (folder / "train.idx").write_text("".join(lines))
    return folder / "train.rec"


def plain() -> dict[int, bytes]:
    return records([jpeg(i) for i in range(24)], [[i // 4] for i in range(24)])


def faces(path: Path) -> Any:
    return read_rec(str(path), 32)


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("several", [True, False])
def test_pictures_and_people_are_those_that_were_packed(index: bool, several: bool, tmp_path: Path) -> None:
    labels: list[list[float]] = [[i // 4, 0.5, 7] if several else [i // 4] for i in range(24)]
    found = faces(write(tmp_path, records([jpeg(i) for i in range(24)], labels), index))
    assert found.labels.tolist() == [i // 4 for i in range(24)]
    assert found.present_names == tuple(f"id{i:04d}" for i in range(6))
    assert found.records[4] == "id0001/record 5"
    assert np.array_equal(found.images(), np.stack([decode.decode(jpeg(i), 32).pixels for i in range(24)]))
    assert len(set(found.keys)) == 24
    assert not found.skipped


def test_without_a_header_every_record_is_a_picture(tmp_path: Path) -> None:
    made = {i: packed([i // 4], i, jpeg(i)) for i in range(24)}
    assert len(faces(write(tmp_path, made))) == 24


def test_content_that_holds_the_magic_is_joined_again(tmp_path: Path) -> None:
    """The length word's upper bits say which part of a record this is; the magic between parts is left out."""
    content = jpeg(0) + bytes(-len(jpeg(0)) % 4) + MAGIC + b"abcd" + MAGIC + MAGIC + b"xyz"
    made = {0: packed([1, 2, 3], 0, jpeg(1)), 1: packed([2], 0xCED7230A, content), 2: packed([3], 2, MAGIC)}
    path = write(tmp_path, made)
    assert path.read_bytes().count(MAGIC) > 5
    for index in (True, False):
        if not index:
            path.with_suffix(".idx").unlink()
        listed = recordio.listing(path)
        assert listed.labels.tolist() == [1, 2, 3]
        with path.open("rb") as stream:
            whole = [recordio.content(stream.fileno(), int(at), listed.size) for at in listed.offsets]
        assert whole == [jpeg(1), content, MAGIC]


def test_the_source_splits_caps_and_deals_like_any_other(tmp_path: Path) -> None:
    path = write(tmp_path, plain())
    with pytest.raises(checks.UserError, match="declared_public_evaluation=False"):
        Rec(path=str(path)).load(1)
    split = Rec(path=str(path), size=32, evaluation="procedural", max_images_per_identity=3).load(1)
    assert len(split.train) == 18
    assert sorted(len(share) for _, share in deal(split.train, 2, 1, Partition()).items()) == [9, 9]
    held = Rec(path=str(path), size=32, declared_public_evaluation=True, evaluation_fraction=0.5, pairs=10).load(1)
    assert not set(held.train.present_names) & set(held.evaluation.faces.present_names)


def test_whoever_is_held_out_is_as_before() -> None:
    """The choice is by the public seed and the name, whatever computes it."""
    from fedveil.data.held_out import HeldOut
    from fedveil.randomness import derive_seed

    split = HeldOut(declared_public_evaluation=True, size=48, pairs=8).split(FACES, 5)
    ranked = sorted(range(6), key=lambda i: derive_seed(5, "held out", FACES.names[i]))
    assert sorted(split.evaluation.faces.identities) == sorted(ranked[:2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0\t0\nx\t40\n", r"train\.idx, line 2: expected KEY OFFSET, two whole numbers, got 'x\\t40'"),
        ("0\t0\n1\n", r"train\.idx, line 2: expected KEY OFFSET"),
        ("0\t0\n1 2 3\n", r"train\.idx, line 2: expected KEY OFFSET"),
        ("0\t0\n\n1\t40\n", r"train\.idx, line 2: expected KEY OFFSET"),
        ("0\t0\n1\t-40\n", r"train\.idx, line 2: expected KEY OFFSET"),
        ("0\t0\n1\t99999999999999999999\n", r"train\.idx, line 2: expected KEY OFFSET"),
        ("0\t0\n" + "1" * 5000, r"train\.idx, line 2: expected KEY OFFSET"),
        ("", r"train\.idx lists no record"),
        ("0\t0\n1\t40\n1\t80\n", r"train\.idx, lines 2 and 3: record 1 is there twice"),
        ("0\t40\n1\t0\n2\t40\n", r"train\.idx, lines 1 and 3: byte 40 is there twice"),
        (
            "0\t0\n1\t4000000\n",
            r"train\.idx, line 2: record 1 is said to begin at byte 4000000, but train\.rec ends at",
        ),
        ("0\t0\n1\t41\n", r"train\.idx, line 2: record 1 .* no record begins there"),
        ("0\t0\n1\t44\n", r"train\.rec: record 1 at byte 44 \(by train\.idx\) does not begin with the magic"),
    ],
)
def test_a_damaged_index_names_line_and_reason(text: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, plain())
    (tmp_path / "train.idx").write_text(text)
    with pytest.raises(checks.UserError, match=message):
        faces(path)


def test_an_index_in_pieces_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedveil.data import indexed

    path = tmp_path / "train.idx"
    rows = [(i, 40 * i) for i in range(1000)]
    path.write_bytes("\r\n".join(f"{a} \t{b}" for a, b in rows).encode())
    monkeypatch.setattr(indexed, "_PIECE", 64)
    assert indexed.read_numbers(path, "KEY OFFSET").tolist() == [list(row) for row in rows]
    path.write_bytes(path.read_bytes().replace(b"\n700 ", b"\n7o0 "))
    with pytest.raises(checks.UserError, match="line 701: expected"):
        indexed.read_numbers(path, "KEY OFFSET")


@pytest.mark.parametrize("index", [True, False])
def test_a_rec_that_is_cut_off_is_named(index: bool, tmp_path: Path) -> None:
    path = write(tmp_path, plain(), index)
    data = path.read_bytes()
    for kept in (len(data) - 10, len(data) // 2, 4):
        path.write_bytes(data[:kept])
        with pytest.raises(checks.UserError, match=r"train\.(rec|idx).*(cut off|no record begins there)"):
            faces(path)
    lines = (tmp_path / "train.idx").read_text().splitlines() if index else []
    if index:  # an index that ends early is found by what record 0 promises
        path.write_bytes(data)
        (tmp_path / "train.idx").write_text("\n".join(lines[:-10]))
        with pytest.raises(checks.UserError, match="holds 20 pictures and its record 0 promises 24"):
            faces(path)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (6.0, "record 5 has the label 6, one of 1 that are no number or beyond the 6 people of `property`"),
        (0.5, "record 5 has the label 0.5"),
        (float("nan"), "record 5 has the label nan"),
        (float("inf"), "record 5 has the label inf"),
    ],
)
def test_a_label_beyond_range_is_named(label: float, message: str, tmp_path: Path) -> None:
    made = plain()
    made[5] = packed([label], 5, jpeg(4))
    (tmp_path / "property").write_text("6,112,112\n")
    with pytest.raises(checks.UserError, match=message):
        faces(write(tmp_path, made))


def test_a_property_that_is_none_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, plain())
    for text in ("many", "0,112,112", "6"):
        (tmp_path / "property").write_text(text)
        with pytest.raises(checks.UserError, match=r"property: expected PEOPLE,HEIGHT,WIDTH, got"):
            faces(path)


def test_damage_to_one_picture_moves_no_other_one(tmp_path: Path) -> None:
    made = plain()
    made[5] = packed([1], 5, b"no picture")
    made[6] = packed([1], 6, jpeg(5)[:40])
    made[7] = packed([-1], 7, jpeg(6))
    found = faces(write(tmp_path, made))
    assert [str(problem) for problem in found.skipped] == ["id0001/record 5: no JPEG or PNG"]
    assert len(found) == 23
    assert "1 records are of nobody" in found.notes[0]
    with pytest.raises(Unreadable, match="id0001/record 5: cannot be read"):
        found.images([4])
    with pytest.raises(Unreadable, match=r"train\.rec: id0001/record 6: cannot be decoded"):
        found.images([5])


def test_other_damage_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, {0: packed([0], 0, jpeg(0)), 1: struct.pack("<IfQQ", 9, 0, 0, 0)})
    with pytest.raises(checks.UserError, match=r"record 1 at byte .* is too short for its labels"):
        faces(path)
    path = write(tmp_path, {0: packed([1, 2], 0, b"")})
    with pytest.raises(checks.UserError, match="holds no picture of anybody"):
        faces(path)
    path.write_bytes(b"")
    path.with_suffix(".idx").unlink()
    with pytest.raises(checks.UserError, match="it holds no record"):
        faces(path)
    path.write_bytes(b"\x93NUMPY" * 20)
    with pytest.raises(checks.UserError, match=r"byte 0, after 0 records: no record begins there \(magic 0x"):
        faces(path)
    path.write_bytes(MAGIC + struct.pack("<I", 2 << 29 | 4) + b"abcd")
    with pytest.raises(checks.UserError, match="a part of a record without the others"):
        faces(path)
    os.remove(path)
    os.mkfifo(path)
    with pytest.raises(checks.UserError, match=r"data\.path='.*' is a named pipe; expected train\.rec"):
        faces(path)


def test_a_file_that_changes_meanwhile_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, plain())
    found = faces(path)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(Unreadable, match=r"train\.rec: id0000/record 1: the file has changed"):
        found.images([0])
    path.unlink()
    with pytest.raises(Unreadable, match="missing"):
        found.images([0])


def test_memory_is_a_few_numbers_a_record(tmp_path: Path) -> None:
    """200,000 records of 4 KiB: a file of 800 MB, almost all of it a hole."""
    count, step = 200_000, 4096
    head = MAGIC + struct.pack("<I", step - 8)
    path = tmp_path / "train.rec"
    with path.open("wb") as stream:
        for i in range(count):
            stream.seek(i * step)
            stream.write(head + struct.pack("<IfQQ", 0, i // 10, i, 0) + b"\xff\xd8")
        stream.truncate(count * step)
    (tmp_path / "train.idx").write_text("".join(f"{i}\t{i * step}\n" for i in range(count)))
    tracemalloc.start()
    found = read_rec(str(path), 112)
    share = found.subset(deal(found, 1000, 1, Partition())["c0007"])
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(found), len(share)) == (count, 200)
    assert kept < 80 * count
    assert peak < 300 * count
