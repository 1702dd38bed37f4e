"""What a coordinator sent, checked before anything is done with it: instruction, protection's state, tensors."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message
from numpy.typing import NDArray

import fedveil
from fedveil.federation import instruction, packed, variates
from fedveil.federation.federation import Federation
from fedveil.federation.instruction import BadInstruction
from fedveil.records import Tensors, model_sha256


@dataclasses.dataclass(frozen=True)
class Instruction:
    """What is asked: of which run, and in which round (0 at the roll call)."""

    run: Federation
    run_id: str
    round: int = 0


class Content:
    """An array record, hashable by its content: a thousand clients of one process check and unpack it once.

    Values that were handed over on this machine are the same to every client of a round. Where rounds share them, too
    (`lasting`), they are known by a hash, which is taken once.
    """

    def __init__(self, record: ArrayRecord, lasting: bool = False) -> None:
        self.arrays = dict(record.items())
        self._id = tuple((name, *_mark(array, lasting)) for name, array in sorted(self.arrays.items()))

    def __hash__(self) -> int:
        return hash(self._id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Content) and self._id == other._id


class _Same:
    """Values, equal to themselves alone."""

    def __init__(self, values: NDArray[Any]) -> None:
        self.values = values

    def __hash__(self) -> int:
        return id(self.values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.values is other.values


def _mark(array: packed.Packed, lasting: bool) -> tuple[Any, ...]:
    if not isinstance(array, packed.Held):
        return array.stype, array.data
    return ("values", _digest(_Same(array.values))) if lasting else ("values", _Same(array.values))


@functools.lru_cache(maxsize=64)
def _digest(given: _Same) -> bytes:
    values = np.ascontiguousarray(given.values)
    found = hashlib.sha256(f"{values.dtype}\x1f{values.shape}\x1f".encode())
    found.update(values.reshape(-1))  # type: ignore[arg-type]  # a buffer: no copy is made
    return found.digest()


def records(message: Message, wanted: Collection[str]) -> dict[str, ArrayRecord | ConfigRecord]:
    """Return a message's records; others than the wanted ones are refused."""
    if not message.has_content():
        raise BadInstruction("Expected a message with content.")
    found = {str(name): record for name, record in message.content.items()}
    if set(found) != set(wanted):
        raise BadInstruction(f"Expected the records {sorted(wanted)}, got {sorted(name[:40] for name in found)[:9]}.")
    for name, record in found.items():
        kind = ConfigRecord if name == "instruction" else ArrayRecord
        if not isinstance(record, kind):
            raise BadInstruction(f"Expected record {name} as {kind.__name__}, got {type(record).__name__}.")
    return found  # type: ignore[return-value]  # by the loop above


def instruction_of(record: ArrayRecord | ConfigRecord, training: bool) -> Instruction:
    """Return a checked instruction.

    Raises:
        BadInstruction: of another version, with other keys, a configuration that cannot be followed, a run id that
            would be a path, a round that the schedule does not have.
    """
    keys = {"config", "run_id", "version"} | ({"round"} if training else set())
    given = dict(record.items())
    version = given.get("version")
    if version != fedveil.__version__:
        shown = repr(version)[:40]
        raise BadInstruction(
            f"This node runs fedveil {fedveil.__version__}, the coordinator {shown}; install equal versions."
        )
    if set(given) != keys:
        raise BadInstruction(f"Expected an instruction with {sorted(keys)}, got {sorted(given)[:9]}.")
    run = instruction.from_wire(given["config"])
    run_id = instruction.plain_name(given["run_id"], "run_id")
    return Instruction(run, run_id, instruction.round_of(run, given["round"]) if training else 0)


@functools.lru_cache(maxsize=2)
def state_of(run: Federation, content: Content) -> dict[str, torch.Tensor]:
    """Return the protection's public state, which its own check accepts; a process unpacks one state once."""
    state = {name: torch.from_numpy(array) for name, array in packed.state(content.arrays).items()}
    run.protection.check_state(state, run.size)
    return state


@functools.lru_cache(maxsize=1)
def tensors_of(run: Federation, number: int, state: Content, content: Content) -> tuple[Tensors, str]:
    """Return the global tensors, exactly those of the round's network and finite, and a hash of all that was sent.

    An update is a function of all of it, and of nothing else that a coordinator chooses: configuration, state, stage,
    round and tensors.
    """
    stage = run.stage_of(number).index
    found = packed.tensors(content.arrays, _shapes(run, stage, state))
    for array in found.values():
        array.flags.writeable = False  # clients share them
    sent = [instruction.digest(run), model_sha256(packed.state(state.arrays)), stage, number, model_sha256(found)]
    return found, hashlib.sha256(json.dumps(sent).encode()).hexdigest()


@functools.lru_cache(maxsize=2)
def _shapes(run: Federation, stage: int, state: Content) -> dict[str, tuple[int, ...]]:
    network = run.network(run.stages[stage], state_of(run, state))
    shapes = {name: tuple(tensor.shape) for name, tensor in network.named_parameters()}
    allowed = run.trainable(list(shapes), run.stages[stage])
    return {**shapes, **{variate: shapes[name] for name, variate in variates.of(run.settings, allowed)}}
