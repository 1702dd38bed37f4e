"""Linear algebra alone: the picture by least squares, by the best linear estimate, or by regression."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil.attacks import _linear_estimates, _linear_measures, _recovered
from fedveil.attacks._judges import Judge
from fedveil.attacks._linear_estimates import Estimate, Learnt, Own, Wanted, seen
from fedveil.attacks._people import People
from fedveil.attacks._target import Target
from fedveil.attacks.base import Finding, Level, Measure, Progress, percent_of, settings_of, silent
from fedveil.device import peak_memory_mb
from fedveil.evaluation import reconstruction
from fedveil.evaluation.identification import impostor_scores, threshold_at
from fedveil.protections.base import to_uint8

_SHOWN = 6


@dataclasses.dataclass(frozen=True)
class Linear(Wanted):
    """Recovers pictures with linear maps alone; no network is trained.

    Where the method's public description says that what leaves is a linear map of the pixels, that map is inverted:
    by least squares, which needs no picture of anybody, and by the best linear estimate under a prior of the attacker's
    own people. A secret choice among public orders is found first. For other methods, and where clipping bends the map,
    a linear map from releases to pictures is learnt from his own people. Which of these is used is decided on people of
    his own.
    """

    level: ClassVar[Level] = "adaptive"

    def run(self, target: Target, progress: Progress = silent) -> Finding:
        """Return what linear algebra recovers; see `base.Attack`."""
        begun = time.perf_counter()
        people, judge = target.people(self), target.judge(self, progress)
        own = Own.of(people, self.seed)
        known = _linear_estimates.known_of(target, self, own)
        estimates = [] if known is None else _linear_estimates.by_known(known)
        plain: Learnt | None = None
        view = ""
        if known is None or known.bent:
            plain = _linear_estimates.learnt(target, self, own, progress)
            learnt, view = _linear_estimates.by_learning(plain, self)
            estimates += learnt
        best, held = _linear_estimates.chosen(estimates, target, self, own)
        released = target.release(people.taken, self.seed, "victims").cpu()
        every, seconds = {}, 0.0
        for estimate in estimates:
            started = time.process_time()
            every[estimate.name] = estimate.recover(released)
            seconds = (time.process_time() - started) / len(released) if estimate is best else seconds
        recovered = every[best.name]
        measures = [*_recovered.measures(target, self, people, judge, recovered)]
        measures += [_quality(estimate, every[estimate.name], people) for estimate in estimates]
        if known is not None:
            measures += _linear_measures.of_known(known, self, people, released)
            found = _linear_measures.order_found(known, target, self, people)
            measures += [] if found is None else [found]
        finding = Finding(
            attack="linear", level=self.level, settings=settings_of(self), protection=target.name,
            what=f"The attacker inverts releases by {best.said}; no network is trained.", verdict="",
            measures=tuple(measures), people=people.groups, judge={**judge.said, "far": self.far},
            curves={} if plain is None else self._curves(plain, view, released, people, judge),
            notes=(*people.notes, *_notes(known is not None, held, best, plain, len(own.trained))),
            seconds=time.perf_counter() - begun, seconds_per_image=seconds, peak_memory_mb=peak_memory_mb(),
            panel=_panel(target, people, released, recovered) if people.shown else None,
        )  # fmt: skip
        verdict = (
            f"Linear algebra recovers pictures that are accepted as their person in {percent_of(finding, 'linked')} of "
            f"cases, beside another picture of the person; the method used was {best.said}."
        )
        return dataclasses.replace(finding, verdict=verdict)

    def _curves(
        self, own: Learnt, view: str, released: torch.Tensor, people: People, judge: Judge
    ) -> dict[str, Mapping[str, Any]]:
        """Return what regression makes of fewer pictures of the attacker's."""
        original, other = torch.from_numpy(people.taken), judge.embed(people.other)
        tau = threshold_at(impostor_scores(judge.embed(people.taken), other), self.far)
        sizes = sorted({max(10, len(own.targets) // part) for part in (16, 4, 1)})
        quality, linked = [], []
        for size in sizes:
            recovered = seen(own.regression(view, size)[0](released))
            quality.append(float(reconstruction.psnr(recovered, original).mean()))
            linked.append(float(_recovered.above(judge.embed(to_uint8(recovered).numpy()), other, tau).mean()))
        name = "pictures of the attacker's own people"
        return {
            "regression_psnr": {"x": sizes, "y": quality, "x_name": name, "y_name": "PSNR of regression, dB"},
            "regression_linked": {"x": sizes, "y": linked, "x_name": name, "y_name": "linked by regression"},
        }


def _quality(estimate: Estimate, recovered: torch.Tensor, people: People) -> Measure:
    """Return the PSNR of an estimate on the victims, who choose none."""
    values = reconstruction.psnr(seen(recovered), torch.from_numpy(people.taken))
    return Measure(f"psnr_{estimate.name}", float(values.mean()), f"pictures recovered by {estimate.said}", "dB")


def _notes(known: bool, held: Mapping[str, float], best: Estimate, own: Learnt | None, there: int) -> tuple[str, ...]:
    listed = ", ".join(f"{name} {value:.1f} dB" for name, value in held.items())
    notes = [f"On people of the attacker's own whom nothing was learnt from: {listed}; {best.name} was taken."]
    if known:
        notes.append(
            "The map from pixels to releases is public: least squares and the search for an order need no picture of "
            "anybody (level static), the best linear estimate needs his own people's pictures, never their releases."
        )
    if own is not None and len(own.targets) < there:
        notes.append(f"Regression learnt from {len(own.targets)} of {there} pictures: more do not fit (attack.floats).")
    return tuple(notes)


def _panel(
    target: Target, people: People, released: torch.Tensor, recovered: torch.Tensor
) -> dict[str, NDArray[np.uint8]]:
    shown = slice(0, _SHOWN)
    return {
        "original": people.taken[shown],
        "what leaves": target.rendered(released[shown].to(target.place.device)),
        "recovered": to_uint8(recovered[shown]).numpy(),
    }


METHOD = Linear
