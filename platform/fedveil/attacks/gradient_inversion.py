"""From one client's update back to what it was computed from."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from fedveil import checks
from fedveil.attacks import _inversion_scores
from fedveil.attacks._inversion_trials import Attacker, Moment, Point
from fedveil.attacks._people import named
from fedveil.attacks._target import Target
from fedveil.attacks.base import Finding, Level, Measure, Progress, settings_of, silent
from fedveil.device import peak_memory_mb

_CURVES = ("linked", "psnr", "feature_cosine", "retrieved", "template_cosine", "closed_form_cosine")


@dataclasses.dataclass(frozen=True)
class GradientInversion:
    """Inverts a client's update: what the coordinator sees gives templates in closed form, and pictures by search.

    The closed form reads the last layer's update; the search looks for inputs whose simulated steps give the update
    (Geiping et al. 2020, https://arxiv.org/abs/2003.14053). The updates are those of the client's own code, on public
    or drawn faces alone. Measures are of the first kind of update listed, curves of all.

    Attributes:
        updates: attacked updates of each kind.
        at: which tensors they start from.
        batches: images that one is computed from.
        steps: local steps, each on all of them.
        view: what is seen: "coordinator", the update itself; "released", what a client-level mechanism makes of it,
            to somebody who knows everybody else's updates.
        knows_head: the attacker also holds class centres and labels.
        iterations: of the search.
        restarts: of the search.
        lr: step of the search.
        total_variation: weight of smoothness.
        judge: ONNX recogniser that says who is on a recovered face; None: the network that judges other attacks, too.
        far: false accept rate at which faces and templates count as accepted.
        seed: public seed.
    """

    level: ClassVar[Level] = "server"

    updates: int = 4
    at: tuple[Moment, ...] = ("start", "end")
    batches: tuple[int, ...] = (1, 4)
    steps: tuple[int, ...] = (1, 5)
    view: Literal["coordinator", "released"] = "coordinator"
    knows_head: bool = False
    iterations: int = 200
    restarts: int = 1
    lr: float = 0.1
    total_variation: float = 0.05
    judge: str | None = None
    far: float = 0.01
    seed: int = 1

    def __post_init__(self) -> None:
        checks.positive(updates=self.updates, iterations=self.iterations, restarts=self.restarts, lr=self.lr)
        checks.non_negative(total_variation=self.total_variation)
        checks.fraction(far=self.far)
        checks.one_of(("coordinator", "released"), view=self.view)
        for name in ("at", "batches", "steps"):
            listed = getattr(self, name)
            if not listed or len(set(listed)) < len(listed):
                raise checks.UserError(f"Expected attack.{name}={list(listed)} to hold one value or more, none twice.")
        for moment in self.at:
            checks.one_of(("start", "end"), at=moment)
        for number in (*self.batches, *self.steps):
            checks.positive(**{"attack.batches and attack.steps": number})

    def run(self, target: Target, progress: Progress = silent) -> Finding:
        """Return what updates of the run's clients tell; see `base.Attack`."""
        begun, federation = time.perf_counter(), target.federation
        points = [Point(*one) for one in itertools.product(self._moments(target), self.batches, self.steps)]
        if self.knows_head and federation.private is not None:
            raise checks.UserError(
                "attack.knows_head=true simulates plain local steps, and this run clips each unit's gradient: leave it "
                "out, and the search finds every slope's length by itself."
            )
        attacker = Attacker(self, target, progress)
        total, done = attacker.iterations(points), 0

        def step() -> None:
            nonlocal done
            done += 1
            progress("inverting updates", done, total)

        measured, people, panel = {}, list[str](), None
        for point in points:
            trials = attacker.trials(point, step)
            measured[point] = _inversion_scores.measures(trials, attacker.eyes, self.seed)
            people += [person for trial in trials for person in trial.people]
            panel = attacker.panel(trials) if point == points[0] else panel
        return Finding(
            attack="gradient_inversion", level="server" if self._as_server else "white-box",
            settings=settings_of(self), protection=target.name, what=self._what(points[0]),
            verdict=_verdict(measured), measures=measured[points[0]], people={"attacked": named(people, len(people))},
            judge={**attacker.judged, "far": self.far} if attacker.judged else {},
            curves=_curves(measured), notes=(*self._notes(target, points), *attacker.reasons),
            seconds=time.perf_counter() - begun,
            seconds_per_image=attacker.searching / len(people),
            peak_memory_mb=peak_memory_mb(), panel=panel,
        )  # fmt: skip

    @property
    def _as_server(self) -> bool:
        return self.view == "coordinator" and not self.knows_head

    def _moments(self, target: Target) -> list[Moment]:
        """Return which tensors can be started from: a phase before the recogniser's rounds keeps no start of theirs."""
        moments = [moment for moment in self.at if moment == "end" or not target.protection.phases]
        if not moments:
            raise checks.UserError(
                f"protection={target.name} learns in rounds of its own before the recogniser's, and where those began "
                "is not kept: set attack.at=end."
            )
        return moments

    def _what(self, first: Point) -> str:
        seen = {
            "coordinator": "The attacker sees one client's update",
            "released": "The attacker sees a released model and knows everybody's update but one client's",
        }[self.view]
        head = ", holds its class centres and labels" if self.knows_head else ""
        return f"{seen}{head}, and looks for what it was computed from. Measures: {first.said}."

    def _notes(self, target: Target, points: Sequence[Point]) -> list[str]:
        """Return what to know before quoting a number."""
        settings, private = target.federation.settings, target.federation.private
        notes = [
            "A low number is a weak attack, not a proof of privacy: larger batches, more steps and trained tensors are "
            "hard for this search and not for every other one (https://arxiv.org/abs/2404.05403).",
            "The attacked clients have the images of one update alone, unvaried, and step on all of them each time: "
            "what an attacker would wish for.",
        ]
        if settings.privacy.client is not None:
            notes.append(
                "privacy.client noises the sum at the coordinator, so the coordinator sees clean updates; the budget "
                "speaks of the released model (attack.view=released)."
                if self.view == "coordinator"
                else "privacy.client: one clipped update with the noise of the whole round, in its first clip; the "
                "coordinator itself sees the update without either (attack.view=coordinator)."
            )
        elif self.view == "released":
            notes.append("Without privacy.client, everybody else's updates taken off the mean leave the update itself.")
        if private is not None:
            notes.append(
                f"privacy.{private.unit}: clip and noise are in the update itself, so no view is without them. All "
                "coins fall on the attacked images."
            )
        if any(point.at == "start" for point in points) and not self.knows_head:
            notes.append(
                "In its first round a client's class centres are those of the public seed, so attack.knows_head=true "
                "asks for no secret there but the labels."
            )
        return notes


def _curves(measured: Mapping[Point, Sequence[Measure]]) -> dict[str, dict[str, Any]]:
    """Return each measure against the number of images, one curve for each start and number of steps."""
    curves: dict[str, dict[str, Any]] = {}
    for point, measures in measured.items():
        for measure in measures:
            if measure.name in _CURVES and measure.value is not None:
                name = f"{measure.name}, {point.at}, steps {point.steps}"
                curve = curves.setdefault(name, {"x": [], "y": [], "x_name": "images", "y_name": measure.name})
                curve["x"].append(point.images)
                curve["y"].append(measure.value)
    return curves


def _verdict(measured: Mapping[Point, Sequence[Measure]]) -> str:
    """Return what came of the first and of the last kind of update."""
    said = []
    for point in list(dict.fromkeys((next(iter(measured)), list(measured)[-1]))):
        found = {measure.name: measure for measure in measured[point]}
        parts = [f"{point.said}:"]
        for name, words in _VERDICT.items():
            measure = found[name]
            if measure.value is not None:
                parts.append(words(measure))
        said.append(f"{parts[0]} {', '.join(parts[1:])}")
    return f"{'; '.join(said)}."


_VERDICT: Mapping[str, Callable[[Measure], str]] = {
    "psnr": lambda measure: f"{measure.value:.1f} dB (mean face {measure.mean_face:.1f})",
    "retrieved": lambda measure: f"{100 * (measure.value or 0):.0f} % find their source",
    "linked": lambda measure: f"{100 * (measure.value or 0):.0f} % linked",
    "closed_form_cosine": lambda measure: f"closed-form template at cosine {measure.value:.2f}",
}


METHOD = GradientInversion
