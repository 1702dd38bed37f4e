"""Learning rates over rounds: against published schedules and their defining properties."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fedveil import config
from fedveil.checks import UserError
from fedveil.configuration.recipe import Schedule
from fedveil.federation import rates
from fedveil.federation.schedule import Stage

KINDS = ("constant", "cosine", "steps")


def curve(schedule: Schedule, rounds: int, first: int = 1) -> list[float]:
    stage = Stage(0, "recogniser", first, first + rounds - 1)
    return [rates.factor(schedule, stage, number) for number in range(first, first + rounds)]


def test_constant_changes_no_bit_of_a_rate() -> None:
    assert all(found * 0.03 == 0.03 for found in curve(Schedule(), 30))


def test_the_published_steps_are_those_of_24_epochs() -> None:
    """A tenth after epochs 10, 18 and 22 of 24: the recipe of the frequency papers, written as shares."""
    found = curve(Schedule("steps", milestones=(10 / 24, 18 / 24, 22 / 24)), 24)
    assert found == pytest.approx([1.0] * 10 + [0.1] * 8 + [0.01] * 4 + [0.001] * 2)


@pytest.mark.parametrize("rounds", [1, 2, 7, 40])
@pytest.mark.parametrize("final", [0.0, 0.3])
def test_cosine_is_the_real_part_of_a_turning_phasor(rounds: int, final: float) -> None:
    turned = np.exp(1j * np.pi / rounds) ** np.arange(rounds)
    expected = final + (1 - final) * (1 + turned.real) / 2
    assert curve(Schedule("cosine", final=final), rounds) == pytest.approx(expected.tolist())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rounds", [1, 2, 3, 9, 100])
@pytest.mark.parametrize("warm_up", [0.0, 0.1, 0.5, 0.99])
def test_rates_rise_in_equal_steps_and_never_rise_again(kind: str, rounds: int, warm_up: float) -> None:
    found = curve(Schedule(kind, warm_up), rounds)  # type: ignore[arg-type]
    assert all(0 < value <= 1 for value in found)
    warm = math.floor(warm_up * rounds + 0.5)
    assert np.allclose(np.diff([0.0, *found[:warm]]), 1 / (warm + 1))
    assert all(later <= earlier for earlier, later in zip(found[warm:], found[warm + 1 :], strict=False))
    if kind == "cosine" and warm < rounds:
        assert found[warm] == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_every_stage_has_the_whole_curve(kind: str) -> None:
    schedule = Schedule(kind, 0.2)  # type: ignore[arg-type]
    assert curve(schedule, 10, first=11) == curve(schedule, 10)
    with pytest.raises(ValueError, match="none of the rounds"):
        rates.factor(schedule, Stage(1, "recogniser", 11, 20), 10)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("warm_up=1", r"Expected train\.schedule\.warm_up=1\.0 in \[0, 1\)"),
        ("warm_up=-0.1", r"Expected train\.schedule\.warm_up=-0\.1"),
        ("final=1", r"Expected train\.schedule\.final=1\.0"),
        ("factor=0", r"Expected train\.schedule\.factor=0"),
        ("milestones=[0.7,0.5]", r"Expected train\.schedule\.milestones=\[0\.7, 0\.5\] as one rising share"),
        ("milestones=[0.5,1]", "each in"),
        ("milestones=[]", "one rising share"),
        ("kind=cosin", "Did you mean 'cosine'"),
    ],
)
def test_what_is_no_schedule_is_refused_by_name(word: str, said: str) -> None:
    kind = "cosine" if word.startswith("final") else "steps"
    with pytest.raises(UserError, match=said):
        config.load([f"train.schedule.kind={kind}", f"train.schedule.{word}"])
