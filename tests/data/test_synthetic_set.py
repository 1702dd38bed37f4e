"""Sets of synthetic faces: written whole or not at all, read as they were, refused without an account of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedveil import checks
from fedveil.data import provenance, synthetic_set
from fedveil.data.provenance import Provenance
from fedveil.data.sources.procedural import draw_faces
from fedveil.privacy.statements import Statement
from fedveil.storage import disk

FACES = draw_faces(3, 0, 6, 3, 40)
PIXELS = FACES.images()
NOISY = Statement("client", "zero-out", "every released global model", "noise", 2.0, 1e-6, "formal", True).to_dict()
MADE = {
    "public": Provenance("public", "a" * 64, "drawn faces", seed=3, settings={"steps": 25}),
    "federated": Provenance("federated", "b" * 64, "ten clinics", (NOISY,)),
    "shared": Provenance("shared", "c" * 64, "one clinic"),
}


def made(path: Path, mode: str = "public", people: int = 6) -> Path:
    synthetic_set.write(path, PIXELS[: 3 * people], FACES.labels[: 3 * people], MADE[mode])
    return path


@pytest.mark.parametrize("mode", MADE)
def test_what_was_written_is_read_with_what_it_was_made_from(mode: str, tmp_path: Path) -> None:
    path = made(tmp_path / "set.npz", mode)
    faces, found = synthetic_set.read(str(path), 40)
    assert found == MADE[mode]
    assert np.array_equal(faces.images(), PIXELS)
    assert faces.present_names == tuple(f"s{number:06d}" for number in range(6))
    assert (faces.synthetic, faces.public) == (mode != "shared", mode != "shared")
    assert path.read_bytes() == made(tmp_path / "again.npz", mode).read_bytes()
    assert synthetic_set.digest(faces) == synthetic_set.digest(synthetic_set.read(str(tmp_path / "again.npz"), 40)[0])
    assert provenance.of_file(str(path), "data.path") == found
    smaller, _ = synthetic_set.read(str(path), 32)
    assert smaller.images().shape == (18, 3, 32, 32)
    assert synthetic_set.digest(smaller) != synthetic_set.digest(faces)


def test_people_who_were_left_out_keep_their_numbers(tmp_path: Path) -> None:
    synthetic_set.write(tmp_path / "set.npz", PIXELS[:4], [7, 7, 2, 2], MADE["public"])
    faces, _ = synthetic_set.read(str(tmp_path / "set.npz"), 40)
    assert faces.present_names == ("s000002", "s000007")
    first = synthetic_set.first_people(faces, 1, "here")
    assert (first.present_names, len(first)) == (("s000002",), 2)
    with pytest.raises(checks.UserError, match="here exceeds the 2"):
        synthetic_set.first_people(faces, 3, "here")


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (PIXELS[:0], [], "one face or more"),
        (PIXELS[:2], [0, -1], "numbered from 0"),
        (PIXELS[:2], [0], "Expected labels"),
        (PIXELS[:2], [0.5, 1.0], "whole numbers"),
        (PIXELS[:2, 0], [0, 1], "Expected images"),
        (PIXELS[:2].astype(float), [0, 1], "Expected images"),
    ],
)
def test_a_set_of_nobody_or_of_other_arrays_is_not_written(
    images: Any, labels: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(checks.UserError, match=message):
        synthetic_set.write(tmp_path / "set.npz", images, np.array(labels), MADE["public"])
    assert [*tmp_path.iterdir()] == []


def test_a_full_disk_leaves_the_file_that_was_there_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made(tmp_path / "set.npz")
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(disk.FULL[0], "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left") as error:
        made(path, people=4)
    assert error.value.filename == str(path)
    assert path.read_bytes() == before
    assert [*tmp_path.iterdir()] == [path]


WRONG = [
    ({"mode": "secret"}, "mode='secret'"), ({"generator": "abc"}, "SHA-256"), ({"learnt_from": " "}, "whose faces"),
    ({"learnt_from": "a\x1b[2Jb"}, "can be printed"), ({"learnt_from": "x" * 301}, "300"),
    ({"seed": True}, "seed=True"),
    ({"settings": [1]}, "settings"), ({"statements": [{**NOISY, "delta": None}]}, "Statement 0"),
    ({"statements": 7}, "expected the fields"), ({"mode": "public", "statements": [NOISY]}, "no statements"),
    ({"more": 1}, "expected the fields"), ({"mode": None}, "mode=None"), ({"generator": None}, "SHA-256"),
]  # fmt: skip


def rewritten(path: Path, text: str | None) -> None:
    with np.load(path) as archive:
        fields = {name: archive[name] for name in archive.files if name != provenance.FIELD}
    np.savez(path, **fields, **({} if text is None else {provenance.FIELD: np.array([text])}))


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_a_damaged_account_is_refused_with_the_file_and_the_remedy(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = made(tmp_path / "set.npz", "federated")
    about = json.loads(MADE["federated"].to_text(40))
    rewritten(path, json.dumps({**about, provenance.KEY: {**about[provenance.KEY], **change}}))
    with pytest.raises(checks.UserError, match=message) as error:
        synthetic_set.read(str(path), 40)
    assert str(path) in str(error.value)
    assert "fedveil synthesize" in str(error.value)


NONE = [None, "", "{", "[]", "{}", "7", '{"synthetic": 7}', '{"synthetic": {}}', "[" * 100_000]


@pytest.mark.parametrize("text", NONE)
def test_a_set_without_an_account_is_refused(text: str | None, tmp_path: Path) -> None:
    path = made(tmp_path / "set.npz")
    rewritten(path, text)
    with pytest.raises(checks.UserError, match="does not say what its faces were made from"):
        synthetic_set.read(str(path), 40)
