"""Choosing a recipe: random settings at epsilon 8 on LFW's development split, the best ones again with other seeds.

Nothing is chosen on the pairs that are reported: these are View 2, the choice sees View 1 alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

FINALISTS, SEEDS = 6, (1, 2, 3)
DEVELOPMENT = {"data.view": "1"}
CHOICES: dict[str, Sequence[str]] = {
    "train.trainable": ("all", "embed.*", "embed.*", "units.1.*,embed.*", "units.1.*"),
    "train.rounds": ("5", "8", "12"),
    "train.warm_steps": ("150", "300"),
    "train.average": ("0.0", "0.5", "0.7"),
    "aggregation.momentum": ("0.0", "0.5"),
    "privacy.UNIT.clipping": ("whole", "automatic"),
    "privacy.UNIT.noise_end": ("1.0", "2.0", "4.0"),
    "privacy.UNIT.rows": ("32", "64", "128"),
}
RANGES: dict[str, tuple[float, float]] = {"train.lr": (3.0, 100.0), "train.head_lr": (5.0, 60.0)}
"""Drawn evenly in their logarithms."""


def drawn(number: int) -> dict[str, str]:
    """Return the settings of draw `number`, from 0, the same on every machine."""
    rng = np.random.default_rng([26, number])
    found = {name: str(values[rng.integers(len(values))]) for name, values in CHOICES.items()}
    for name, (low, high) in RANGES.items():
        found[name] = f"{math.exp(rng.uniform(math.log(low), math.log(high))):.3g}"
    return found


def finalists(done: Sequence[dict[str, Any]], unit: str) -> list[dict[str, str]]:
    """Return the settings of a unit with the largest AUC with the first seed, best first."""
    own = [entry for entry in done if entry["unit"] == unit and entry["seed"] == SEEDS[0]]
    return [entry["chosen"] for entry in sorted(own, key=lambda one: -one["auc"])[:FINALISTS]]


def best(done: Sequence[dict[str, Any]], unit: str) -> dict[str, str] | None:
    """Return a unit's settings with the largest mean AUC among those that have every seed; None before that."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in done:
        if entry["unit"] == unit:
            groups.setdefault(str(sorted(entry["chosen"].items())), []).append(entry)
    whole = [group for group in groups.values() if {entry["seed"] for entry in group} >= set(SEEDS)]
    if not whole:
        return None
    winner = max(whole, key=lambda group: float(np.mean([entry["auc"] for entry in group])))
    return dict(winner[0]["chosen"])
