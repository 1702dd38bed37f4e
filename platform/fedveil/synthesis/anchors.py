"""One embedding a synthetic person: far from each other, plausible, and near no real person.

An anchor near a real person's embedding is that person's template, and the generator would draw the person. So the rule
about real people is never relaxed; that of the distance between anchors is, where so many do not fit.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import checks, randomness

_TURNS, _PATIENCE = 30, 4  # at most so many turns; so many without a new anchor end them
_LEAST, _EAGER = 16, 8  # candidates of a turn: at least so many, at most so many times what is missing
_BESIDE = 1024  # candidates, and accepted anchors, that repel one another in one step
_SHARPNESS = (10.0, 100.0)  # b of the first and the last step
_STRIDE, _SLACK = 0.1, 2.0  # of the first step, in radii; beyond the mean radius, in standard deviations
_CHUNK = 2**24  # cosines at a time


@dataclasses.dataclass(frozen=True, eq=False)
class Anchors:
    """Embeddings for synthetic people.

    Attributes:
        vectors: (K, D) float32 of length one.
        tried: candidates.
        near_real: candidates rejected because a real person's embedding is near.
        near_other: candidates that were too near an accepted anchor; some were taken after all if `largest` is above
            what was asked.
        largest: largest cosine of two anchors; -1 of a single one.
        largest_real: largest cosine of an anchor and a real person's embedding, at most the threshold.
    """

    vectors: NDArray[np.float32]
    tried: int
    near_real: int
    near_other: int
    largest: float
    largest_real: float


def anchors(
    count: int, mean: torch.Tensor, factor: torch.Tensor, real: NDArray[Any], seed: int, threshold: float,
    farthest: float = 0.3, steps: int = 200,
) -> Anchors:  # fmt: skip
    """Return anchors packed on the sphere (HyperFace, https://arxiv.org/abs/2411.08470, packs references so).

    Candidates begin as plausible embeddings, the direction of mean + factor @ n with n ~ N(0, I), and repel one another
    and the anchors that are there: gradient steps in n on log sum exp(b <w_i, w_j>) / b, b growing from 10 to 100, each
    projected back to usual lengths of n and of factor @ n. So they stay in the span of public embeddings, and
    as near to their mean as those are.

    Args:
        count: K.
        mean: (D,) of public embeddings.
        factor: (D, R).
        real: (M, D) embeddings of ALL faces that the generator was trained on, of any length above zero.
        seed: public.
        threshold: a candidate whose cosine to any row of `real` is above it is rejected. It is the one at which the
            recogniser accepts somebody else with a rate of 1e-4, say.
        farthest: largest cosine of two anchors, where that many fit; else the largest one says what was reached.
        steps: of packing; in proportion more where candidates are more than 1,024.

    Raises:
        fedveil.checks.UserError: settings out of range, no real embeddings, or too few candidates that are near nobody.
    """
    checks.positive(identities=count, packing_steps=steps)
    checks.within(-1, 1, threshold=threshold, farthest=farthest)
    kept, spare = (np.zeros((0, len(mean)), np.float32) for _ in range(2))
    tried = near_real = near_other = idle = 0
    for turn in range(_TURNS):  # where nobody is allowed, turns go on; where no more fit apart, they end
        missing = count - len(kept)
        if missing == 0 or idle == _PATIENCE:
            break
        able = (tried - near_real + 1) / (tried + 1)  # share of candidates that are near nobody, so far
        wanted = max(min(math.ceil(missing / able), _EAGER * missing), min(_LEAST, count))
        found = _packed(wanted, mean, factor, kept, randomness.public_torch(seed, "anchors", turn), steps)
        allowed = far_from(found, real, threshold)
        tried, near_real = tried + wanted, near_real + int((~allowed).sum())
        before = len(kept)
        kept, left = _apart(kept, found[allowed], farthest, count)
        spare, near_other = np.concatenate([spare, left]), near_other + len(left)
        idle = 0 if len(kept) > before else idle + int(allowed.any())
    if len(kept) + len(spare) < count:
        raise checks.UserError(
            f"Only {len(kept) + len(spare)} of identities={count} anchors have no real face of the generator's "
            f"training nearer than a cosine of {threshold:.3f}, after {tried} tries against {len(real)} faces. Ask "
            "for fewer identities, or use a recogniser that tells people better apart: its embeddings have room."
        )
    kept = _filled(kept, spare, count)
    return Anchors(
        kept, tried, near_real, near_other, float(_largest_of_others(kept).max()),
        float(largest_cosines(kept, _directions(real)).max()),
    )  # fmt: skip


def far_from(rows: NDArray[Any], real: NDArray[Any], threshold: float) -> NDArray[np.bool_]:
    """Return (N,) whether no real face's embedding (M, D) has a cosine above a threshold to a row (N, D) of length one.

    Raises:
        fedveil.checks.UserError: a real face has no direction, or there is none.
    """
    checks.same_shape((len(real), rows.shape[1]), real=real.shape)
    return largest_cosines(rows, _directions(real)) <= threshold


def largest_cosines(rows: NDArray[Any], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (N,) the largest cosine of each row (N, D) of length one to any of `others` (M, D), in float64.

    >>> largest_cosines(np.eye(2), np.array([[0.6, 0.8]])).tolist()
    [0.6, 0.8]
    """
    step = max(1, _CHUNK // len(others))
    parts = [rows[i : i + step].astype(np.float64) @ others.T for i in range(0, len(rows), step)]
    return np.concatenate([part.max(axis=1) for part in parts]) if parts else np.zeros(0)


def _directions(real: NDArray[Any]) -> NDArray[np.float64]:
    """Return rows of length one; a row without a direction would be near nobody, and is refused."""
    rows = real.astype(np.float64)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    if not len(rows) or not (np.isfinite(length) & (length > 0)).all():
        raise checks.UserError(
            f"Expected real embeddings of finite length above 0, at least one, got {len(rows)}: without those of all "
            "faces that the generator was trained on nothing keeps an anchor away from a real person."
        )
    return np.asarray(rows / length)


def _packed(
    count: int, mean: torch.Tensor, factor: torch.Tensor, fixed: NDArray[np.float32], coins: torch.Generator, steps: int
) -> NDArray[np.float32]:
    """Return (count, D) plausible directions that repelled one another and the fixed ones."""
    mean, factor, there = mean.cpu().float(), factor.cpu().float(), torch.from_numpy(fixed)
    identity = torch.eye(factor.shape[1])
    bounds = [(shape, _usual_length(shape)) for shape in (identity, factor)]
    radius = bounds[0][1]
    n = _inside(torch.randn(count, factor.shape[1], generator=coins), bounds)
    total = steps * math.ceil(count / _BESIDE) if count + len(fixed) > 1 else 0
    for step in range(total):
        left = 1.0 - step / total
        sharpness = _SHARPNESS[1] * (_SHARPNESS[0] / _SHARPNESS[1]) ** left
        rows = torch.randperm(count, generator=coins)[:_BESIDE]
        wall = there[torch.randperm(len(there), generator=coins)[:_BESIDE]]
        raw = mean + n[rows] @ factor.T
        length = raw.norm(dim=1, keepdim=True).clamp_min(1e-12)
        w = raw / length
        others = torch.cat([w, wall])
        cosines = w @ others.T
        cosines.fill_diagonal_(-math.inf)
        # A row's part of the gradient. The sum over all pairs only scales it, and every row steps as far.
        uphill = torch.softmax(sharpness * cosines, 1) @ others
        slope = ((uphill - w * (w * uphill).sum(1, keepdim=True)) / length) @ factor
        slope = slope / slope.norm(dim=1, keepdim=True).clamp_min(1e-12)
        n[rows] = _inside(n[rows] - _STRIDE * radius * left * slope, bounds)
    raw = mean + n @ factor.T
    found: NDArray[np.float32] = torch.nn.functional.normalize(raw).numpy()
    return found


def _usual_length(factor: torch.Tensor) -> float:
    """Return the mean length of factor @ n and two standard deviations, to first order."""
    spectrum = torch.linalg.svdvals(factor.double()) ** 2
    total = float(spectrum.sum())
    return math.sqrt(total) + _SLACK * math.sqrt(float((spectrum**2).sum()) / (2 * max(total, 1e-12)))


def _inside(n: torch.Tensor, bounds: list[tuple[torch.Tensor, float]]) -> torch.Tensor:
    """Return rows that are shortened until factor @ n is at most as long as each bound says."""
    for factor, longest in bounds:
        n = n * (longest / (n @ factor.T).norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp_max(1.0)
    return n


def _apart(
    kept: NDArray[np.float32], found: NDArray[np.float32], farthest: float, count: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the anchors with those candidates that are far from all before them, and the other candidates."""
    grown = np.concatenate([kept, np.zeros_like(found)])
    size, left = len(kept), []
    for row in found:
        if size < count and (not size or float((grown[:size] @ row).max()) <= farthest):
            grown[size] = row
            size += 1
        elif size < count:
            left.append(row)
    return grown[:size], np.array(left, np.float32).reshape(-1, kept.shape[1])


def _filled(kept: NDArray[np.float32], spare: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Return `count` anchors: those that are missing are the spare ones farthest from all others, one by one."""
    nearest = largest_cosines(spare, kept.astype(np.float64)) if len(kept) else np.full(len(spare), -1.0)
    for _ in range(count - len(kept)):
        best = int(nearest.argmin())
        kept = np.concatenate([kept, spare[best : best + 1]])
        nearest = np.maximum(nearest, spare @ spare[best])
        nearest[best] = np.inf
    return kept


def _largest_of_others(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return (K,) each anchor's largest cosine to another one; -1 where there is none."""
    step, found = max(1, _CHUNK // len(vectors)), []
    for start in range(0, len(vectors), step):
        cosines = vectors[start : start + step].astype(np.float64) @ vectors.T.astype(np.float64)
        own = np.arange(len(cosines))
        cosines[own, start + own] = -1.0
        found.append(cosines.max(axis=1))
    return np.concatenate(found)
