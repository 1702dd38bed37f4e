"""Canary clients: what an adversary sees of them in a client-level run, through the run's own code, without any data.

A canary's update has norm far above C and one coordinate of its own, so that clipping makes it exactly the extreme
legal update C e_j and canaries do not disturb each other. Audit coins decide which are there. Nothing of an owner is
read: the registry answers with canaries or not at all.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import randomness
from fedveil.configuration.schema import Cohort, Config
from fedveil.federation.federation import Federation
from fedveil.federation.groups import Groups
from fedveil.privacy import banded
from fedveil.privacy.audit import Scores
from fedveil.privacy.banded import Correlated
from fedveil.privacy.ledger import Ledger, Row
from fedveil.records import Failure, Tensors, Update
from fedveil_strategies import client_level, private, rounds
from fedveil_strategies.aggregation.fedavg import FedAvg

_HUGE = 1e4  # times C: the norm of a canary's update before clipping


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a replay showed.

    Attributes:
        run: one trial per canary: the log-likelihood ratio of all released sums, the cohorts being secret.
        releases: one trial per canary and round: its coordinate of the noisy sum over C, in against out of the sum.
        booked: the replayed run's ledger.
    """

    run: Scores
    releases: Scores
    booked: tuple[Row, ...]


def replay(federation: Federation, canaries: int, seed: int) -> Seen:
    """Run all rounds of a planned client-level configuration with canary clients, and return what was released.

    Poisson cohorts: a canary is in the registry or replaced by nothing, and joins by the run's own secret coins. Fixed
    cohorts: a canary sends C e_j or is replaced by one that sends the opposite, and is in every cohort, because the
    claim prices a fixed cohort as if all clients were in it.

    Banded noise is whitened first, with the public strategy: what is left is one noisy column for each turn of a
    canary's group, and a projection onto it loses nothing that could tell whether the canary was there.

    Args:
        federation: of a planned configuration with a finite client-level budget.
        canaries: how many.
        seed: of the public audit coins; noise and cohorts are the run's own.
    """
    settings = federation.settings
    fixed = settings.train.cohort.kind == "fixed"
    each = max(1, canaries // federation.groups.bands)  # fixed: all of a group when its turn comes
    canaries = each * federation.groups.bands if fixed else canaries
    registry = tuple(f"c{number}" for number in range(canaries if fixed else max(canaries, settings.train.clients)))
    cohort = Cohort("fixed", size=each) if fixed else settings.train.cohort
    plan = rounds.Plan(settings.train.rounds, registry, cohort, settings.seed, ("canary",), tolerated=1.0)
    there = dict(zip(registry, randomness.public_rng(seed, "audit coins").random(canaries) < 0.5, strict=False))
    start = rounds.State(0, {"canary": np.zeros(canaries, np.float32)}, {})
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "ledger.sqlite")
        level = client_level.ClientLevel(federation, plan, ledger, "audit")
        watch = _Watch(level, there, fixed, federation.groups)
        rounds.run(plan, start, watch.answer, FedAvg(), [], level.draw, watch.combine)
        return Seen(watch.run_scores(settings), watch.release_scores(), tuple(ledger.rows("audit")))


class _Watch:
    """The canaries' side of a replay, and the adversary's notes."""

    def __init__(self, level: client_level.ClientLevel, there: dict[str, bool], fixed: bool, turns: Groups) -> None:
        self._level, self._fixed, self._turns = level, fixed, turns
        self._names = [*there]
        self._there = np.array([*there.values()], bool)
        self._joined: list[NDArray[np.bool_]] = []
        self._sums: list[NDArray[np.float64]] = []

    def answer(self, number: int, cohort: Sequence[str], tensors: Tensors) -> Iterator[Update | Failure]:
        members = set(cohort)
        self._joined.append(np.array([name in members for name in self._names]))
        size, places = _HUGE * self._level.mechanism.clip, {name: place for place, name in enumerate(self._names)}
        for name in cohort:
            place = places.get(name, -1)
            if place >= 0 and self._there[place]:
                yield _canary(name, place, size, len(places))
            elif place >= 0 and self._fixed:
                yield _canary(name, place, -size, len(places))
            else:
                yield Failure(name, "not there")

    def combine(self, number: int, answers: Iterable[Update | Failure], state: rounds.State) -> rounds.Combined:
        clip = state.memory.get("clip", self._level.mechanism.clip)
        combined = self._level.combine(number, answers, state)
        self._sums.append(combined.mean["canary"] * self._level.mechanism.expected / clip)
        return combined

    def run_scores(self, settings: Config) -> Scores:
        """Return the log-likelihood ratio of everything released, per canary, under the mechanism as planned."""
        sums, turn = self._whitened(), self._turn()
        if self._fixed:
            scores = np.where(turn, sums, 0.0).sum(0)
        else:
            rate = self._turns.cohort(settings.train.cohort).rate
            loss = np.clip((sums - 0.5) / self._level.mechanism.update_multiplier**2, -700, 700)
            scores = np.where(turn, np.log1p(rate * np.expm1(loss)), 0.0).sum(0)
        return Scores(scores[self._there], scores[~self._there])

    def release_scores(self) -> Scores:
        sums, turn = self._whitened(), self._turn()
        inside = np.stack(self._joined) & self._there
        return Scores(sums[inside & turn], sums[~inside & turn])

    def _turn(self) -> NDArray[np.bool_]:
        """Return whose turn a round is, (rounds, canaries)."""
        asked = np.arange(len(self._sums)) % self._turns.bands
        found: NDArray[np.bool_] = asked[:, None] == np.arange(len(self._names))[None] % self._turns.bands
        return found

    def _whitened(self) -> NDArray[np.float64]:
        """Return the noisy sums, (rounds, canaries), projected onto the column of each round: noise of equal size."""
        return whitened(np.stack(self._sums), self._turns.bands)


def whitened(sums: NDArray[np.float64], bands: int) -> NDArray[np.float64]:
    """Return C^T C times noisy sums (T, d), C the strategy of T rounds: X + C^-1 Z to what each column shows of X.

    Row t is X_t and noise of variance ||c_t||^2 = 1, and what rows fewer than b rounds away put there.
    """
    if bands == 1:
        return sums
    matrix = banded.strategy(len(sums), bands).matrix()
    found: NDArray[np.float64] = matrix.T @ (matrix @ sums)
    return found


def one_release(federation: Federation, draws: int) -> Scores:
    """Return scores of one round without sampling, on extreme legal inputs, `draws` on each side.

    A client's update of norm C against nothing (Poisson) or against its opposite (fixed). A thousand clients on a
    coordinate of their own share a sum; every coordinate of every noisy release is one independent draw. Of banded
    noise one release is that of a turn: its round and those after it that share its noise, whitened together.
    """
    settings, width = federation.settings, min(draws, 1000)
    bands = min(federation.groups.bands, federation.total_rounds)
    names = tuple(f"c{number}" for number in range(width))
    plan = rounds.Plan(1, names, Cohort("fixed", size=width), settings.seed, ("canary",))
    tensors = {"canary": np.zeros(width, np.float32)}
    with tempfile.TemporaryDirectory() as folder:
        level = client_level.ClientLevel(federation, plan, Ledger(Path(folder) / "ledger.sqlite"), "audit")
    mechanism, size = level.mechanism, _HUGE * level.mechanism.clip
    other = [_canary(name, place, -size, width) for place, name in enumerate(names)]
    gone = [Failure(name, "not there") for name in names]
    sides: list[NDArray[np.float64]] = []
    for answers in (
        [_canary(name, place, size, width) for place, name in enumerate(names)],
        other if settings.train.cohort.kind == "fixed" else gone,
    ):
        total, count, _ = private.bounded_sums(answers, plan, tensors, mechanism, mechanism.clip)
        found: list[NDArray[np.float64]] = []
        for number in range(-(-draws // width)):
            correlated = Correlated(banded.strategy(bands, bands)) if bands > 1 else None
            rows = []
            for row in range(bands):
                stream = _stream(settings, len(sides), number * bands + row)
                pushed = total.clone() if row == 0 else torch.zeros_like(total)
                noisy = private.released(pushed, count, plan, tensors, mechanism, mechanism.clip, stream, correlated)
                rows.append(noisy.mean["canary"] * mechanism.expected / mechanism.clip)
            found.append(whitened(np.stack(rows), bands)[0])
        sides.append(np.concatenate(found)[:draws])
    return Scores(*sides)


def _stream(settings: Config, side: int, number: int) -> randomness.SecretStream:
    seed = settings.privacy.test_seed
    key = randomness.os_key() if seed is None else randomness.test_key(seed, "audit", side, number)
    return randomness.SecretStream(key)


def _canary(name: str, place: int, size: float, width: int) -> Update:
    values = np.zeros(width, np.float32)
    values[place] = size
    return Update(name, {"canary": values})
