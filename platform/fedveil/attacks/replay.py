"""What leaves, used as it is: nothing is recovered and nothing is trained."""

from __future__ import annotations

import dataclasses
import time
from typing import ClassVar

import numpy as np
import torch

from fedveil.attacks import _recovered
from fedveil.attacks._target import Target
from fedveil.attacks.base import Finding, Level, Measure, OnFaces, Progress, percent_of, settings_of, silent
from fedveil.device import peak_memory_mb
from fedveil.evaluation.identification import impostor_scores, threshold_at


@dataclasses.dataclass(frozen=True)
class Replay(OnFaces):
    """Presents what left as it is: the stolen release to the service, and what a person sees in it to everybody.

    It is the weakest attack there is. `linked`, `ssim` and the others are of the picture that the method's own inverse
    gives (`render`); `release_replayed` is the stolen release, sent to the service in place of a probe.
    """

    level: ClassVar[Level] = "static"

    def run(self, target: Target, progress: Progress = silent) -> Finding:
        """Return what the release itself is worth; see `base.Attack`."""
        begun = time.perf_counter()
        people, judge = target.people(self), target.judge(self, progress)
        started = time.perf_counter()
        released = target.release(people.taken, self.seed, "victims")
        seen = target.rendered(released)
        taken = time.perf_counter() - started
        measures = _recovered.measures(target, self, people, judge, torch.from_numpy(seen))
        finding = Finding(
            attack="replay", level=self.level, settings=settings_of(self), protection=target.name,
            what=f"The attacker holds the releases of {len(seen)} people, and uses them as they are.",
            verdict="", measures=(*measures, self._replayed(target, people.other, released)), people=people.groups,
            judge={**judge.said, "far": self.far}, notes=people.notes, seconds=time.perf_counter() - begun,
            seconds_per_image=taken / len(seen), peak_memory_mb=peak_memory_mb(),
        )  # fmt: skip
        verdict = (
            f"The picture in the release is accepted as its person in {percent_of(finding, 'linked')} of cases, and "
            f"the release itself, sent again, in {percent_of(finding, 'release_replayed')}."
        )
        return dataclasses.replace(finding, verdict=verdict)

    def _replayed(self, target: Target, other: np.typing.NDArray[np.uint8], released: torch.Tensor) -> Measure:
        """Return whether the service takes a stolen release for a probe of the person."""
        enrolled, mine = target.templates(target.release(other, self.seed, "enrolled")), target.templates(released)
        tau = threshold_at(impostor_scores(mine, enrolled), self.far)
        values = _recovered.above(mine, enrolled, tau)
        said = f"stolen releases that the service accepts as a probe, at a false accept rate of {self.far:g}"
        measure = _recovered.measured(self, "release_replayed", said, values, values, values, self.far)
        return dataclasses.replace(measure, ceiling=None, mean_face=None)


METHOD = Replay
