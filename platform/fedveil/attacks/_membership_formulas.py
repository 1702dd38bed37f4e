"""What reference models make of a score: RMIA and LiRA, as functions of plain arrays.

Throughout, `target` (U,) are the attacked model's scores of U units, `references` (K, U) those of K reference models,
and `inside` (K, U) says whose training data had the unit. Higher means "it trained". The attacked model's own training
data is never an argument: these functions cannot look at the answer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
_SMALLEST = 1e-12


def standardised(scores: Floats, population: Flags) -> Floats:
    """Return scores (..., U) in each model's own units: mean 0 and deviation 1 over people who are in no model.

    Two models differ in how large their cosines and norms are; an unknown person shows by how much.
    """
    crowd = scores[..., population]
    middle, spread = crowd.mean(-1, keepdims=True), crowd.std(-1, keepdims=True)
    found: Floats = (scores - middle) / np.maximum(spread, _SMALLEST)
    return found


def rmia(
    target: Floats, references: Floats, inside: Flags, population: Flags, offline: float = 0.3, gamma: float = 1.0
) -> Floats:
    """Return (U,) the share of the population that a unit's likelihood ratio dominates (offline RMIA).

    Pr(x) = (1 + a) / 2 mean_out p(x) + (1 - a) / 2, ratio(x) = p_target(x) / Pr(x), and the score is the share of z
    with ratio(x) / ratio(z) > gamma (Zarifzadeh, Liu and Shokri, ICML 2024, https://arxiv.org/abs/2312.03262). Only
    models that did *not* have the unit enter. A score becomes a probability by the logistic function. The share has as
    few values as the population has people, so equal shares are ordered by the ratio, by less than one step.

    Args:
        target: see the module.
        references: see the module.
        inside: see the module.
        population: (U,) units that no model had.
        offline: a, how a mean over models without the unit is stretched to one over all models.
        gamma: by what factor a unit must dominate.

    Returns:
        NaN where every reference model had the unit.
    """
    probable = 1 / (1 + np.exp(-target))
    without = _mean(1 / (1 + np.exp(-references)), ~inside)
    ratio = probable / ((1 + offline) / 2 * without + (1 - offline) / 2)
    crowd = np.sort(ratio[population])
    dominated = np.searchsorted(crowd, ratio / gamma, "left") / crowd.size
    step = ratio / (1 + ratio) / (crowd.size + 1)  # below 1 / size
    found: Floats = np.where(np.isfinite(ratio), dominated + step, np.nan)
    return found


def lira(target: Floats, references: Floats, inside: Flags, online: bool = True) -> Floats:
    """Return (U,) the log-likelihood ratio of "it trained" under Gaussians with a mean per unit and pooled deviations.

    Online, if every unit has models with and without it: log N(t; mu_in, s_in) - log N(t; mu_out, s_out). Else offline:
    (t - mu_out) / s_out, whose normal probability is the published score (Carlini et al., IEEE S&P 2022,
    https://arxiv.org/abs/2112.03570). Deviations are pooled over units, as is right for fewer than 64 models.

    Args:
        target: see the module.
        references: see the module.
        inside: see the module; a unit that no model ever has (the population) has no say in "every".
        online: whether models with the unit may enter.

    Returns:
        NaN where every reference model had the unit.
    """
    mean_out, out = _mean(references, ~inside), _pooled(references, ~inside)
    asked = inside.any(0)
    if not (online and asked.any() and not inside.all(0).any()):
        found: Floats = (target - mean_out) / out
        return found
    mean_in, within = _mean(references, inside), _pooled(references, inside)
    return _log_normal(target, mean_in, within) - _log_normal(target, mean_out, out)  # NaN: of the population


def _mean(values: Floats, chosen: Flags) -> Floats:
    """Return the mean over models (U,) of those that are chosen; NaN where none is."""
    count = chosen.sum(0)
    found: Floats = np.where(count > 0, np.where(chosen, values, 0.0).sum(0) / np.maximum(count, 1), np.nan)
    return found


def _pooled(values: Floats, chosen: Flags) -> float:
    """Return one deviation for all units: from each unit's own mean where models repeat, else over everything."""
    free = int(chosen.sum() - chosen.any(0).sum())
    if free >= 1:
        around = np.where(chosen, values - _mean(values, chosen), 0.0)
        return max(float(np.sqrt((around**2).sum() / free)), _SMALLEST)
    return max(float(values[chosen].std()), _SMALLEST)


def _log_normal(value: Floats, mean: Floats, deviation: float) -> Floats:
    found: Floats = -0.5 * ((value - mean) / deviation) ** 2 - np.log(deviation)
    return found
