"""How well scores tell members from others: area, advantage, true positives at few false ones, their intervals.

People are resampled, not pictures: those of one person are not independent. What is chosen (which score, which
threshold) is chosen on other people than those it is measured on.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from fedveil import checks
from fedveil.privacy import audit

Floats = NDArray[np.float64]
_AT_ONCE = 100  # resamples
PILOT = 3  # every third person chooses


@dataclasses.dataclass(frozen=True, eq=False)
class Trials:
    """Scored trials of one unit.

    Attributes:
        scores: (T,) higher where the attacker believes "it trained".
        present: (T,) whether it did.
        person: (T,) whose trial it is: what is resampled.
    """

    scores: Floats
    present: NDArray[np.bool_]
    person: NDArray[np.int64]

    def __post_init__(self) -> None:
        checks.same_shape(self.scores.shape, present=self.present.shape, person=self.person.shape)

    def _where(self, chosen: NDArray[np.bool_]) -> Trials:
        return Trials(self.scores[chosen], self.present[chosen], self.person[chosen])

    def finite(self) -> Trials:
        """Return the trials that have a score."""
        return self._where(np.isfinite(self.scores))

    def parted(self) -> tuple[Trials, Trials]:
        """Return two sets without a person in common: every third person chooses, the others are measured on.

        Every third of those with a trial on both sides, on one, on the other: both sets have the same mixture.
        """
        chooses = np.zeros(self.scores.size, bool)
        for people in _strata(self):
            chooses |= np.isin(self.person, people[::PILOT])
        return self._where(chooses), self._where(~chooses)

    def one_each(self) -> Trials:
        """Return the first trial of every person on each side, so that trials are independent of one another."""
        _, first = np.unique(2 * self.person + self.present, return_index=True)
        return self._where(np.isin(np.arange(self.scores.size), first))

    def sides(self) -> audit.Scores:
        """Return the scores of both sides, as the audit takes them."""
        return audit.Scores(self.scores[self.present], self.scores[~self.present])


def _strata(trials: Trials) -> list[NDArray[np.int64]]:
    """Return the people by the sides that they have trials on."""
    there, gone = (np.unique(trials.person[side]) for side in (trials.present, ~trials.present))
    both = np.intersect1d(there, gone)
    groups = (both, np.setdiff1d(there, both), np.setdiff1d(gone, both))
    return [group for group in groups if group.size]


def auc(trials: Trials, weights: Floats | None = None) -> Floats:
    """Return (R,) the chance that a member's score is above another's, ties half, for weights (R, T) of the trials."""
    there, gone = _weighted(trials, weights)
    below = np.cumsum(gone, 1) - gone
    found: Floats = (there * (below + gone / 2)).sum(1) / (there.sum(1) * gone.sum(1))
    return found


def tpr_at(trials: Trials, fpr: float, weights: Floats | None = None) -> Floats:
    """Return (R,) the largest share of members above a threshold that at most a share `fpr` of the others is above."""
    there, gone = (side[:, ::-1] for side in _weighted(trials, weights))
    alarms = np.cumsum(gone, 1) / gone.sum(1, keepdims=True)
    hits = np.cumsum(there, 1) / there.sum(1, keepdims=True)
    found: Floats = np.where(alarms <= fpr + 1e-12, hits, 0.0).max(1)
    return found


def advantage(trials: Trials, threshold: float, weights: Floats | None = None) -> Floats:
    """Return (R,) true minus false positive rate above a threshold from elsewhere; negative where it fails."""
    weights = np.ones((1, trials.scores.size)) if weights is None else weights
    above = trials.scores > threshold
    there, gone = (
        (weights * (side & above)).sum(1) / (weights * side).sum(1) for side in (trials.present, ~trials.present)
    )
    found: Floats = there - gone
    return found


def best_threshold(trials: Trials) -> float:
    """Return the threshold at which true minus false positives is largest."""
    values, place = np.unique(trials.scores, return_inverse=True)
    there, gone = (np.bincount(place[side], minlength=values.size) for side in (trials.present, ~trials.present))
    gain = np.cumsum(gone) / gone.sum() - np.cumsum(there) / there.sum()  # above values[i]
    return float(values[int(gain.argmax())])


def roc(trials: Trials) -> tuple[list[float], list[float]]:
    """Return (false positive rate, true positive rate) from strict to lax, both above zero: for logarithmic axes."""
    there, gone = (side[0, ::-1] for side in _weighted(trials, None))
    alarms, hits = np.cumsum(gone) / gone.sum(), np.cumsum(there) / there.sum()
    shown = (alarms > 0) & (hits > 0)
    return alarms[shown].tolist(), hits[shown].tolist()


def _weighted(trials: Trials, weights: Floats | None) -> tuple[Floats, Floats]:
    """Return (R, values) the weight of members and of others at each distinct score, ascending."""
    weights = np.ones((1, trials.scores.size)) if weights is None else weights
    order = np.argsort(trials.scores, kind="stable")
    ranked = trials.scores[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    there, gone = (
        np.add.reduceat(weights[:, order] * side[order], starts, axis=1) for side in (trials.present, ~trials.present)
    )
    return there, gone


def resamples(trials: Trials, rng: np.random.Generator, repeats: int) -> list[Floats]:
    """Return weights (<= 100, T) of `repeats` resamples of people, with replacement, within each of `_strata`."""
    found = []
    for start in range(0, repeats, _AT_ONCE):
        rows = min(_AT_ONCE, repeats - start)
        weights = np.zeros((rows, trials.scores.size))
        for people in _strata(trials):
            times = rng.multinomial(people.size, np.full(people.size, 1 / people.size), size=rows)
            own = np.flatnonzero(np.isin(trials.person, people))
            weights[:, own] = times[:, np.searchsorted(people, trials.person[own])]
        found.append(weights)
    return found
