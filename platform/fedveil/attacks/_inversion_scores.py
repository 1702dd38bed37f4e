"""What inverted updates are worth: beside the mean public face, which holds nothing of the client."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from fedveil import checks, randomness
from fedveil.attacks._inversion import Prior, standardised
from fedveil.attacks._judges import Judge
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
        others: (n, C, H, W) other inputs of the client.
        others_pictures: (n, 3, H, W) what those were made of.
        others_people: who is on each of them.
        template: (D,) what the closed form gives, None where it does not apply.
        embed: templates by the network of the attacked round.
    """

    found: torch.Tensor
    fed: torch.Tensor
    pictures: NDArray[np.uint8]
    people: tuple[str, ...]
    others: torch.Tensor
    others_pictures: NDArray[np.uint8]
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


@dataclasses.dataclass(frozen=True, eq=False)
class Eyes:
    """Who looks at what was found.

    Attributes:
        prior: of inputs.
        deployed: templates by the finished model.
        show: inputs as pictures, None where they cannot be undone.
        judge: says who is on a picture; None where there is none.
        far: false accept rate at which templates count as accepted.
    """

    prior: Prior
    deployed: Embed
    show: Show | None
    judge: Judge | None
    far: float


def values(
    trials: Sequence[Trial], eyes: Eyes, what: What = "found"
) -> tuple[dict[str, NDArray[np.float64]], list[str]]:
    """Return measure -> one value an image, and who is on each image; measures that cannot be had are left out.

    Args:
        trials: attacked updates.
        eyes: who looks.
        what: what is judged: what was found, or in its place the mean public face, or the truth.
    """
    rows: dict[str, list[float]] = {}
    mean = eyes.prior.mean.cpu()
    model = _Acceptance(trials, lambda trial: eyes.deployed(trial.others), eyes.far)
    network = _Acceptance(trials, lambda trial: trial.embed(trial.others), eyes.far)
    judge = eyes.judge
    judged = None if judge is None else _Acceptance(trials, lambda trial: judge.embed(trial.others_pictures), eyes.far)
    for trial in trials:
        found = {"found": trial.found, "mean": mean.expand_as(trial.fed), "true": trial.fed}[what]
        mine, true = eyes.deployed(found), eyes.deployed(trial.fed)
        _add(rows, "feature_cosine", _cosines(found - mean, trial.fed - mean))
        _add(rows, "retrieved", _retrieved(found, trial, eyes.prior))
        _add(rows, "template_cosine", (mine * true).sum(1))
        _add(rows, "replayed", model.of(mine, trial))
        if trial.template is not None:
            known = unit(trial.template[None].cpu().numpy()) if what == "found" else trial.embed(found)
            _add(rows, "closed_form_cosine", (known * trial.embed(trial.fed)).sum(1))
            _add(rows, "closed_form_linked", network.of(known, trial))
        if eyes.show is not None:
            shown, original = eyes.show(found), torch.from_numpy(trial.pictures)
            _add(rows, "psnr", reconstruction.psnr(shown, original).numpy())
            _add(rows, "ssim", reconstruction.ssim(shown, original).numpy())
            if judge is not None and judged is not None:
                _add(rows, "linked", judged.of(judge.embed(shown), trial))
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


class _Acceptance:
    """Whether templates are accepted beside another picture of their person, by one recogniser.

    The threshold comes from pairs of different people's pictures that were not attacked.
    """

    def __init__(self, trials: Sequence[Trial], templates: Callable[[Trial], NDArray[np.float64]], far: float) -> None:
        self._of = {id(trial): templates(trial) if len(trial.others) else np.empty((0, 1)) for trial in trials}
        alone = {trial.others_people: trial for trial in trials if len(trial.others)}
        self.tau: float | None = None
        self.impostors = np.empty(0)
        if alone:
            known = np.concatenate([self._of[id(trial)] for trial in alone.values()])
            people = np.array([person for trial in alone.values() for person in trial.others_people])
            first, second = np.nonzero(np.triu(people[:, None] != people[None]))
            self.impostors = (known[first] * known[second]).sum(1)
        with contextlib.suppress(checks.UserError):  # too few pairs for this rate
            self.tau = threshold_at(self.impostors, far)

    def of(self, mine: NDArray[np.float64], trial: Trial) -> NDArray[np.float64] | None:
        """Return (B,) whether templates (B, D), or one for all, are accepted; None where that cannot be said."""
        other = [np.flatnonzero(np.array(trial.others_people) == person)[:1] for person in trial.people]
        if self.tau is None or any(place.size == 0 for place in other):
            return None
        against = self._of[id(trial)][np.concatenate(other)]
        return np.asarray((mine * against).sum(1) > self.tau, np.float64)


SAID: Mapping[str, tuple[str, str]] = {
    "linked": ("recovered faces that the judge accepts as their person beside ANOTHER picture of the person", "share"),
    "psnr": ("peak signal-to-noise ratio of recovered and original", "dB"),
    "ssim": ("structural similarity of recovered and original", ""),
    "feature_cosine": ("cosine of recovered and true input, both without the mean public face", "cosine"),
    "retrieved": ("recovered inputs whose source is the nearest of the client's pictures, blurred", "share"),
    "template_cosine": ("cosine of the finished model's templates, recovered and original", "cosine"),
    "replayed": ("recovered inputs that the finished model accepts beside ANOTHER picture of the person", "share"),
    "closed_form_cosine": ("cosine of the template that the last layer's update gives and the true one", "cosine"),
    "closed_form_linked": (
        "templates that the last layer's update gives, accepted by that round's model beside ANOTHER picture", "share"
    ),
}
"""Measure -> what it is, unit."""


def measures(trials: Sequence[Trial], eyes: Eyes, seed: int) -> tuple[Measure, ...]:
    """Return the measures of updates that were attacked alike, with intervals over people."""
    found, people = values(trials, eyes)
    guess, best = values(trials, eyes, "mean")[0], values(trials, eyes, "true")[0]
    floors = _floors(trials, eyes)
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


def _floors(trials: Sequence[Trial], eyes: Eyes) -> dict[str, float]:
    """Return what no information gives: chance, other people's templates, a grey picture."""
    chance = [1 / (len(trial.fed) + len(trial.others)) for trial in trials]
    floors = {"retrieved": float(np.mean(chance)), "feature_cosine": 0.0}
    floors |= dict.fromkeys(("replayed", "linked", "closed_form_linked"), eyes.far)
    for name, by in (
        ("template_cosine", lambda trial: eyes.deployed(trial.others)),
        ("closed_form_cosine", lambda trial: trial.embed(trial.others)),
    ):
        impostors = _Acceptance(trials, by, eyes.far).impostors
        if impostors.size:
            floors[name] = float(impostors.mean())
    if eyes.show is not None:
        original = torch.from_numpy(np.concatenate([trial.pictures for trial in trials]))
        grey = torch.full_like(original, 128)
        floors["psnr"] = float(reconstruction.psnr(grey, original).mean())
        floors["ssim"] = float(reconstruction.ssim(grey, original).mean())
    return floors
