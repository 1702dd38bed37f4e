"""What MLflow is told of a run in numbers: nothing constant as a series, no guarantee never as a number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fedveil.privacy import statements
from fedveil.tracking import measured

UNITS = ("image", "identity", "client")
EPSILONS = st.one_of(st.none(), st.floats(0.01, 1e4))


def claim(unit: str, epsilon: float | None) -> dict[str, Any]:
    return {
        "unit": unit, "relation": "replace-one", "view": "all of it", "epsilon": epsilon,
        "delta": None if epsilon is None else 1e-6, "mechanism": "noise", "guarantee": "formal", "meaningful": True,
        "assumptions": [], "not_covered": [],
    }  # fmt: skip


def entry(number: int, claims: list[dict[str, Any]], sent: float = 10.0) -> dict[str, Any]:
    found = {"accuracy": 0.5 + number / 100, "eer": 0.4, "tar": {"0.01": 0.25, "0.001": {"omitted": "too few"}}}
    return {"round": number, "statements": claims, "bytes_expected": sent, "seconds": 2.0, **found}


def result(rounds: list[dict[str, Any]], claims: list[dict[str, Any]]) -> dict[str, Any]:
    final = {"accuracy": 0.75, "fold_sd": 0.01, "draw_sd": None, "eer": 0.3, "auc": 0.8, "tar": {"0.01": 0.5}}
    return {"rounds": rounds, "final": final, "statements": claims, "wall_seconds": 9.0}


def told(found: Mapping[str, Any], timed: bool = True) -> dict[str, dict[int, float]]:
    """Return metric -> step -> value, as a store keeps it after a whole run."""
    kept: dict[str, dict[int, float]] = {}
    rounds = found["rounds"]
    steps = [measured.of_round(one, rounds[number - 1] if number else None) for number, one in enumerate(rounds)]
    for told_then in [*steps, measured.final(found, timed)]:
        for step, numbers in told_then.items():
            for name, value in numbers.items():
                kept.setdefault(name, {})[step] = value
    return kept


def shown(found: Mapping[str, Any]) -> dict[str, float]:
    """Return what a table shows: the value at the last step."""
    return {name: points[max(points)] for name, points in told(found).items()}


@given(st.lists(st.tuples(st.sampled_from(UNITS), EPSILONS), max_size=6))
def test_the_largest_epsilon_of_a_unit_counts_and_one_without_a_guarantee_leaves_no_number(
    claims: list[tuple[str, float | None]],
) -> None:
    found = measured.epsilons([claim(unit, epsilon) for unit, epsilon in claims])
    for unit in UNITS:
        own = [epsilon for name, epsilon in claims if name == unit]
        finite = [epsilon for epsilon in own if epsilon is not None]
        expected = {f"epsilon_{unit}": max(finite)} if own and len(finite) == len(own) else {}
        assert {name: value for name, value in found.items() if name == f"epsilon_{unit}"} == expected


def test_what_is_constant_is_one_point_and_what_changes_is_a_series_that_the_final_evaluation_ends() -> None:
    rounds = [entry(number, [claim("image", 8.0), claim("client", 1.0 + number)]) for number in (1, 2, 3)]
    kept = told(result(rounds, [claim("image", 8.0), claim("client", 3.9)]))
    assert kept["epsilon_image"] == {0: 8.0}
    assert kept["bytes_expected"] == {0: 10.0}
    assert kept["epsilon_client"] == {1: 2.0, 2: 3.0, 3: 4.0, 4: 3.9}  # the final accountant is finer
    assert kept["accuracy"] == {1: 0.51, 2: 0.52, 3: 0.53, 4: 0.75}
    assert kept["tar_at_far_0.01"][4] == 0.5
    assert {name for name, points in kept.items() if {*points} == {0}} == {
        "accuracy_fold_sd", "auc", "bytes_expected", "epsilon_image", "wall_seconds"
    }  # fmt: skip
    assert "tar_at_far_0.001" not in kept


@given(st.lists(EPSILONS, min_size=1, max_size=5))
def test_a_table_shows_the_last_claim_and_a_series_is_what_every_round_claimed(spent: list[float | None]) -> None:
    """Whatever the order: the oracle is the list itself, told whole."""
    rounds = [entry(number, [claim("client", epsilon)]) for number, epsilon in enumerate(spent, 1)]
    kept = told(result(rounds, [claim("client", spent[-1])])).get("epsilon_client", {})
    if spent[-1] is None:
        assert max(kept, default=0) < len(spent)  # no number stands for the end of a run without a guarantee
        return
    assert kept[max(kept)] == spent[-1]
    if len({*spent}) == 1:
        assert [*kept] == [0]
    elif None not in spent:
        whole = dict(enumerate(spent, 1))
        assert all(whole[step] == value for step, value in kept.items() if 0 < step <= len(spent))
        changes = {n for n in range(2, len(spent) + 1) if whole[n] != whole[n - 1]}
        assert {*kept} == changes | {n - 1 for n in changes} | {len(spent) + 1}


def test_no_duration_is_told_where_it_would_say_who_took_part() -> None:
    rounds = [{key: value for key, value in entry(1, []).items() if key != "seconds"}]
    assert not {"seconds", "wall_seconds"} & {*told(result(rounds, []), timed=False)}


def test_tags_hold_the_sentence_and_its_parts_of_the_statement_that_counts() -> None:
    claims = [claim("image", 8.0), claim("image", 9.0), claim("client", 2.0), claim("client", None)]
    tags = measured.tags(result([], claims))
    assert tags["epsilon_image"].startswith("image: epsilon = 9 at delta = 1e-06 (replace-one)")
    assert "no formal guarantee" in tags["epsilon_client"]
    parts = {name: tags[f"epsilon_image.{name}"] for name in ("delta", "relation", "view")}
    assert parts == {"delta": "1e-06", "relation": "replace-one", "view": "all of it"}
    assert tags["epsilon_client.delta"] == "none"
    assert not [name for name in tags if name.startswith("epsilon_identity")]
    assert {*shown(result([], claims))} & {f"epsilon_{unit}" for unit in statements.UNITS} == {"epsilon_image"}
