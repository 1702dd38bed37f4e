"""What stands beside a leak is of the attack that leaked most: attacks have ceilings of their own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fedveil.commands.sweep import leakage


def finding(attack: str, value: float | None, ceiling: float) -> dict[str, Any]:
    measure = {"name": "linked", "value": value, "said": "", "floor": 0.01, "ceiling": ceiling, "mean_face": 0.02}
    return {"attack": attack, "measures": [measure]}


def test_clean_pictures_are_those_of_the_strongest_attack() -> None:
    outcomes: Any = [
        SimpleNamespace(findings={"a": finding("linear", 0.75, 0.8), "b": finding("distillation", 0.3, 0.4)}),
        SimpleNamespace(findings={"a": finding("linear", 0.0, 0.8), "b": finding("distillation", 0.2, 0.4)}),
        SimpleNamespace(findings={"a": finding("linear", None, 0.1)}),
        SimpleNamespace(findings={}),
    ]
    assert leakage._beside(outcomes, "linked", "ceiling") == (0.8 + 0.4) / 2
    assert leakage._beside(outcomes, "rank1", "ceiling") is None
