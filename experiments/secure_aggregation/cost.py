"""What the cryptographic parts of a sound secure sum would cost: seconds of the processor, one thread, least of seven.

Masks are made in pieces that fit a cache and added as they come, as an owner would. The arithmetic of shares is that of
Shamir over the prime 2^521 - 1, for its price alone: it is no implementation to use.
"""

from __future__ import annotations

import argparse
import secrets
import time
from collections.abc import Callable

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from fedveil.privacy import exact
from fedveil.randomness import SecretStream

PIECE = 1 << 20  # bytes
PRIME = 2**521 - 1
REPEATS = 100  # of what takes microseconds


def least(work: Callable[[], object], times: int = 7) -> float:
    """Return the least seconds of some tries."""
    found = []
    for _ in range(times):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return min(found)


def masking(keystream: Callable[[], CipherContext], total: np.ndarray) -> None:
    """Add a mask of one seed to a vector of unsigned integers, modulo their ring."""
    context, zeros, made = keystream(), bytes(PIECE), bytearray(PIECE + 64)
    step = PIECE // total.itemsize
    for start in range(0, total.size, step):
        part = total[start : start + step]
        context.update_into(zeros[: part.nbytes], made)
        part += np.frombuffer(made, total.dtype, part.size)


def aes() -> CipherContext:
    """Return a keystream of AES-256 in counter mode."""
    return Cipher(algorithms.AES(bytes(32)), modes.CTR(bytes(16))).encryptor()


def chacha() -> CipherContext:
    """Return a keystream of ChaCha20."""
    return Cipher(algorithms.ChaCha20(bytes(32), bytes(16)), None).encryptor()


def shares(threshold: int, count: int) -> None:
    """Split a secret and find it again from `threshold` of `count` shares."""
    polynomial = [secrets.randbelow(PRIME) for _ in range(threshold)]
    given = [
        (x, sum(a * pow(x, power, PRIME) for power, a in enumerate(polynomial)) % PRIME) for x in range(1, count + 1)
    ]
    found = 0
    for x, y in given[:threshold]:
        above = below = 1
        for other, _ in given[:threshold]:
            if other != x:
                above, below = above * -other % PRIME, below * (x - other) % PRIME
        found += y * above * pow(below, -1, PRIME)
    assert found % PRIME == polynomial[0]


def main() -> None:
    """Print a row a part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--numbers", type=int, default=24_000_000, help="of an update")
    numbers = parser.parse_args().numbers
    for bits in (64, 32):
        total = np.zeros(numbers, f"u{bits // 8}")
        for name, keystream in (("AES-256-CTR", aes), ("ChaCha20", chacha)):
            seconds = least(lambda k=keystream, t=total: masking(k, t))
            print(f"mask made and added, {name}, {bits} bits: {seconds:.3f} s")
    some, stream = numbers // 12, SecretStream(bytes(32))
    steps = np.full(some, 2**29)
    print(f"exact noise: {12 * least(lambda: exact.rounded('gaussian', stream, steps)):.2f} s (measured on a twelfth)")
    mine, theirs = X25519PrivateKey.generate(), X25519PrivateKey.generate().public_key()
    signer, message = Ed25519PrivateKey.generate(), bytes(1000)
    known, signed = signer.public_key(), signer.sign(message)
    parts: dict[str, Callable[[], object]] = {
        "X25519 agreement": lambda: mine.exchange(theirs),
        "Ed25519 signature": lambda: signer.sign(message),
        "its verification": lambda: known.verify(signed, message),
        "Shamir, 7 of 10, split and combined": lambda: shares(7, 10),
        "RandomState, a seed and four numbers": lambda: np.random.RandomState(1).randint(0, 2**32 - 1, 4, np.int64),
    }
    for name, work in parts.items():
        print(f"{name}: {least(lambda w=work: [w() for _ in range(REPEATS)]) / REPEATS * 1e6:.0f} microseconds")


if __name__ == "__main__":
    main()
