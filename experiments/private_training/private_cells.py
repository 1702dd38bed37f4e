"""One cell of the study: a federation trained by private steps and evaluated, in this process, without Flower.

The loop is that of `experiments/recipe/cells.py`.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cells
import torch

from fedveil.federation import claims, graphs
from fedveil.federation.federation import Federation
from fedveil.privacy.accounting.pld import FINAL_GRID


def trained(words: Sequence[str]) -> dict[str, Any]:
    """Train one configuration and return what its public pairs say of start and end, what is proven, and its time.

    Args:
        words: the configuration, all but where things are kept.
    """
    torch.set_num_threads(1)
    begun, spent = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory(prefix="fedveil-", dir=os.environ.get("FEDVEIL_SCRATCH")) as scratch:
        kept = [f"runs.root={Path(scratch) / 'runs'}", f"vault.root={Path(scratch) / 'vault'}"]
        federation = Federation.of([*words, *kept])
        with cells.opened(federation) as session:
            before = cells.evaluated(session, session.start.tensors, flip=True)
            after = cells.evaluated(session, cells.federated(session), flip=True)
            found = _proven(session.claims(FINAL_GRID).statements, federation)
        numbers = sum(int(session.start.tensors[name].size) for name in session.plan.allowed)
        graphs.forget()
    return {
        **after, **{f"start_{name}": value for name, value in before.items()}, **found,
        "images": len(federation.split.train), "rounds": federation.total_rounds, "numbers": numbers,
        "device": federation.place.name, "seconds": time.perf_counter() - begun,
        "cpu_seconds": time.process_time() - spent,
    }  # fmt: skip


def _proven(statements: Sequence[Any], federation: Federation) -> dict[str, Any]:
    """Return the statement of private steps as the run's ledger supports it; no epsilon without a guarantee."""
    budget = federation.private
    if budget is None:
        return {"proven": None, "delta": None, "noise": None}
    own = [one for one in statements if one.unit == budget.unit and one.relation == "zero-out"]
    proven = own[0].epsilon if own else claims.claimed(budget.unit, statements)[0]
    return {"proven": proven, "delta": budget.delta, "noise": budget.noise_multiplier}
