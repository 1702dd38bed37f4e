"""From what models show to trials of "did it train?": per unit, by every rule, on every signal.

The rules: `threshold` takes the attacked model's number as it is, `rmia` and `lira` compare it with reference models. A
client's score is the mean over its people, and groups of as many strangers stand for clients that were not there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fedveil.attacks import _membership_formulas as formulas
from fedveil.attacks._membership_people import Asked
from fedveil.attacks._membership_rates import Trials
from fedveil.attacks._membership_signals import of_people, of_pictures

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Table = dict[str, dict[str, Trials]]
"""Rule -> signal -> trials."""
RULES = ("threshold", "rmia", "lira")


@dataclasses.dataclass(frozen=True, eq=False)
class Shown:
    """What one model shows: signal -> (B,) of the B pictures that are looked at, signal -> (P,) of their people."""

    pictures: Mapping[str, Floats]
    people: Mapping[str, Floats]


def shown(asked: Asked, embeddings: NDArray[np.float32]) -> Shown:
    """Return the signals of embeddings (B, views, D) of the scored pictures; a person's are of trained ones alone."""
    index = np.flatnonzero(asked.scored)
    own = asked.trained[index]
    return Shown(of_pictures(embeddings), of_people(embeddings[own], asked.person[index[own]], asked.people))


@dataclasses.dataclass(frozen=True)
class Rules:
    """How scores are compared with reference models: RMIA's a and gamma (see `_membership_formulas`)."""

    offline: float
    gamma: float

    def scores(
        self, target: Floats, references: Sequence[Floats], inside: Flags, population: Flags, online: bool
    ) -> dict[str, Floats]:
        """Return rule -> (U,) scores; without reference models the threshold alone."""
        found = {"threshold": target}
        if references and np.isfinite(target).any():
            every = formulas.standardised(np.stack([target, *references]), population & np.isfinite(target))
            found["rmia"] = formulas.rmia(every[0], every[1:], inside, population, self.offline, self.gamma)
            found["lira"] = formulas.lira(every[0], every[1:], inside, online)
        return found


def of_images(asked: Asked, rules: Rules, target: Shown, references: Sequence[Shown], inside: Flags) -> Table:
    """Return the trials of pictures: a person's used against spare ones, or where there are none strangers' pictures.

    A reference model that has a person was trained on those of the pictures that the attacked one was trained on. With
    it the answer would be in the score, so of spare pictures only models without the person enter.

    Args:
        asked: the people and pictures.
        rules: settings.
        target: of the attacked model.
        references: of K reference models.
        inside: (K, P) which of them has a person.
    """
    index = np.flatnonzero(asked.scored)
    person, trained = asked.person[index], asked.trained[index]
    member, population = asked.is_member[person], asked.population[person]
    counted = member if asked.spare else trained & ~population
    table: Table = {}
    for signal, values in target.pictures.items():
        others = [one.pictures[signal] for one in references]
        scores = rules.scores(values, others, inside[:, person], population, online=not asked.spare)
        for rule, found in scores.items():
            trials = Trials(found[counted], (member & trained)[counted], person[counted])
            table.setdefault(rule, {})[signal] = trials
    return table


def of_identities(asked: Asked, rules: Rules, target: Shown, references: Sequence[Shown], inside: Flags) -> Table:
    """Return the trials of people: members against strangers; arguments as in `of_images`."""
    counted = ~asked.population
    return {
        rule: {
            signal: Trials(found[counted], asked.is_member[counted], np.flatnonzero(counted))
            for signal, found in signals.items()
        }
        for rule, signals in _people(asked, rules, target, references, inside).items()
    }


def of_clients(asked: Asked, rules: Rules, target: Shown, references: Sequence[Shown], inside: Flags) -> Table:
    """Return the trials of clients: means over their people against means over as many strangers; see `of_images`."""
    clients, group = np.unique(asked.client[asked.is_member], return_inverse=True)
    size = max(1, int(np.median(np.bincount(group))))
    groups = np.concatenate([group, clients.size + np.arange(asked.strangers) // size])
    if asked.strangers % size:  # the last group is smaller than a client
        groups[groups == groups.max()] = -1
    there = np.arange(int(groups.max()) + 1) < clients.size
    table: Table = {}
    for rule, signals in _people(asked, rules, target, references, inside).items():
        for signal, found in signals.items():
            means = _means(found[~asked.population], groups, there.size)
            table.setdefault(rule, {})[signal] = Trials(means, there, np.arange(there.size))
    return table


def _people(
    asked: Asked, rules: Rules, target: Shown, references: Sequence[Shown], inside: Flags
) -> dict[str, dict[str, Floats]]:
    table: dict[str, dict[str, Floats]] = {}
    for signal, values in target.people.items():
        others = [one.people[signal] for one in references]
        for rule, found in rules.scores(values, others, inside, asked.population, online=True).items():
            table.setdefault(rule, {})[signal] = found
    return table


def _means(values: Floats, groups: NDArray[np.int64], count: int) -> Floats:
    """Return the mean of each group's finite values; NaN for a group without any."""
    good = np.isfinite(values) & (groups >= 0)
    with np.errstate(invalid="ignore"):
        found: Floats = np.bincount(groups[good], values[good], count) / np.bincount(groups[good], minlength=count)
    return found


def of_heads(
    asked: Asked, embeddings: NDArray[np.float32], centres: Mapping[int, tuple[NDArray[np.float32], int]], scale: float
) -> dict[str, Trials]:
    """Return the trials of whoever holds class centres: a person's used pictures against its spare ones.

    Signals: the log-probability of the right class (the loss, turned round), and LiRA's logit
    l_y - logsumexp over the other rows. Only a person with a row is scored: nobody else has a right class.

    Args:
        asked: the people and pictures.
        embeddings: (B, D) of the scored pictures.
        centres: person -> (K, D) class centres of its client, and its row.
        scale: of the head's logits; the margin is training's alone.

    Returns:
        Nothing without spare pictures, or without centres.
    """
    index = np.flatnonzero(asked.scored)
    person = asked.person[index]
    counted = np.isin(person, list(centres)) & asked.is_member[person]
    if not asked.spare or not counted.any():
        return {}
    chance = np.empty((2, int(counted.sum())))
    for place, at in enumerate(np.flatnonzero(counted)):
        rows, row = centres[int(person[at])]
        length = np.linalg.norm(rows, axis=1) * np.linalg.norm(embeddings[at])
        logits = scale * (rows @ embeddings[at]).astype(np.float64) / np.maximum(length, 1e-12)
        everybody = np.logaddexp.reduce(logits)
        chance[:, place] = logits[row] - everybody, logits[row] - np.logaddexp.reduce(np.delete(logits, row))
    present = asked.trained[index][counted]
    return {
        name: Trials(values, present, person[counted]) for name, values in zip(("loss", "logit"), chance, strict=True)
    }
