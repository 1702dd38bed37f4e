"""Files on disk: written whole or not at all, checked when they are read back, and named when something fails.

Python knows no file name when a buffered write, an fsync or a rename fails, so every write of fedveil goes through here
(or through `databases`), which give the error the name of the file that was wanted.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from fedveil import checks

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_OUTPUT = Path("standard output")
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV)

Write = Callable[[BinaryIO], None]
"""Writes a file's content to a stream that can seek."""
Shape = Any
"""What a JSON value must be: a type, a tuple of types, [shape of every item], {key: shape, "key?": shape if there}."""
NUMBER = (int, float)
"""A finite number; true and false are none."""


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Give an `OSError` of the block the name of the file that was to be written."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def said(error: OSError) -> str:
    """Return what failed, in one line: the file, the reason and the remedy."""
    remedy = ""
    if error.errno in FULL:
        remedy = (
            " Make room there: nothing half-written is left, and `fedveil simulate --resume RUN_ID` goes on with a run."
        )
    elif error.errno in _CLOSED:
        remedy = " Change its permissions, or name another place (runs.root=..., vault.root=...)."
    return f"{error.filename or 'a file without a name'}: {error.strerror or error}.{remedy}"


class _Output:
    """Standard output, whose errors have a name."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with named(_OUTPUT):
            return self._stream.write(text)

    def flush(self) -> None:
        with named(_OUTPUT):
            self._stream.flush()


@contextlib.contextmanager
def named_output() -> Iterator[None]:
    """Name standard output in an error of the block, which has printed everything when this ends."""
    stream = sys.stdout
    sys.stdout = _Output(stream)
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        if error.filename == str(_OUTPUT) and not isinstance(error, BrokenPipeError):
            with contextlib.suppress(OSError):  # else Python says it again when it ends
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        raise
    finally:
        sys.stdout = stream


def write_atomic(path: Path, data: bytes | Write, private: bool = False, durable: bool = True) -> None:
    """Write a file so that a reader, or a crash at any moment, sees the old content or the new, never a part.

    Args:
        path: the file.
        data: its content, or what writes it to a stream, piece by piece.
        private: readable by its owner alone (mode 0600).
        durable: it also survives a crash of the machine; else perhaps one of the program alone.

    Raises:
        OSError: naming `path`; nothing is left of the attempt.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with named(path), _temporary(path, data, private, durable) as temporary:
        os.replace(temporary, path)
        _sync_folder(path, durable)


def place(path: Path, data: bytes) -> None:
    """Write a file for its owner alone, whole or not at all, into a folder that is there.

    It survives a crash of the program, but perhaps not one of the machine: `write_atomic`, made for many small files.

    Raises:
        OSError: naming `path`; nothing is left of the attempt.
    """
    temporary = f"{path}.{os.getpid()}-{threading.get_ident()}"
    with named(path):
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(handle, view) :]
            finally:
                os.close(handle)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def create(path: Path, data: bytes, private: bool = False) -> bool:
    """Write a new file whole, on disk when this returns; False where another process was first, whose file stays.

    Raises:
        OSError: naming `path`; nothing is left of the attempt.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with named(path), _temporary(path, data, private, True) as temporary:
        try:
            os.link(temporary, path)  # unlike a rename, it never takes the place of another process's file
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _exclusive(path, data, private)
        _sync_folder(path, True)
        return True


@contextlib.contextmanager
def _temporary(path: Path, data: bytes | Write, private: bool, durable: bool) -> Iterator[str]:
    """Write a file beside `path` that is gone after the block, whatever happens."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            if callable(data):
                data(stream)
            else:
                stream.write(data)
            stream.flush()
            if durable:
                os.fsync(stream.fileno())
        if not private:
            os.chmod(temporary, 0o644)
        yield temporary
    finally:
        Path(temporary).unlink(missing_ok=True)


def _exclusive(path: Path, data: bytes, private: bool) -> bool:
    """Create a file where the file system has no links; a crash in the middle leaves a part."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o644)
    except FileExistsError:
        return False
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return True


def _sync_folder(path: Path, durable: bool) -> None:
    """Make a name in a folder last, as fsync makes content last."""
    if not durable:
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def append(path: Path, text: str) -> None:
    """Add lines to a log that its owner alone can read."""
    with named(path):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as log:
            log.write(text)


def write_json(path: Path, value: Any, private: bool = False) -> None:
    """Write valid JSON atomically; NaN and infinities are refused rather than written."""
    write_atomic(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode(), private)


def read_json(path: Path, what: str, shape: Mapping[str, Shape] | None = None, remedy: str = "") -> dict[str, Any]:
    """Return the JSON object in a file, checked.

    Args:
        path: the file.
        what: what it should hold, in a word or two for the message.
        shape: see `Shape`; keys that it does not name are free.
        remedy: a sentence for the message.

    Raises:
        fedveil.checks.UserError: naming the file, what is wrong and the remedy.
    """
    try:
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is no file")  # a named pipe would be waited for
        found = json.loads(path.read_bytes().decode(), parse_constant=_no_constant)
        wrong = misfit(found, shape or {}, "")
    except OSError as error:
        wrong = error.strerror or str(error)
    except json.JSONDecodeError as error:
        place = f"from line {error.lineno}, column {error.colno} on"
        wrong = f"it is no JSON {place}" if error.doc.strip() else "it is empty"
    except UnicodeDecodeError as error:
        wrong = f"byte {error.start} is no UTF-8 text"
    except (ValueError, RecursionError) as error:
        wrong = str(error)
    if wrong:
        raise checks.UserError(f"{path} is not a readable {what}: {wrong}.{' ' * bool(remedy)}{remedy}")
    checked: dict[str, Any] = found
    return checked


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON number")


def misfit(value: Any, shape: Shape, place: str) -> str:
    """Return what of a plain JSON value is not as `shape` says, empty if nothing.

    >>> misfit({"rounds": [{"round": "one"}]}, {"rounds": [{"round": int}], "seed?": int}, "")
    "rounds[0].round is 'one', expected int"
    >>> misfit({"seed": 1}, {"rounds": [int], "seed?": int}, "")
    'rounds is missing'
    """
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return _not(value, place, "a block of fields")
        for name, inner in shape.items():
            key, below = name.removesuffix("?"), f"{place}.{name}".removeprefix(".").removesuffix("?")
            if key not in value:
                if name == key:
                    return f"{below} is missing"
            elif wrong := misfit(value[key], inner, below):
                return wrong
        return ""
    if isinstance(shape, list):
        if not isinstance(value, list):
            return _not(value, place, "a list")
        found = (misfit(item, shape[0], f"{place}[{number}]") for number, item in enumerate(value))
        return next((wrong for wrong in found if wrong), "")
    kinds = shape if isinstance(shape, tuple) else (shape,)
    odd = isinstance(value, bool) and bool not in kinds
    odd |= isinstance(value, float) and not math.isfinite(value)
    if odd or not isinstance(value, kinds):
        return _not(value, place, " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds))
    return ""


def _not(value: Any, place: str, wanted: str) -> str:
    shown = repr(value)
    return f"{place or 'the whole'} is {shown if len(shown) < 40 else shown[:36] + '...'}, expected {wanted}"
