"""One .npz file of arrays, opened without trusting it: no pickles, no bombs, every field of the right kind.

Fields: `labels` (N,) indexes `names`; pictures are `images` uint8 (N, H, W) or (N, H, W, 3), or `jpeg` uint8 (all files
end to end) with `offsets` (N + 1,). `files` (N,), when there, names each picture.
"""

from __future__ import annotations

import dataclasses
import lzma
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedveil import checks
from fedveil.data import files
from fedveil.data.in_place import Stored, stored

_BOMB_BYTES, _BOMB_RATIO = 2**30, 200  # arrays of pictures shrink to a half, or to a tenth where they are drawn
# What NumPy and the unpackers raise on damaged or hostile bytes.
_BROKEN = (
    OSError, ValueError, EOFError, KeyError, TypeError, IndexError, AttributeError, RuntimeError, MemoryError,
    OverflowError, SyntaxError, UnicodeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Archive:
    """The fields of an .npz file that were asked for; every access checks one and names the file in messages.

    `fields` are in memory; `large` ones, arrays of bytes, are where they are in the file.
    """

    path: str
    fields: dict[str, NDArray[Any]]
    present: tuple[str, ...]
    large: dict[str, Stored] = dataclasses.field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.fields or name in self.large

    def bytes_of(self, name: str) -> NDArray[Any] | Stored:
        """Return a field of bytes, in memory or, when it is large, where it is in the file."""
        return self.large[name] if name in self.large else self.fields[name]

    def require(self, *names: str) -> None:
        """Refuse an archive without these fields."""
        missing = [name for name in names if name not in self]
        if missing:
            raise checks.UserError(f"{self.path} lacks the fields {missing}; it has {sorted(self.present)}.")

    def _loaded(self, name: str) -> NDArray[Any]:
        found = self.bytes_of(name)
        return found.rows(0, len(found)) if isinstance(found, Stored) else found

    def whole_numbers(
        self, name: str, shape: tuple[int | None, ...], low: int, high: int | None, meaning: str = ""
    ) -> NDArray[np.int64]:
        """Return a field of whole numbers in low..high of this shape; None stands for any length or no limit."""
        field = self._loaded(name)
        expected = f"({', '.join('N' if length is None else str(length) for length in shape)}{',' * (len(shape) == 1)})"
        right = field.ndim == len(shape) and all(w in (None, g) for w, g in zip(shape, field.shape, strict=True))
        if field.dtype.kind not in "iu" or not right:
            raise checks.UserError(
                f"{self.path}: {name} must be whole numbers {expected}, got {field.dtype} {field.shape}."
            )
        if field.size and (int(field.min()) < low or (high is not None and int(field.max()) > high)):
            limit = f"lie in {low}..{high}" if high is not None else f"be at least {low}"
            raise checks.UserError(f"{self.path}: {name} must {limit}{meaning}, got {field.min()}..{field.max()}.")
        return field.astype(np.int64)

    def words(self, name: str, count: int | None = None) -> list[str]:
        """Return a field (N,) of words; numbers are written out, bytes read as UTF-8."""
        field = self._loaded(name)
        if field.ndim != 1 or field.dtype.kind not in "USiu" or (count is not None and field.size != count):
            wanted = "(N,)" if count is None else f"({count},)"
            raise checks.UserError(
                f"{self.path}: {name} must be words {wanted}, got {field.dtype} {field.shape}; store them with "
                "np.array([...], dtype=str)."
            )
        try:
            return [word.decode() if isinstance(word, bytes) else str(word) for word in field.tolist()]
        except UnicodeDecodeError as error:
            raise checks.UserError(f"{self.path}: {name} holds bytes that are no UTF-8 text: {error}.") from error


def open_archive(path: str, wanted: Iterable[str], setting: str = "data.path") -> Archive:
    """Return the `wanted` arrays of an .npz file; pickled objects are never loaded, other fields not read.

    Raises:
        UserError: no regular file, no archive, a damaged one, or one that unpacks to far more than it holds.
    """
    place = files.place(path)
    found = files.kind(place)
    if found != files.FILE:
        raise checks.UserError(f"{setting}={path!r} is {found}; expected an .npz file with labels, names and images.")
    try:
        with files.opened(place) as stream:
            large = _large(stream, place, _members(stream, path))
            with np.load(stream, allow_pickle=False) as archive:
                present = tuple(archive.files)
                chosen = [name for name in present if name in set(wanted)]
                fields = {name: _array(archive[name], name) for name in chosen if name not in large}
                return Archive(path, fields, present, {name: large[name] for name in chosen if name in large})
    except checks.UserError:
        raise
    except _BROKEN as error:
        reason = str(error) or type(error).__name__
        raise checks.UserError(f"{path} cannot be read as an .npz without pickles: {reason}") from error


def _array(field: Any, name: str) -> NDArray[Any]:
    if not isinstance(field, np.ndarray):  # NumPy hands over the bytes of a member that is no array
        raise ValueError(f"{name} is no array")
    return field


def _large(stream: Any, place: Path, members: list[zipfile.ZipInfo]) -> dict[str, Stored]:
    """Return the arrays of bytes that stay in the file."""
    found = {member.filename.removesuffix(".npy"): stored(stream, place, member) for member in members}
    stream.seek(0)
    return {name: array for name, array in found.items() if array is not None}


def _members(stream: Any, path: str) -> list[zipfile.ZipInfo]:
    """Return what an .npz holds; refuse one that is none, has a field twice, or unpacks to far more than it holds."""
    if not zipfile.is_zipfile(stream):
        raise ValueError("it is no archive of arrays")
    stream.seek(0, 2)
    size = stream.tell()
    with zipfile.ZipFile(stream) as members:
        listed = members.infolist()
    names = [member.filename.removesuffix(".npy") for member in listed]  # as NumPy calls them
    if len(set(names)) < len(names):
        raise ValueError(f"it holds {next(name for name in names if names.count(name) > 1)} twice")
    unpacked = sum(member.file_size for member in listed)
    if unpacked > _BOMB_BYTES and unpacked > _BOMB_RATIO * size:
        raise checks.UserError(
            f"{path} of {size:,} bytes unpacks to {unpacked:,}: no set of faces shrinks like that. Save it with "
            "np.savez."
        )
    return listed
