"""The public ids of a packed file's pictures: checked once, and made when asked for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedveil.data import names
from fedveil.data.archive import Archive

_AT_ONCE = 4096  # values


class Called(Sequence[str]):
    """The pictures' public ids, made when asked for: of a million, none is kept."""

    def __init__(self, labels: NDArray[np.int64], people: Sequence[str], own: Sequence[str] | None) -> None:
        self._labels, self._people, self._own = labels, people, own

    def __len__(self) -> int:
        return int(self._labels.size)

    def __getitem__(self, index: Any) -> Any:
        own = f"position {index}" if self._own is None else self._own[index]
        return f"{self._people[self._labels[index]]}/{own}"

    def __iter__(self) -> Iterator[str]:
        own = (f"position {index}" for index in range(len(self))) if self._own is None else self._own
        return (f"{self._people[label]}/{name}" for label, name in zip(_items(self._labels), own, strict=True))


class _Words(Sequence[str]):
    """A checked field of words, which NumPy keeps in less memory than Python's text."""

    def __init__(self, field: NDArray[Any]) -> None:
        self._field = field

    def __len__(self) -> int:
        return len(self._field)

    def __getitem__(self, index: Any) -> Any:
        return _text(self._field[index])

    def __iter__(self) -> Iterator[str]:
        return map(_text, _items(self._field))


def _text(word: Any) -> str:
    return word.decode() if isinstance(word, bytes) else str(word)


def _items(array: NDArray[Any]) -> Iterator[Any]:
    """Iterate over an array as Python's own values, of which few are in memory."""
    return itertools.chain.from_iterable(array[at : at + _AT_ONCE].tolist() for at in range(0, len(array), _AT_ONCE))


def _odd(archive: Archive, count: int) -> int:
    """Return how many of `files` are empty or cannot be printed; plain ASCII is seen without a look at each."""
    field = archive.fields["files"]
    if field.dtype.kind == "S" and field.ndim == 1 and field.size == count and field.itemsize:
        signs = np.ascontiguousarray(field).view(np.uint8).reshape(count, -1)
        plain = ((signs >= 0x20) & (signs < 0x7F)) | (signs == 0)
        if plain.all() and signs[:, 0].all() and not ((signs[:, :-1] == 0) & (signs[:, 1:] != 0)).any():
            return 0
    return sum(not file.isprintable() or not file for file in archive.words("files", count))


def records_of(
    archive: Archive, labels: NDArray[np.int64], people: Sequence[str]
) -> tuple[Sequence[str], tuple[str, ...]]:
    """Return the pictures' public ids and what is to be said of them; one unusable file name makes all positions."""
    if "files" not in archive:
        return Called(labels, people, None), ()
    odd = _odd(archive, labels.size)
    named = Called(labels, people, _Words(archive.fields["files"]))
    may = [named[place] for place in names.candidates(map(names.key, named), len(named))]
    twice = len(may) - len(set(may))
    if twice or odd:
        note = f"{twice} file names are not one picture's and {odd} cannot be printed: positions name them"
        return Called(labels, people, None), (note,)
    return named, names.alike(may)
