"""Membership inference: did this picture, this person, this client train the released model?"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fedveil import checks, engine, randomness, readback
from fedveil.attacks import _membership_measures as told
from fedveil.attacks import _membership_signals as signals
from fedveil.attacks import _membership_trials as trials
from fedveil.attacks import _references
from fedveil.attacks._membership_people import FEWEST, Asked, asked_of
from fedveil.attacks._people import group
from fedveil.attacks._target import Target
from fedveil.attacks.base import Finding, Level, Measure, Progress, settings_of, silent
from fedveil.device import peak_memory_mb
from fedveil.federation import claims
from fedveil.privacy.statements import Statement


@dataclasses.dataclass(frozen=True)
class Membership:
    """Did this picture, person or client train: threshold, RMIA and LiRA on what the released model shows.

    The attacker has the released model, the configuration and the pictures in question; he protects them himself and
    compares embeddings (class centres never leave a client, so no loss is known to him). With reference models, which
    are trained by the run's own configuration on other people, he tells what is unusual for a person from what training
    did. Beside him stands whoever holds the vaults, who knows class centres and so the loss.

    Attributes:
        members: people who trained that are asked about, at most, and strangers, at most.
        images: pictures of a person that are looked at, at most; as many spare ones.
        views: variants of a picture, the picture included, 2 or more.
        references: reference models, each of which costs a training run; 0 or an even number.
        offline: a of offline RMIA, in [0, 1].
        gamma: of RMIA, above 0.
        bootstrap: resamples of people for an interval.
        seed: public seed of who is asked about, of halves, draws and resamples.
    """

    level: ClassVar[Level] = "white-box"

    members: int = 200
    images: int = 6
    views: int = 4
    references: int = 2
    offline: float = 0.3
    gamma: float = 1.0
    bootstrap: int = 300
    seed: int = 1

    def __post_init__(self) -> None:
        checks.positive(images=self.images, gamma=self.gamma, bootstrap=self.bootstrap)
        checks.within(FEWEST, 10**6, **{"attack.members": self.members})
        checks.within(2, 64, **{"attack.views": self.views})
        checks.within(0, 256, **{"attack.references": self.references})
        checks.within(0, 1, **{"attack.offline": self.offline})
        if self.references % 2:
            raise checks.UserError(
                f"Expected attack.references={self.references} to be even: reference models come in pairs of opposite "
                "halves, so that everybody is in as many as not."
            )

    def run(self, target: Target, progress: Progress = silent) -> Finding:
        """Return what is found of who trained; see `base.Attack`.

        Raises:
            fedveil.checks.UserError: the training people are private, or there are too few on either side.
        """
        began = time.perf_counter()
        asked = asked_of(target.federation, self.members, self.images, self.seed)
        table, notes = self._scored(target, asked, progress)
        proven = _statements(target)
        measures: list[Measure] = []
        curves: dict[str, Any] = {}
        for unit, rules in table.items():
            rng = randomness.public_rng(self.seed, "membership bootstrap", unit)
            found, curve = told.measured(unit, rules, told.bound(unit, proven, asked), rng, self.bootstrap)
            measures += found
            curves |= curve
        return Finding(
            attack="membership", level=self.level, settings=settings_of(self), protection=target.name, what=_WHAT,
            verdict=told.verdict(measures), measures=tuple(measures), people=_people(asked), curves=curves,
            notes=(*notes, *told.notes(asked, self.references)), seconds=time.perf_counter() - began,
            peak_memory_mb=peak_memory_mb(),
        )  # fmt: skip

    def _scored(self, target: Target, asked: Asked, progress: Progress) -> tuple[dict[str, trials.Table], list[str]]:
        """Return unit -> rule -> signal -> trials; whoever holds vaults is the unit "vault"."""
        federation, index = target.federation, np.flatnonzero(asked.scored)

        def embedded(backbone: Any, state: Any, what: str) -> NDArray[np.float32]:
            return signals.embedded(
                federation, backbone, state, asked.faces, index, self.views, self.seed,
                lambda done, total: progress(what, done, total),
            )  # fmt: skip

        own = embedded(target.backbone, target.state, "embeddings")
        shown, inside = [], []
        for reference in _references.trained(federation, asked, self.references, self.seed, progress):
            shown.append(trials.shown(asked, embedded(reference.backbone, reference.state, "reference embeddings")))
            inside.append(reference.inside)
        given = (
            asked, trials.Rules(self.offline, self.gamma), trials.shown(asked, own), shown,
            np.array(inside, bool).reshape(len(inside), asked.people),
        )  # fmt: skip
        table = {
            "image": trials.of_images(*given), "identity": trials.of_identities(*given),
            "client": trials.of_clients(*given),
        }  # fmt: skip
        centres = _centres(target, asked)
        vault = trials.of_heads(asked, own[:, 0], centres, federation.head.scale)
        if vault:
            return {**table, "vault": {"threshold": vault}}, []
        missing = "members have no spare pictures to compare with" if centres else "no vault of the run is here"
        return table, [f"Whoever holds the vaults was not played: {missing}."]


_WHAT = (
    "The attacker has the released model, the configuration and the pictures in question, protects them himself, and "
    "tells from embeddings, and from models of his own on other people, who trained; vault_ is of one who also holds "
    "the clients' vaults, and so class centres."
)


def _statements(target: Target) -> tuple[Statement, ...]:
    if target.run is None:
        return ()
    rows = readback.ledger_of(target.run).rows(target.run.run_id)
    return claims.of_run(target.federation, rows).statements


def _centres(target: Target, asked: Asked) -> Mapping[int, tuple[NDArray[np.float32], int]]:
    """Return person -> (class centres of its client, its row), of the members whose clients kept them."""
    if target.run is None:
        return {}
    kept_centres, found = engine.load("fedveil_clients.replays:kept_centres"), {}
    for place in np.unique(asked.client[asked.is_member]):
        kept = kept_centres(target.federation, target.run.run_id, target.federation.registry[int(place)])
        for person in np.flatnonzero(asked.client == place) if kept is not None else ():
            found[int(person)] = kept.rows, kept.of[asked.faces.names[int(person)]]
    return found


def _people(asked: Asked) -> dict[str, dict[str, Any]]:
    groups = {
        "members": asked.is_member, "strangers": asked.is_stranger, "population": asked.population,
    }  # fmt: skip
    return {name: group(asked.faces.subset(asked.scored & own[asked.person])) for name, own in groups.items()}


METHOD = Membership
