"""Files are whole or not there, what fails is named, and what is damaged is refused in one sentence."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from fedveil import checks, runs
from fedveil.storage import disk


@pytest.mark.parametrize("step", ["write", "fsync", "replace", "chmod", "mkstemp"])
@pytest.mark.parametrize("write", [disk.write_atomic, disk.create])
def test_a_write_that_fails_names_its_file_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, write: object
) -> None:
    """Python's own error has no name for most of these steps, and the temporary file's for the others."""
    if step == "replace" and write is disk.create:
        step = "link"
    target = tmp_path / "checkpoint.npz"
    real = os.fdopen

    class Full:
        def __init__(self, stream: object) -> None:
            self.stream = stream

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.stream.close()  # type: ignore[attr-defined]

        def write(self, data: bytes) -> None:
            fail()

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if step == "write":
        monkeypatch.setattr(os, "fdopen", lambda handle, mode: Full(real(handle, mode)))
    elif step == "mkstemp":
        monkeypatch.setattr(disk.tempfile, "mkstemp", fail)
    else:
        monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space left") as caught:
        write(target, b"x" * 100)  # type: ignore[operator]
    monkeypatch.undo()
    assert caught.value.filename == str(target)
    assert list(tmp_path.iterdir()) == []
    shown = disk.said(caught.value)
    assert shown.startswith(f"{target}: No space left on device. Make room there")
    assert "\n" not in shown


def limited(size: int, code: str, folder: Path) -> str:
    """Run code that may not make a file larger than `size` bytes: what a full disk is to a program."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))  # Python ignores the signal: writes fail

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, preexec_fn=limit, check=False
    )
    return done.stdout + done.stderr


WRITERS = {
    "json": "runs.write_json(Path('a/target'), {'text': 'x' * 9000})",
    "arrays": "runs.write_atomic(Path('a/target'), runs.pack({'w': np.zeros(9000)}, {}))",
    "checkpoint": "runs.write_packed(Path('a/target'), {'w': np.zeros(9000)}, {})",
    "picture": "from fedveil.pictures import run; run.roc_curve(Path('a/target'), [0, 1], [0, 1], 'none')",
    "log": "Path('a').mkdir(); disk.append(Path('a/target'), 'x' * 9000)",
    "ledger": "from fedveil.privacy.ledger import Ledger, Row; from fedveil.privacy.events import NonPrivate\n"
    "    Ledger(Path('a/target')).append([Row('r', 's', 'spent', NonPrivate('image', 'v', 'x' * 9000))])",
    "key": "from fedveil_clients.vault import Vault; disk.create(Path('a/target'), b'x' * 9000)",
    "copies": "from fedveil_clients.memo import Memo; m = Memo(Path('a')); m._write('target', np.zeros(9000))",
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_writer_names_its_file_when_there_is_no_room(tmp_path: Path, name: str) -> None:
    code = (
        "import numpy as np\nfrom pathlib import Path\nfrom fedveil import runs\nfrom fedveil.storage import disk\n"
        f"try:\n    {WRITERS[name]}\nexcept OSError as error:\n    print('SAID', disk.said(error))\n"
    )
    shown = limited(4096, code, tmp_path)
    assert "SAID a/target: " in shown, shown
    left = [path.name for path in (tmp_path / "a").iterdir()] if (tmp_path / "a").exists() else []
    assert left in ([], ["target"] if name == "log" else []), "a part was left behind"


def test_standard_output_on_a_full_disk_is_named(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs Linux's /dev/full")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fedveil.cli", "methods"], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("fedveil: standard output: No space left on device")
    assert done.stderr.count("\n") == 1


def test_a_file_is_created_once_whoever_is_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "owner.key"
    assert disk.create(path, b"first", private=True)
    assert not disk.create(path, b"second")
    assert path.read_bytes() == b"first"
    assert path.stat().st_mode & 0o777 == 0o600

    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, "no links on this file system")

    monkeypatch.setattr(os, "link", no_links)
    assert not disk.create(path, b"third")
    assert disk.create(tmp_path / "other", b"fourth")
    assert (path.read_bytes(), (tmp_path / "other").read_bytes()) == (b"first", b"fourth")


DAMAGE = {
    b"": "it is empty",
    b'{"half": ': "no JSON from line 1, column 10",
    b"null": "the whole is None",
    b"[1, 2]": "the whole is [1, 2], expected a block of fields",
    b'{"rounds": {}}': "rounds is {}, expected a list",
    b'{"rounds": [{"round": "1"}]}': "rounds[0].round is '1', expected int",
    b'{"rounds": [{"round": true}]}': "rounds[0].round is True",
    b'{"rounds": [{}]}': "rounds[0].round is missing",
    b'{"rounds": [NaN]}': "NaN is no JSON number",
    b'{"rounds": [{"round": 1, "loss": 1e999}]}': "rounds[0].loss is inf",
    b'{"a": "\xff"}': "byte 7 is no UTF-8",
    b"[" * 100_000: "recursion",
    "{}".encode("utf-16"): "byte 0 is no UTF-8",
}


@pytest.mark.parametrize("content", DAMAGE, ids=range(len(DAMAGE)))
def test_a_damaged_file_is_named_with_what_is_wrong_and_the_remedy(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(content)
    with pytest.raises(checks.UserError) as caught:
        runs.read_json(path, "result", {"rounds": [{"round": int, "loss?": disk.NUMBER}]}, "Remove it.")
    shown = str(caught.value)
    assert shown.startswith(f"{path} is not a readable result: ")
    assert DAMAGE[content] in shown
    assert shown.endswith(". Remove it.")
    assert len(shown) < 300


def test_a_missing_file_and_a_folder_are_damaged_too_and_a_good_file_is_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(checks.UserError, match="is not a readable result"):
            runs.read_json(path, "result")
    (tmp_path / "r.json").write_text(json.dumps({"rounds": [{"round": 1, "more": None}], "free": [1]}))
    assert runs.read_json(tmp_path / "r.json", "result", {"rounds": [{"round": int}]})["free"] == [1]
