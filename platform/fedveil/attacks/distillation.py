"""A network that says from what leaves who it is, in the terms of a recogniser of clean faces; no picture is drawn."""

from __future__ import annotations

import copy
import dataclasses
import time
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from torch import nn

from fedveil import checks
from fedveil.attacks import _learning, _recovered, _releases
from fedveil.attacks._judges import Judge
from fedveil.attacks._learning import Learnt
from fedveil.attacks._people import People
from fedveil.attacks._releases import Releases, Stream
from fedveil.attacks._target import Target
from fedveil.attacks.base import Finding, Level, Measure, OnFaces, Progress, percent_of, settings_of, silent
from fedveil.device import peak_memory_mb
from fedveil.evaluation.identification import impostor_scores, ranks, threshold_at, unit
from fedveil.models.embedding import embed

_RIDGE = 1e-3  # of the mean square of an embedding's entries
_FITTED, _BATCH = 1024, 64
Values = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Distillation(OnFaces):
    """A student from releases to a teacher's embeddings of the clean pictures; loss: mean of 1 - cosine.

    AdamW at 1e-3 with decay 1e-4 in batches of 64 (https://arxiv.org/abs/2602.02914). The student is the attacked
    run's own recogniser with a linear map behind it. It begins from the released model and from random values; the
    one that is better after a trial, on people of the attacker whom neither was trained on, goes on.

    Attributes:
        steps: training steps of the student that goes on.
        trial: training steps of each beginning before that; 0: the released model goes on.
        batch_size: pictures in a step; half of them are mirrored, before they are protected.
        lr: largest learning rate.
        weight_decay: of AdamW.
        redrawn: share of the visits of a picture that draw anew, in (0, 1]; the others take its last draw. None: all,
            or a tenth where the release runs a network.
    """

    level: ClassVar[Level] = "adaptive"
    steps: int = 300
    trial: int = 30
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 1e-4
    redrawn: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.positive(steps=self.steps, batch_size=self.batch_size, lr=self.lr)
        checks.non_negative(trial=self.trial, weight_decay=self.weight_decay)
        checks.within(1e-6, 1.0, redrawn=1.0 if self.redrawn is None else self.redrawn)

    def run(self, target: Target, progress: Progress = silent) -> Finding:
        """Return whom the student recognises in releases; see `base.Attack`."""
        begun = time.perf_counter()
        people, teacher = target.people(self), target.teacher(self, progress)
        released = target.release(people.taken, self.seed, "victims")
        student, beginning, learnt = self._trained(target, people, teacher, progress)
        started = time.perf_counter()
        mine = self._embedded(target, student, released)
        taken = time.perf_counter() - started
        finding = Finding(
            attack="distillation", level=self.level, settings=settings_of(self), protection=target.name,
            what=f"The attacker teaches a network, on releases of {len(people.attacker)} pictures of his own, what a "
            "recogniser says of the clean pictures, and looks victims up among other pictures of theirs.",
            verdict="", measures=self._measures(target, people, teacher, mine, released), people=people.groups,
            judge={**teacher.said, "far": self.far}, curves={"held_out_loss": learnt.curve},
            notes=(*people.notes, *self._notes(target, beginning, learnt)), seconds=time.perf_counter() - begun,
            seconds_per_image=taken / len(released), peak_memory_mb=peak_memory_mb(),
        )  # fmt: skip
        verdict = (
            f"A stolen release is linked to another photograph of its person in {percent_of(finding, 'linked')} of "
            f"cases, and finds the person first among {len(mine)} in {percent_of(finding, 'rank1')}."
        )
        return dataclasses.replace(finding, verdict=verdict)

    def _trained(
        self, target: Target, people: People, teacher: Judge, progress: Progress
    ) -> tuple[Student, str, Learnt]:
        train, held = _releases.parted(people.labels, self.seed)
        images = people.attacker[train]
        both = np.concatenate([images, images[..., ::-1]])
        answers = self._answers(target, teacher, both)
        own = self._own(target)
        stream = Stream(own, both, answers)
        chosen = (own.of(people.attacker[held], "held out"), self._answers(target, teacher, people.attacker[held]))
        students = self._students(target, own, images[:_FITTED], answers[: len(images[:_FITTED])])

        def learn(name: str, steps: int, what: str) -> Learnt:
            batches = stream.batches(self.batch_size, steps, f"{what} {name}")
            return _learning.learn(
                students[name], _loss, batches, chosen, steps, self.lr, target.place, progress, f"{what} {name}",
                self.weight_decay,
            )  # fmt: skip

        tried = {name: learn(name, self.trial, "trying a student from").loss for name in students if self.trial}
        best = min(tried, key=lambda name: tried[name], default="the released model")
        return students[best], best, learn(best, self.steps, "training the student from")

    def _students(
        self, target: Target, own: Releases, images: NDArray[np.uint8], answers: torch.Tensor
    ) -> dict[str, Student]:
        networks = {"the released model": copy.deepcopy(target.backbone).requires_grad_(True)}
        if self.trial:
            networks["random values"] = target.place.module(target.federation.backbone())
        given: dict[str, list[torch.Tensor]] = {name: [] for name in networks}
        for start in range(0, len(images), _BATCH):
            inputs = own.of(images[start : start + _BATCH], "fitted", start)
            for name, network in networks.items():
                given[name].append(embed(network, inputs))
        return {
            name: target.place.module(Student(network, torch.cat(given[name]), answers))
            for name, network in networks.items()
        }

    def _answers(self, target: Target, teacher: Judge, images: NDArray[np.uint8]) -> torch.Tensor:
        return torch.from_numpy(teacher.embed(np.ascontiguousarray(images))).float().to(target.place.device)

    def _embedded(self, target: Target, student: Student, released: torch.Tensor) -> Values:
        own = self._own(target)
        parts = [embed(student, own.seen(part)).cpu().numpy() for part in torch.split(released, 64)]
        return unit(np.concatenate(parts))

    def _measures(
        self, target: Target, people: People, teacher: Judge, mine: Values, released: torch.Tensor
    ) -> tuple[Measure, ...]:
        gallery, clean = teacher.embed(people.other), teacher.embed(people.taken)
        guess = np.repeat(teacher.embed(_recovered.mean_face(people)[None]), len(mine), axis=0)
        count = len(mine)

        def within(probe: Values, top: int) -> Values:
            return (ranks(probe, gallery) <= top).astype(np.float64)

        shares: list[tuple[str, str, Values, Values, Values, float]] = [
            ("linked", "releases accepted as their person beside ANOTHER, clean picture of the person, at a false "
             f"accept rate of {self.far:g}", accepted(mine, gallery, self.far),
             accepted(clean, gallery, self.far), accepted(guess, gallery, self.far), self.far),
            ("rank1", f"releases whose person is found first among {count} people's other, clean pictures",
             within(mine, 1), within(clean, 1), within(guess, 1), 1 / count),
            ("rank5", f"releases whose person is among the first five of {count}",
             within(mine, 5), within(clean, 5), within(guess, 5), 5 / count),
        ]  # fmt: skip
        found = [_recovered.measured(self, *share) for share in shares]
        enrolled = target.templates(target.release(people.other, self.seed, "enrolled"))
        first = (ranks(target.templates(released), enrolled) <= 1).astype(np.float64)
        said = f"releases whose person the attacked system itself finds first among {count} other releases"
        deployed = _recovered.measured(self, "deployed_rank1", said, first, first, first, 1 / count)
        return (*found, dataclasses.replace(deployed, ceiling=None, mean_face=None))

    def _notes(self, target: Target, beginning: str, learnt: Learnt) -> list[str]:
        return [
            f"The student began from {beginning}; {self.steps} steps of {self.batch_size}, held-out 1 - cosine "
            f"{learnt.losses[0]:.3f} to {learnt.loss:.3f}.", *self._own(target).said,
        ]  # fmt: skip

    def _own(self, target: Target) -> Releases:
        return Releases(target, self.seed, "distillation", redrawn=self.redrawn)


class Student(nn.Module):
    """A backbone and a linear map from its embedding to the teacher's, which begins at the best in squares."""

    def __init__(self, backbone: nn.Module, embeddings: torch.Tensor, answers: torch.Tensor) -> None:
        super().__init__()
        self.backbone = backbone
        given = functional.normalize(embeddings).double().cpu()
        fitted = torch.cat([given, torch.ones(len(given), 1, dtype=torch.float64)], 1)
        square = fitted.T @ fitted / len(fitted)
        ridge = _RIDGE * square.diagonal().mean() * torch.eye(len(square), dtype=torch.float64)
        weights = torch.linalg.solve(square + ridge, fitted.T @ answers.double().cpu() / len(fitted))
        self.map = nn.Linear(given.shape[1], answers.shape[1])
        with torch.no_grad():
            self.map.weight.copy_(weights[:-1].T)
            self.map.bias.copy_(weights[-1])

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return (B, D) embeddings in the teacher's terms, not normalised, of (B, *layout)."""
        found: torch.Tensor = self.map(functional.normalize(self.backbone(inputs)))
        return found


def accepted(probe: Values, gallery: Values, far: float) -> Values:
    """Return (V,) 1 where a probe is accepted as its person, at a threshold that pairs of DIFFERENT people choose."""
    return _recovered.above(probe, gallery, threshold_at(impostor_scores(probe, gallery), far))


def _loss(network: nn.Module, inputs: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    return (1.0 - functional.cosine_similarity(network(inputs), answers)).mean()


METHOD = Distillation
