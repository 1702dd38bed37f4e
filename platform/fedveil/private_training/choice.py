"""Engines by name (one file is one engine, and the file's name is the engine's), and the choice among them."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

import fedveil.private_training
from fedveil import checks
from fedveil.private_training import _recording, _sizes, base
from fedveil.private_training._shares import Book
from fedveil.private_training.book_keeping import FEWEST, BookKeeping, default_rows
from fedveil.private_training.loop import Loop

_OTHERS = ("base", "choice", "classifier")
_MIB = 2**20


def names() -> list[str]:
    """Return the engines' names.

    >>> names()
    ['auto', 'book_keeping', 'loop', 'low_memory', 'opacus_ghost', 'opacus_hooks']
    """
    found = (module.name for module in pkgutil.iter_modules(fedveil.private_training.__path__))
    return sorted(name for name in found if name not in _OTHERS and not name.startswith("_"))


def engine(name: str, **settings: Any) -> base.Engine:
    """Return the engine of this name; its settings are the fields of the class in its file.

    Raises:
        fedveil.checks.UserError: an unknown name, with the nearest one.
    """
    checks.one_of(names(), engine=name)
    kind = importlib.import_module(f"{fedveil.private_training.__name__}.{name}").METHOD
    return cast(base.Engine, kind(**settings))


@dataclasses.dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        name: of the engine.
        engine: itself.
        needs: bytes that a step is expected to need beside the network.
        words: name, reason and memory in a sentence, which describes shapes and the machine, no image.
    """

    name: str
    engine: base.Engine
    needs: int
    words: str


def needs(name: str, network: nn.Module, batch: base.Batch, tensors: Sequence[nn.Parameter]) -> int:
    """Return the bytes that an engine, as `engine(name)` builds it, is expected to need beside the network.

    An estimate from shapes: activations kept for the backward pass, the maps in flight, gradients that are made and
    the sums; on a processor with what its allocator leaves as holes and the libraries take for themselves.
    """
    sizes, rows = _sizes.measured(network, batch.inputs[:1], tensors), len(batch.unit)
    most = {
        "auto": lambda: choose(network, batch, tensors).needs,
        "low_memory": lambda: choose(network, batch, tensors, sizes.low(rows)).needs,
        "loop": lambda: sizes.loop(min(rows, Loop().rows, _longest(batch))),
        "book_keeping": lambda: sizes.book_keeping(min(rows, default_rows(network, batch, tensors)), rows),
        "opacus_hooks": lambda: sizes.hooks(rows),
        "opacus_ghost": lambda: sizes.ghost(rows),
    }
    checks.one_of(most, engine=name)
    return most[name]()


def choose(network: nn.Module, batch: base.Batch, tensors: Sequence[nn.Parameter], memory: int | None = None) -> Choice:
    """Return the fastest engine that fits, and say why in words.

    Book-keeping where every trained module has a rule: whole, or in parts of fewer rows until it fits. Otherwise the
    loop over units, which has the least memory of all; it is the answer, too, when nothing fits.

    Args:
        network: see `base.Engine`.
        batch: only its shapes are read, and how its rows are dealt to units.
        tensors: see `base.Engine`.
        memory: bytes that a step may need beside the network; None: half of what is free now.
    """
    base.checked(network, tensors)
    room = _free(batch.inputs.device) // 2 if memory is None else memory
    sizes, count = _sizes.measured(network, batch.inputs[:1], tensors), max(1, len(batch.unit))
    of = f"of {room // _MIB} MiB"
    alone = sizes.loop(min(Loop().rows, _longest(batch)))
    by_units = Choice("loop", Loop(), alone, "")
    try:
        _recording.entries(network, tensors, Book())
    except checks.UserError as error:
        return dataclasses.replace(by_units, words=f"the loop over units, {_mib(alone)} {of}: {error}")
    rows = min(count, default_rows(network, batch, tensors))
    fewest = min(count, max(FEWEST, _longest(batch)))  # with fewer rows the loop is as fast, and needs less
    while (found := sizes.book_keeping(rows, count)) > room and rows > fewest:
        rows = max(fewest, rows // 2)
    if found <= room:
        words = f"book-keeping in parts of {rows} rows, {_mib(found)} {of}: the fastest that fits"
        return Choice("book_keeping", BookKeeping(rows), found, words)
    words = f"the loop over units, {_mib(alone)} {of}: book-keeping would need {_mib(found)}"
    return dataclasses.replace(by_units, words=words)


def _mib(size: int) -> str:
    return f"{-(-size // _MIB)} MiB"


def _longest(batch: base.Batch) -> int:
    """Return the rows of the unit that has most."""
    return int(torch.bincount(batch.unit).max()) if len(batch.unit) else 1


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + cached)
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux
        return 2 * 2**30
