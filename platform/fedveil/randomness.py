"""Three kinds of randomness, never mixed: public seeds, the secret stream, memo keys.

* A **public seed** drives initialisation, data generation, partition and evaluation pairs; it is logged. Every draw is
  derived from (seed, purpose, indices), never from process state, so scheduling cannot change a result.
* A **secret key** comes from the operating system and is expanded by ChaCha20 (RFC 8439), one independent stream per
  purpose; it is never stored or logged. An owner's memo key is a secret key kept in the owner's vault.
* A **test seed** replaces secret keys by derived ones, so that runs repeat exactly; such a run is NOT PRIVATE.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

KEY_BYTES = 32
_ZERO_NONCE = bytes(16)
_MAX_STREAM_BYTES = 2**32 * 64  # ChaCha20's 32-bit block counter must not wrap


def derive_seed(seed: int, *labels: str | int) -> int:
    """Return a 63-bit seed for one purpose, e.g. `derive_seed(1, "batches", round, client)`.

    >>> derive_seed(1, "a", 2) == derive_seed(1, "a", 2), derive_seed(1, "a", 2) == derive_seed(1, "a2")
    (True, False)
    """
    text = "\x1f".join([f"i{seed}", *(f"{type(label).__name__[0]}{label}" for label in labels)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def public_rng(seed: int, *labels: str | int) -> np.random.Generator:
    """Return a NumPy generator for one *public* purpose; never use it for noise that protects anyone."""
    return np.random.default_rng(derive_seed(seed, *labels))


def public_torch(seed: int, *labels: str | int) -> torch.Generator:
    """Return a torch CPU generator for one *public* purpose; never use it for noise that protects anyone."""
    return torch.Generator().manual_seed(derive_seed(seed, *labels))


def os_key() -> bytes:
    """Return 32 fresh secret bytes from the operating system."""
    return os.urandom(KEY_BYTES)


def test_key(test_seed: int, *labels: str | int) -> bytes:
    """Return a derived key for a run labelled NOT PRIVATE (`privacy.test_seed`)."""
    return subkey(hashlib.sha256(f"fedveil test seed {test_seed}".encode()).digest(), *labels)


test_key.__test__ = False  # type: ignore[attr-defined]  # pytest must not collect it


def subkey(key: bytes, *labels: str | int | bytes) -> bytes:
    """Return HMAC-SHA256 of length-prefixed labels under `key`: independent keys for independent purposes."""
    return hmac.digest(key, b"".join(map(_prefixed, labels)), "sha256")


def subkeys(
    key: bytes, labels: Iterable[str | int | bytes], *, before: Sequence[str | int | bytes] = (),
    after: Sequence[str | int | bytes] = (),
) -> list[bytes]:  # fmt: skip
    """Return `subkey(key, *before, label, *after)` for each label, in a third of the time.

    >>> subkeys(bytes(32), ["a", b"b"], before=["x"], after=[2]) == [
    ...     subkey(bytes(32), "x", label, 2) for label in ("a", b"b")]
    True
    """
    first, last = (b"".join(map(_prefixed, part)) for part in (before, after))
    return [hmac.digest(key, first + _prefixed(label) + last, "sha256") for label in labels]


def _prefixed(label: str | int | bytes) -> bytes:
    data = label if isinstance(label, bytes) else f"{type(label).__name__[0]}{label}".encode()
    return len(data).to_bytes(8, "big") + data


class SecretStream:
    """A cryptographic stream of uniform numbers under one 32-byte key; draws continue where the last ended.

    Two streams with different keys are independent; one key must serve one purpose only (one image under one
    mechanism, or one round's noise), because the same key gives the same draws.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"Expected a key of {KEY_BYTES} bytes, got {len(key)}.")
        self._stream = Cipher(ChaCha20(key, _ZERO_NONCE), mode=None).encryptor()
        self._used = 0

    def words(self, count: int) -> NDArray[np.uint64]:
        """Return `count` independent uniform 64-bit words."""
        self._used += 8 * count
        if self._used > _MAX_STREAM_BYTES:
            raise RuntimeError("A secret stream is exhausted after 256 GiB; derive a new key.")
        return np.frombuffer(self._stream.update(bytes(8 * count)), dtype="<u8")

    def uniform(self, count: int) -> NDArray[np.float64]:
        """Return `count` independent numbers in (0, 1): (k + 1/2) / 2^52 with k uniform, so never 0 and never 1."""
        words = self.words(count)
        return ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
