"""Values that cross borders between the two sides and the observers; frozen, with shapes and units."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Tensors = Mapping[str, NDArray[np.float32]]
"""The allow-listed tensors of a backbone by name."""


@dataclasses.dataclass(frozen=True)
class Update:
    """One client's contribution: local minus global of the allow-listed tensors, nothing else.

    Attributes:
        client_id: the registry id.
        tensors: name -> float32 difference, of the global tensor's shape.
    """

    client_id: str
    tensors: Tensors


@dataclasses.dataclass(frozen=True)
class Failure:
    """A client that gave nothing: it counts as a zero update, and the reason goes to the operator's log only.

    Attributes:
        client_id: the registry id.
        reason: for people.
        kind: it was not asked (excluded at the roll call, or not connected), its owner refused, it answered too late or
            not at all, or something went wrong.
    """

    client_id: str
    reason: str
    kind: Literal["excluded", "refused", "late", "failed"] = "failed"


@dataclasses.dataclass(frozen=True)
class RoundReport:
    """What observers are told after a round.

    Attributes:
        round: 1-based number of the finished round.
        rounds: how many the run has.
        tensors: the new global tensors.
        optimiser: the server optimiser's tensors, for the checkpoint.
        cohort: clients asked; operator's log only.
        failures: what went wrong; operator's log only.
        seconds: wall time of the round's training.
        bytes_expected: expected bytes both ways, from public constants.
        memory: released numbers that the next round starts from, such as the clipping norm.
    """

    round: int
    rounds: int
    tensors: Tensors
    optimiser: Tensors
    cohort: int
    failures: tuple[Failure, ...]
    seconds: float
    bytes_expected: float
    memory: Mapping[str, float] = dataclasses.field(default_factory=dict)


def model_sha256(tensors: Tensors) -> str:
    """Return a SHA-256 over names, shapes and little-endian float32 bytes, in sorted order of names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name], dtype="<f4")
        digest.update(f"{name}\x1f{array.shape}\x1f".encode())
        digest.update(array.reshape(-1))  # type: ignore[arg-type]  # a buffer: no copy is made
    return digest.hexdigest()


def plain(value: Any) -> Any:
    """Return `value` with NumPy scalars and arrays as plain JSON types; NaN and infinities become None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
