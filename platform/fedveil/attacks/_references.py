"""Reference models: the attacked run's own configuration, trained again on half of the people who are asked about.

A reference model has everybody whose membership is not in question, one half of the members in question and one half of
the strangers, so it has about as many people as the attacked one. References come in pairs of opposite halves: every
person is in as many of them as not.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import engine, randomness, readback, runs
from fedveil.attacks._membership_people import Asked
from fedveil.configuration.schema import Config
from fedveil.data.pairs import balanced_pairs
from fedveil.data.sources.procedural import draw_faces
from fedveil.data.split import Split
from fedveil.data.together import together
from fedveil.federation import warm_start
from fedveil.federation.federation import Federation
from fedveil.federation.tensors import set_tensors

_EVALUATION = 9 * 10**9  # numbers of drawn people whom no source has


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """One reference model.

    Attributes:
        backbone: on the federation's device.
        state: its protection's public state.
        inside: (P,) which of the people in question it trained on.
    """

    backbone: torch.nn.Module
    state: Mapping[str, torch.Tensor]
    inside: NDArray[np.bool_]


def halves(asked: Asked, count: int, seed: int) -> NDArray[np.bool_]:
    """Return (count, P) who is in which reference: number 2j + 1 has whoever of those in question 2j has not.

    Half of the members and half of the strangers are in each, up to one; the population is in none.
    """
    found = np.zeros((count, asked.people), bool)
    for number in range(count):
        if number % 2:
            found[number] = ~found[number - 1]
            continue
        rng = randomness.public_rng(seed, "reference", number)
        for group in (asked.is_member, asked.is_stranger):
            some = rng.permutation(np.flatnonzero(group))
            found[number, some[: some.size // 2]] = True
    return found & ~asked.population


def trained(
    federation: Federation, asked: Asked, count: int, seed: int, progress: Callable[[str, int, int], None]
) -> Iterator[Reference]:
    """Yield reference models, each after a training run in this process; nothing of a run is left behind.

    Args:
        federation: of the attacked run.
        asked: the people in question.
        count: how many.
        seed: public, of the halves.
        progress: told (what, rounds done, rounds in all).
    """
    for number, inside in enumerate(halves(asked, count, seed)):
        with tempfile.TemporaryDirectory(prefix="fedveil-reference-") as folder:
            own = _over(federation, asked, inside, Path(folder))
            what = f"reference model {number + 1} of {count}"
            tensors, state = _run(own, what, progress)
            backbone = own.place.module(own.backbone())
            set_tensors(backbone, tensors)
            dealt = np.concatenate([share for _, share in own.shares.items()])
            joined = {own.split.train.names[i] for i in np.unique(own.split.train.labels[dealt])}
        there = np.array([name in joined for name in asked.faces.names])
        yield Reference(backbone.eval(), state, there)


def _over(federation: Federation, asked: Asked, inside: NDArray[np.bool_], folder: Path) -> Federation:
    """Return the run's configuration over other people, in a run store and a vault of its own."""
    split = federation.split
    some = asked.faces.subset(asked.trained & inside[asked.person])
    parts = [some] if not asked.others.size else [split.train.subset(asked.others), some]
    size = federation.size[0]
    drawn = draw_faces(federation.settings.seed, _EVALUATION, 4, 2, size)
    pairs = balanced_pairs(drawn, 8, randomness.public_rng(federation.settings.seed, "pairs"), declared_public=True)
    own = Federation(_settings(federation.settings, folder))
    return own.over(Split(together(parts), pairs, split.public, public_benchmark=True))


def _settings(settings: Config, folder: Path) -> Config:
    """Return the settings of a reference: what is computed stays, where it is kept and what is reported changes."""
    start = warm_start.checkpoint(settings)
    return dataclasses.replace(
        settings,
        train=settings.train if start is None else dataclasses.replace(settings.train, warm_start=str(start)),
        evaluation=dataclasses.replace(
            settings.evaluation, draws=1, every=settings.train.rounds, bootstrap=0, reference=False, pairs=None
        ),
        engine=dataclasses.replace(settings.engine, name="inline", wire=False),
        tracking=dataclasses.replace(settings.tracking, name="none", uri=None),
        vault=dataclasses.replace(settings.vault, root=str(folder / "vault")),
        runs=dataclasses.replace(settings.runs, root=str(folder / "runs")),
    )


def _run(
    federation: Federation, what: str, progress: Callable[[str, int, int], None]
) -> tuple[Mapping[str, Any], Mapping[str, torch.Tensor]]:
    """Train, and return the tensors and the public state that the run ended with."""
    run_id = runs.new_run_id("reference")
    answers = engine.load("fedveil_clients.replays:clients")(federation, run_id)

    def transport(number: int, cohort: Sequence[str], tensors: Any, state: Mapping[str, torch.Tensor]) -> Iterator[Any]:
        progress(what, number - 1, federation.total_rounds)
        yield from answers(number, cohort, tensors, state)

    session = engine.load("fedveil_strategies.coordinator:open_session")(federation, run_id, "quiet")
    engine.load("fedveil_strategies.coordinator:coordinate")(session, transport)
    progress(what, federation.total_rounds, federation.total_rounds)
    arrays, _ = readback.checkpoint_of(runs.Run(Path(federation.settings.runs.root), run_id))
    tensors = {name[7:]: value for name, value in arrays.items() if name.startswith("tensor/")}
    return tensors, {name[6:]: torch.from_numpy(value) for name, value in arrays.items() if name.startswith("state/")}
