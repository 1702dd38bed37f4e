"""A file under a passphrase: a stream of authenticated pieces that is read whole or refused.

The key is scrypt's of the passphrase and a fresh salt (RFC 7914), so one key seals one file. Pieces of a mebibyte go
through ChaCha20-Poly1305 (RFC 8439) with the number of the piece as nonce and a mark on the last one, as in the STREAM
construction (Hoang, Reyhanitabar, Rogaway and Vizar 2015, https://eprint.iacr.org/2015/189): none can be dropped,
moved or added, at the end neither.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from fedveil import checks

_MAGIC = b"fedveil sealed 1 "
_COST = 1 << 17  # scrypt's n: 128 MiB and about half a second
_DEAREST = 1 << 20  # of a file that asks for more, nothing is read: it would fill the memory
_PIECE, _TAG = 1 << 20, 16  # bytes
_LINE = 300  # bytes of the first line at most


class Sealing:
    """Seals what is written to it; the file is whole after `close`."""

    def __init__(self, stream: BinaryIO, passphrase: str) -> None:
        salt = os.urandom(16)
        about = {"kdf": "scrypt", "n": _COST, "r": 8, "p": 1, "salt": salt.hex()}
        self._head = _MAGIC + json.dumps(about).encode() + b"\n"
        self._cipher, self._stream = ChaCha20Poly1305(_key(passphrase, salt, _COST)), stream
        self._number, self._waiting = 0, bytearray()
        stream.write(self._head)

    def write(self, data: bytes) -> int:
        """Take some bytes."""
        self._waiting += data
        while len(self._waiting) > _PIECE:  # the last piece is never empty unless all is
            self._put(bytes(self._waiting[:_PIECE]), last=False)
            del self._waiting[:_PIECE]
        return len(data)

    def close(self) -> None:
        """Write the last piece."""
        self._put(bytes(self._waiting), last=True)

    def _put(self, piece: bytes, last: bool) -> None:
        self._stream.write(self._cipher.encrypt(_nonce(self._number, last), piece, self._head))
        self._number += 1


class Opening:
    """Reads what `Sealing` wrote; nothing of a piece is handed out before it has been checked.

    Raises:
        fedveil.checks.UserError: from the start or from `read`: another kind of file, a wrong passphrase, or one that
            is damaged or cut.
    """

    def __init__(self, stream: BinaryIO, passphrase: str, path: Path) -> None:
        self._stream, self._path = stream, path
        self._head = stream.readline(_LINE)
        try:
            if not self._head.startswith(_MAGIC) or not self._head.endswith(b"\n"):
                raise ValueError("it does not begin like one")
            about = json.loads(self._head[len(_MAGIC) :])
            salt, cost = bytes.fromhex(about["salt"]), about["n"]
            if about != {"kdf": "scrypt", "n": cost, "r": 8, "p": 1, "salt": salt.hex()}:
                raise ValueError("its first line is of another kind")
            if not isinstance(cost, int) or not 2 <= cost <= _DEAREST or cost & (cost - 1):
                raise ValueError("its scrypt cost is absurd")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise checks.UserError(f"{path} is no sealed file of fedveil: {error}.") from error
        self._cipher = ChaCha20Poly1305(_key(passphrase, salt, cost))
        self._number, self._ready, self._next = 0, bytearray(), stream.read(_PIECE + _TAG)
        self._done = False

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, fewer at the end."""
        while not self._done and (size < 0 or len(self._ready) < size):
            self._piece()
        size = len(self._ready) if size < 0 else size
        found = bytes(self._ready[:size])
        del self._ready[:size]
        return found

    def _piece(self) -> None:
        piece, self._next = self._next, self._stream.read(_PIECE + _TAG)
        self._done = not self._next
        try:
            self._ready += self._cipher.decrypt(_nonce(self._number, self._done), piece, self._head)
        except InvalidTag as error:
            raise checks.UserError(
                f"{self._path} cannot be opened: the passphrase is another one, or the file is damaged or cut."
            ) from error
        self._number += 1


def _nonce(number: int, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def _key(passphrase: str, salt: bytes, cost: int) -> bytes:
    return Scrypt(salt=salt, length=32, n=cost, r=8, p=1).derive(passphrase.encode("utf-8", "surrogateescape"))
