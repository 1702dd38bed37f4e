from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from fedveil import checks
from fedveil.data import decode, files


def pipe(path: Path) -> None:
    os.mkfifo(path)


def bound(path: Path) -> None:
    home = Path.cwd()
    os.chdir(path.parent)  # a socket's name is limited to about a hundred bytes
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(home)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def dangling(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def circle(path: Path) -> None:
    path.symlink_to(path.name)


ODD: dict[str, Callable[[Path], None]] = {
    "a named pipe": pipe,
    "a socket": bound,
    "a device": device,
    "a link that leads nowhere": dangling,
    "a link that leads in a circle": circle,
}


@pytest.mark.parametrize("words", ODD)
def test_what_is_no_regular_file_is_named_and_never_opened(words: str, tmp_path: Path) -> None:
    ODD[words](tmp_path / "odd.jpg")
    assert files.kind(tmp_path / "odd.jpg") == words
    with pytest.raises(files.NotRegular, match=words):
        files.opened(tmp_path / "odd.jpg")
    with pytest.raises(decode.Undecodable, match=f"^{words}$"):
        decode.decode(tmp_path / "odd.jpg", 16)
    with pytest.raises(checks.UserError, match=words):
        decode.pictures(tmp_path / "odd.jpg", 16)
    with pytest.raises(checks.UserError, match=words):
        decode.pictures(tmp_path, 16)


def test_a_file_that_becomes_a_pipe_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(files, "kind", lambda path: files.FILE)
    with pytest.raises(files.NotRegular):
        files.opened(tmp_path / "pipe")


def test_names_that_no_file_can_have() -> None:
    assert files.kind(Path("a\0b")) == "no name that a file can have"
    assert files.kind(Path("a" * 5000)) == "not readable (File name too long)"
    assert files.kind(files.place("~no_such_user_at_all/faces")) == "missing"
    assert files.place("~").is_absolute()


def test_what_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may read everything, so the refusal is played."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "somewhere")

    (tmp_path / "a.jpg").write_bytes(b"")
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(decode.Undecodable, match=r"not readable \(Permission denied\)"):
            decode.decode(tmp_path / "a.jpg", 16)
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(checks.UserError, match=r"not readable \(Permission denied\); allow it"):
        files.listing(tmp_path)
