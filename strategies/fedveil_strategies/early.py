"""Updates that come before their turn wait on disk, not in memory, and nobody can read them there.

The sum has one order, the registry's, so whoever is slow holds up the others' updates: a hundred models, perhaps, where
the coordinator has memory for one. They wait in a file without a name, which ends with the process, and enciphered
(ChaCha20, RFC 8439) under a key of this round that is in this process's memory alone: what a disk keeps of it tells
nobody anything. An update whose turn it is when it comes is never written (`rounds.ordered`).
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

from fedveil import randomness
from fedveil.records import Failure, Tensors, Update

_PART = 1 << 20  # bytes that are enciphered at once


class Shelf:
    """The answers of one round that wait: updates of the same shapes on disk, failures in memory.

    Where the disk has no room, updates wait in memory too: a round is worth more than its bound.

    Args:
        folder: on whose disk.
        shapes: name -> shape of an update's float32 tensors.
    """

    def __init__(self, folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._folder, self._shapes = folder, shapes
        self._file: IO[bytes] | None = None
        self._key = randomness.os_key()
        self._held: dict[str, Update | Failure] = {}
        self._places: dict[str, tuple[int, int]] = {}  # client -> where its update begins, and its nonce
        self._free: list[int] = []  # where an update can lie
        self._size = 4 * sum(int(np.prod(shape)) for shape in shapes.values())
        self._written = 0

    def __contains__(self, client: object) -> bool:
        return client in self._held or client in self._places

    def __setitem__(self, client: str, answer: Update | Failure) -> None:
        """Keep a client's answer."""
        if isinstance(answer, Failure):
            self._held[client] = answer
            return
        try:
            self._put(client, answer.tensors)
        except OSError:
            self._held[client] = answer
            self._shorten()

    def pop(self, client: str) -> Update | Failure:
        """Give a kept answer back; its place is free again."""
        if client in self._held:
            return self._held.pop(client)
        try:
            return Update(client, self._take(client))
        except OSError as error:
            return Failure(client, f"its update could not be read back from {self._folder}: {error}")

    def close(self) -> None:
        """Give the disk's room back."""
        if self._file is not None:
            self._file.close()

    def _put(self, client: str, tensors: Tensors) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115  # `close` closes it
        begin = self._free[-1] if self._free else self._size * len(self._places)
        self._written += 1  # a key stream is used once, whether or not the update is written whole
        cipher = self._cipher(self._written)
        self._file.seek(begin)
        for name in self._shapes:
            for part in _parts(np.ascontiguousarray(tensors[name])):
                left = memoryview(cipher.update(part))
                while left:
                    left = left[self._file.write(left) :]
        self._places[client] = (begin, self._written)
        self._free = self._free[:-1]

    def _shorten(self) -> None:
        """Give back what an update without room has taken: others on this disk, a SuperLink, need the last of it."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.truncate(self._size * (len(self._places) + len(self._free)))

    def _take(self, client: str) -> Tensors:
        assert self._file is not None  # it was put there
        begin, number = self._places.pop(client)
        self._free.append(begin)
        cipher = self._cipher(number)
        self._file.seek(begin)
        found: dict[str, NDArray[np.float32]] = {}
        for name, shape in self._shapes.items():
            found[name] = np.empty(shape, np.float32)
            for part in _parts(found[name]):
                done = 0
                while done < len(part):
                    read = self._file.read(min(_PART, len(part) - done))
                    if not read:
                        raise OSError("it ends too soon")
                    part[done : done + len(read)] = cipher.update(read)
                    done += len(read)
        return found

    def _cipher(self, number: int) -> Any:
        nonce = bytes(4) + number.to_bytes(12, "little")  # blocks are counted from 0; each update has its own number
        return Cipher(ChaCha20(self._key, nonce), mode=None).encryptor()


def _parts(values: NDArray[np.float32]) -> Iterator[memoryview]:
    """Yield an array's bytes, part by part, in its place."""
    whole = values.reshape(-1).view(np.uint8).data
    for start in range(0, len(whole), _PART):
        yield whole[start : start + _PART]
