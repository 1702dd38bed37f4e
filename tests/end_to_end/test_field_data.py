"""A federation on the formats of the field: a RecordIO set packed into one file, evaluated on a `.bin`."""

from __future__ import annotations

import io
import json
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedveil import cli
from fedveil.data import packing
from fedveil.data.sources.procedural import draw_faces

TINY = [
    "protection=none", "train.rounds=2", "train.clients=2", "data.size=32", "data.evaluation=procedural",
    "train.local.steps=1", "tracking=none", "evaluation.draws=1", "evaluation.bootstrap=0",
    "evaluation.pairs=own.bin", "evaluation.pairs_are_public=true",
]  # fmt: skip


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write train.rec (without an index) and own.bin."""
    monkeypatch.chdir(tmp_path)
    data = b""
    for i, pixels in enumerate(draw_faces(3, 0, 6, 4, 32).images()):
        record = struct.pack("<IfQQ", 0, i // 4, i, 0) + packing.encoded(pixels, 95)
        data += struct.pack("<II", 0xCED7230A, len(record)) + record + bytes(-len(record) % 4)
    (tmp_path / "train.rec").write_bytes(data)
    pictures, faces = [], draw_faces(3, 100, 10, 2, 32).images().transpose(0, 2, 3, 1)
    for person in range(10):
        for i in (2 * person, 2 * person + 1, 2 * person, (2 * person + 2) % 20):
            buffer = io.BytesIO()
            Image.fromarray(faces[i]).save(buffer, "PNG")
            pictures.append(buffer.getvalue())
    (tmp_path / "own.bin").write_bytes(pickle.dumps((pictures, [True, False] * 10), 2))
    return tmp_path


def ended(*words: str) -> dict[str, Any]:
    assert cli.main(["simulate", *TINY, *words, "--json", "out.json"]) == 0
    found: dict[str, Any] = json.loads(Path("out.json").read_text())
    return found


def test_engines_and_packing_change_no_bit(files: Path) -> None:
    inline = ended("data=rec", "data.path=train.rec", "engine=inline")
    pool = ended("data=rec", "data.path=train.rec", "engine=pool", "engine.workers=2")
    assert cli.main(["data", "pack", "data=rec", "data.path=train.rec", "data.size=32", "--out", "faces.npz"]) == 0
    packed = ended("data=packed", "data.path=faces.npz", "engine=inline")
    assert len({run["model_sha256"] for run in (inline, pool, packed)}) == 1
    assert len({run["final"]["auc"] for run in (inline, pool, packed)}) == 1
    assert np.isfinite(inline["final"]["auc"])


def test_nothing_is_written_for_a_set_that_is_refused(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "cut.rec").write_bytes((files / "train.rec").read_bytes()[:-30])
    assert cli.main(["simulate", *TINY, "data=rec", "data.path=cut.rec"]) == 2
    assert "in the middle of record 23: it is cut off" in capsys.readouterr().err
    (files / "own.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    assert cli.main(["simulate", *TINY, "data=rec", "data.path=train.rec"]) == 2
    assert "own.bin is not read: byte 0: it names 'os'.'system'" in capsys.readouterr().err
    assert not (files / "runs").exists()
