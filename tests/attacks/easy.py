"""People whom a few pixels tell apart, so that an attack of seconds has something to find."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil.attacks._people import People
from fedveil.attacks._releases import Stream
from fedveil.attacks._target import Target
from fedveil.attacks.base import Finding
from fedveil.evaluation.identification import unit


class Pixels:
    """A recogniser of clean pictures that is no network: which of 8 x 8 places are brighter than the mean face's."""

    said: dict[str, Any] = {"kind": "pixels"}  # noqa: RUF012

    def __init__(self, people: People) -> None:
        self.mean = self._seen(people.attacker).mean(0)

    def embed(self, images: NDArray[np.uint8] | torch.Tensor) -> NDArray[np.float64]:
        return unit((self._seen(images) - self.mean).flatten(1).double().numpy())

    def _seen(self, images: NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(torch.as_tensor(np.array(images)).float(), 4)


def known(target: Target, monkeypatch: Any) -> Target:
    """Return the target; its victims' other pictures are the taken ones with other pixel noise, judged by pixels."""
    found = Target.people

    def people(self: Target, wanted: Any) -> People:
        whole = found(self, wanted)
        noise = np.random.default_rng(1).normal(0, 8, whole.taken.shape)
        return dataclasses.replace(whole, other=(whole.taken + noise).clip(0, 255).astype(np.uint8))

    def judge(self: Target, wanted: Any, progress: Any = None) -> Pixels:
        return Pixels(self.people(wanted))

    monkeypatch.setattr(Target, "people", people)
    monkeypatch.setattr(Target, "judge", judge)
    monkeypatch.setattr(Target, "teacher", judge)
    return target


def pictures_trained_on(attack: Any, target: Target, monkeypatch: Any) -> tuple[set[bytes], set[bytes]]:
    """Return the pictures that an attack trains on, and those of its victims."""
    trained: set[bytes] = set()
    real = Stream.batches

    def spy(self: Stream, size: int, steps: int, what: str = "") -> Any:
        trained.update(image.tobytes() for image in self.images)
        return real(self, size, 1, what)

    monkeypatch.setattr(Stream, "batches", spy)
    attack.run(target)
    people = target.people(attack)
    return trained, {image.tobytes() for image in np.concatenate([people.taken, people.other])}


def ends(finding: Finding, name: str) -> tuple[float, float]:
    """Return a measure's interval."""
    found = next(measure for measure in finding.measures if measure.name == name)
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


def guessed(finding: Finding, name: str) -> float:
    """Return what no information gives of a measure: its floor, or the mean face if that is better."""
    found = next(measure for measure in finding.measures if measure.name == name)
    assert found.floor is not None
    return found.floor if found.mean_face is None else max(found.floor, found.mean_face)
