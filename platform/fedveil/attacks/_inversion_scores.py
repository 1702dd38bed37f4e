"""What inverted updates are worth: beside the mean public face, which holds nothing of the client."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from fedveil import checks, randomness
from fedveil.attacks._inversion import Prior, standardised
from fedveil.attacks._target import Target
from fedveil.attacks.base import Measure
from fedveil.evaluation import reconstruction
from fedveil.evaluation.identification import mean_over_people, threshold_at, unit

Embed = Callable[[torch.Tensor], NDArray[np.float64]]
"""Inputs (B, C, H, W) -> templates (B, D) of length one."""
Show = Callable[[torch.Tensor], torch.Tensor]
"""Inputs (B, C, H, W) -> uint8 pictures (B, 3, H, W)."""
What = Literal["found", "mean", "true"]


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
    """One attacked update: what was found, and what is compared with it.

    Attributes:
        found: (B, C, H, W) inputs found, in the order of `fed` (`matched`).
        fed: (B, C, H, W) what the network was fed.
        pictures: (B, 3, H, W) what that was made of.
        people: who is on each, unique over clients by name.
        others: (n, C, H, W) the client's other inputs.
        others_people: who is on each of them.
        template: (D,) what the closed form gives, None where it does not apply.
        embed: templates by the network of the attacked round.
    """

    found: torch.Tensor
    fed: torch.Tensor
    pictures: NDArray[np.uint8]
    people: tuple[str, ...]
    others: torch.Tensor
    others_people: tuple[str, ...]
    template: torch.Tensor | None
    embed: Embed


def matched(found: torch.Tensor, fed: torch.Tensor) -> torch.Tensor:
    """Return the inputs found in the order in which they are nearest to the true ones: an update has no order.

    >>> matched(torch.tensor([[5.0], [1.0]]), torch.tensor([[0.0], [4.0]])).flatten().tolist()
    [1.0, 5.0]
    """
    errors = (found[:, None] - fed[None]).flatten(2).square().mean(2)
    rows, columns = linear_sum_assignment(errors.cpu().numpy())
    return found[torch.from_numpy(rows[np.argsort(columns)])]


def shower(target: Target, sample: torch.Tensor) -> Show | None:
    """Return how inputs become pictures where a method feeds scaled releases; None where features cannot be undone.

    Args:
        target: the attacked run.
        sample: (N, *representation) releases of public faces.
    """
    if tuple(target.protection.representation(target.size)) != tuple(target.protection.layout(target.size)):
        return None
    low = target.features(torch.zeros_like(sample[:1]))
    scale = target.features(torch.ones_like(sample[:1])) - low
    fed = target.features(sample)
    if not bool((scale.abs() > 0).all()) or not torch.allclose(low + scale * sample, fed, rtol=1e-3, atol=1e-3):
        return None

    def show(inputs: torch.Tensor) -> torch.Tensor:
        released = (inputs.to(low.device) - low) / scale
        return torch.from_numpy(target.rendered(released))

    return show


def values(
    trials: Sequence[Trial], prior: Prior, deployed: Embed, show: Show | None, far: float, what: What = "found"
) -> tuple[dict[str, NDArray[np.float64]], list[str]]:
    """Return measure -> one value an image, and who is on each image; measures that cannot be had are left out.

    Args:
        trials: attacked updates.
        prior: of inputs.
        deployed: templates by the finished model.
        show: inputs as pictures.
        far: false accept rate at which templates count as accepted.
        what: what is judged: what was found, or in its place the mean public face, or the truth.
    """
    rows: dict[str, list[float]] = {}
    mean = prior.mean.cpu()
    by_model, by_round = _impostors(trials, deployed), _impostors(trials, None)
    for trial in trials:
        found = {"found": trial.found, "mean": mean.expand_as(trial.fed), "true": trial.fed}[what]
        mine, true = deployed(found), deployed(trial.fed)
        _add(rows, "feature_cosine", _cosines(found - mean, trial.fed - mean))
        _add(rows, "retrieved", _retrieved(found, trial, prior))
        _add(rows, "template_cosine", (mine * true).sum(1))
        _add(rows, "replayed", _accepted(mine, trial, deployed, by_model, far))
        if trial.template is not None:
            known = unit(trial.template[None].cpu().numpy()) if what == "found" else trial.embed(found)
            _add(rows, "closed_form_cosine", (known * trial.embed(trial.fed)).sum(1))
            _add(rows, "linked", _accepted(known, trial, trial.embed, by_round, far))
        if show is not None:
            shown, original = show(found), torch.from_numpy(trial.pictures)
            _add(rows, "psnr", reconstruction.psnr(shown, original).numpy())
            _add(rows, "ssim", reconstruction.ssim(shown, original).numpy())
    people = [person for trial in trials for person in trial.people]
    return {name: np.array(found) for name, found in rows.items() if len(found) == len(people)}, people


def _add(rows: dict[str, list[float]], name: str, found: NDArray[Any] | None) -> None:
    if found is not None:
        rows.setdefault(name, []).extend(float(value) for value in found)


def _cosines(first: torch.Tensor, second: torch.Tensor) -> NDArray[np.float64]:
    return np.asarray((unit(first.flatten(1).numpy()) * unit(second.flatten(1).numpy())).sum(1))


def _retrieved(found: torch.Tensor, trial: Trial, prior: Prior) -> NDArray[np.float64]:
    """Return whether the nearest of the client's inputs, blurred, is the one that was attacked; ties count against."""
    host = Prior(*(getattr(prior, field.name).cpu() for field in dataclasses.fields(Prior)))
    gallery = standardised(torch.cat([trial.fed, trial.others]), host)
    errors = torch.cdist(standardised(found, host), gallery)
    own = errors.diagonal()[:, None]
    return np.asarray(((errors <= own).sum(1) == 1).numpy(), np.float64)


def _impostors(trials: Sequence[Trial], embed: Embed | None) -> NDArray[np.float64]:
    """Return cosines of different people's inputs that were not attacked; of each round's own network without one."""
    if not trials:
        return np.empty(0)
    seen: dict[tuple[str, ...], Trial] = {trial.others_people: trial for trial in trials}
    by = embed or trials[0].embed
    parts = [by(trial.others) for trial in seen.values() if len(trial.others)]
    if not parts:
        return np.empty(0)
    templates = np.concatenate(parts)
    people = np.array([person for trial in seen.values() for person in trial.others_people])
    first, second = np.nonzero(np.triu(people[:, None] != people[None]))
    return np.asarray((templates[first] * templates[second]).sum(1))


def _accepted(
    mine: NDArray[np.float64], trial: Trial, embed: Embed, impostors: NDArray[np.float64], far: float
) -> NDArray[np.float64] | None:
    """Return whether templates are accepted beside another picture of their person; None where that cannot be said."""
    try:
        tau = threshold_at(impostors, far)
    except checks.UserError:
        return None
    other = [np.flatnonzero(np.array(trial.others_people) == person)[:1] for person in trial.people]
    if any(place.size == 0 for place in other):
        return None
    against = embed(trial.others[torch.from_numpy(np.concatenate(other))])
    return np.asarray((mine * against).sum(1) > tau, np.float64)


SAID: Mapping[str, tuple[str, str]] = {
    "psnr": ("peak signal-to-noise ratio of recovered and original", "dB"),
    "ssim": ("structural similarity of recovered and original", ""),
    "feature_cosine": ("cosine of recovered and true input, both without the mean public face", "cosine"),
    "retrieved": ("recovered inputs whose source is the nearest of the client's pictures, blurred", "share"),
    "template_cosine": ("cosine of the finished model's templates, recovered and original", "cosine"),
    "replayed": ("recovered inputs that the finished model accepts beside ANOTHER picture of the person", "share"),
    "closed_form_cosine": ("cosine of the template that the last layer's update gives and the true one", "cosine"),
    "linked": ("templates that the last layer's update gives, accepted beside ANOTHER picture of the person", "share"),
}
"""Measure -> what it is, unit."""


def measures(
    trials: Sequence[Trial], prior: Prior, deployed: Embed, show: Show | None, far: float, seed: int
) -> tuple[Measure, ...]:
    """Return the measures of updates that were attacked alike, with intervals over people."""
    found, people = values(trials, prior, deployed, show, far)
    guess, _ = values(trials, prior, deployed, show, far, "mean")
    best, _ = values(trials, prior, deployed, show, far, "true")
    floors = _floors(trials, deployed, show, far)
    made = []
    for name, (said, kind) in SAID.items():
        if name not in found:
            made.append(Measure(name, None, said, kind))
            continue
        each = np.array([found[name][np.array(people) == person].mean() for person in dict.fromkeys(people)])
        share = mean_over_people(each, randomness.public_rng(seed, "attack bootstrap", name))
        top, mean = float(best[name].mean()), float(guess[name].mean())
        made.append(Measure(name, share.value, said, kind, share.low, share.high, floors.get(name), top, mean))
    return tuple(made)


def _floors(trials: Sequence[Trial], deployed: Embed, show: Show | None, far: float) -> dict[str, float]:
    """Return what no information gives: chance, other people's templates, a grey picture."""
    chance = [1 / (len(trial.fed) + len(trial.others)) for trial in trials]
    floors = {"retrieved": float(np.mean(chance)), "replayed": far, "linked": far, "feature_cosine": 0.0}
    for name, embed in (("template_cosine", deployed), ("closed_form_cosine", None)):
        impostors = _impostors(trials, embed)
        if impostors.size:
            floors[name] = float(impostors.mean())
    if show is not None:
        original = torch.from_numpy(np.concatenate([trial.pictures for trial in trials]))
        grey = torch.full_like(original, 128)
        floors["psnr"] = float(reconstruction.psnr(grey, original).mean())
        floors["ssim"] = float(reconstruction.ssim(grey, original).mean())
    return floors


