"""Only regular files are opened: a pipe waits for its other end, a device may never end, a link may lead nowhere."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from fedveil import checks

FILE, FOLDER = "a file", "a folder"
_KINDS = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: FOLDER,
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotRegular(OSError):
    """What is there is no regular file; the message says what it is."""


def place(text: str) -> Path:
    """Return the path that a setting means; `~` is expanded where somebody's home is known."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def absolute(text: str) -> str:
    """Return the absolute name of what a setting means, links resolved; nothing is opened."""
    return os.path.realpath(place(text))


def kind(path: Path) -> str:
    """Return what is at `path`, links followed: `FILE`, `FOLDER`, or in words what else. Nothing is opened."""
    try:
        mode = path.stat().st_mode
    except ValueError:  # a null byte
        return "no name that a file can have"
    except OSError as error:
        if error.errno == errno.ENOENT:
            return "a link that leads nowhere" if path.is_symlink() else "missing"
        return "a link that leads in a circle" if error.errno == errno.ELOOP else reason(error)
    return _KINDS.get(stat.S_IFMT(mode), "no regular file")


def reason(error: OSError) -> str:
    """Return what went wrong without the path, which the caller names.

    >>> reason(PermissionError(13, "Permission denied", "/faces/a.jpg"))
    'not readable (Permission denied)'
    """
    return f"not readable ({error.strerror})" if error.strerror else str(error)


def opened(path: Path) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        NotRegular: anything else is there; the message is what `kind` says.
        OSError: it cannot be opened.
    """
    found = kind(path)
    if found != FILE:
        raise NotRegular(found)
    # It may have become a pipe since it was asked what it is: without O_NONBLOCK opening that would wait.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotRegular("no regular file")
    return os.fdopen(descriptor, "rb")


def listing(folder: Path) -> list[Path]:
    """Return what a folder holds, sorted by name, without names that begin with a dot.

    Raises:
        UserError: it cannot be listed.
    """
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise checks.UserError(f"The folder {str(folder)!r} is {reason(error)}; allow it, or leave it out.") from error
