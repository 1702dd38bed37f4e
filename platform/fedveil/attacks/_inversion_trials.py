"""Attacked updates: made by the client's own code, seen as the view allows, searched and read in closed form."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedveil import checks, engine, randomness
from fedveil.attacks import _inversion, _inversion_closed, _inversion_scores
from fedveil.attacks._inversion import Prior, Search
from fedveil.attacks._inversion_scores import Embed, Eyes, Trial
from fedveil.attacks._inversion_steps import Known, Work
from fedveil.attacks._judges import Judge
from fedveil.attacks._target import Target
from fedveil.attacks.base import OnFaces, Progress
from fedveil.evaluation.identification import unit
from fedveil.federation.tensors import get_tensors, set_tensors
from fedveil.models.embedding import embed
from fedveil.records import Tensors

if TYPE_CHECKING:
    from fedveil.attacks.gradient_inversion import GradientInversion

_PUBLIC = 128  # public faces that the attacker's prior is learnt on
_SHOWN = 8

Moment = Literal["start", "end"]


@dataclasses.dataclass(frozen=True)
class Point:
    """One kind of update: where it starts from, how many images, how many steps."""

    at: Moment
    images: int
    steps: int

    @property
    def said(self) -> str:
        """What it is, in words."""
        many = "image" if self.images == 1 else "images"
        return f"{self.images} {many}, {self.steps} {'step' if self.steps == 1 else 'steps'}, {self.at} of the run"


class Attacker:
    """One attack on one run: what is known once, and what each update needs."""

    def __init__(self, attack: GradientInversion, target: Target, progress: Progress) -> None:
        self._attack, self._target = attack, target
        public = target.federation.split.public
        images = public.subset(public.readable).images()[:_PUBLIC]
        if len(images) < 2:
            raise checks.UserError(
                f"The attacker learns what inputs look like on public faces, and this source has {len(images)}: raise "
                "data.public_identities."
            )
        released = target.release(images, attack.seed, "prior")
        prior = Prior.of(target.place.fed(target.features(released)))
        show = _inversion_scores.shower(target, released)
        self._said: list[str] = []
        judge = self._judge(progress) if show is not None else None
        self.prior, self.judged = prior, {} if judge is None else judge.said
        self.eyes = Eyes(prior, self.deployed, show, judge, attack.far)
        self.searching = 0.0
        if show is None:
            self._said.append("What the network is fed cannot be turned back into pictures, so inputs are compared.")
        place, federation = target.place, target.federation
        self._network = place.module(federation.backbone()).eval()
        self._tensors: dict[str, Tensors] = {"end": get_tensors(target.backbone)}

    @property
    def reasons(self) -> tuple[str, ...]:
        """What could not be done, and why; each once."""
        return tuple(dict.fromkeys(self._said))

    def _judge(self, progress: Progress) -> Judge | None:
        try:
            return self._target.judge(OnFaces(judge=self._attack.judge, seed=self._attack.seed), progress)
        except checks.UserError as error:
            if self._attack.judge is not None:
                raise
            self._said.append(f"Nobody judges who is on a recovered face. {error}")
            return None

    def deployed(self, inputs: torch.Tensor) -> NDArray[np.float64]:
        """Return templates by the finished model."""
        return self._by(self._target.backbone, inputs)

    def _by(self, network: nn.Module, inputs: torch.Tensor) -> NDArray[np.float64]:
        return unit(embed(network, self._target.place.fed(inputs)).cpu().numpy())

    def _sent(self, moment: Moment) -> Tensors:
        if moment not in self._tensors:
            start = engine.load("fedveil_strategies.inspected:start")
            self._tensors[moment] = start(self._target.federation, self._target.state)
        return self._tensors[moment]

    def _embedder(self, moment: Moment) -> Embed:
        if moment == "end":
            return self.deployed
        network = self._target.place.module(self._target.federation.backbone()).eval()
        set_tensors(network, self._sent(moment))
        return lambda inputs: self._by(network, inputs)

    def iterations(self, points: Sequence[Point]) -> int:
        """Return how often all searches of these kinds of updates call their `step`."""
        attack = self._attack
        each = (_inversion.iterations_of(self._search, point.steps, attack.knows_head) for point in points)
        return attack.updates * sum(each)

    def trials(self, point: Point, step: Callable[[], None]) -> list[Trial]:
        """Return the attacked updates of one kind."""
        embedder = self._embedder(point.at)
        return [self._trial(point, number, embedder, step) for number in range(self._attack.updates)]

    @property
    def _search(self) -> Search:
        attack = self._attack
        return Search(attack.iterations, attack.restarts, attack.lr, attack.total_variation)

    def _trial(self, point: Point, number: int, embedder: Embed, step: Callable[[], None]) -> Trial:
        attack, target = self._attack, self._target
        federation, place = target.federation, target.place
        client = federation.registry[number % len(federation.registry)]
        faces = engine.load("fedveil_clients.inspected:faces_of")(federation, client)
        rng = randomness.public_rng(attack.seed, "attacked", client, point.images, number)
        which = engine.load("fedveil_clients.inspected:chosen")(faces, point.images, rng)
        sent = self._sent(point.at)
        stage = federation.stages[-1]
        seen = engine.load("fedveil_clients.inspected:update_of")(
            federation, target.run.run_id if target.run else "", client, target.state, sent,
            stage.first if point.at == "start" else stage.last, which.tolist(), point.steps,
            randomness.derive_seed(attack.seed, "update", number), point.at == "end",
        )  # fmt: skip
        if point.at == "end" and not seen.kept:
            self._said.append(
                "The run's vault is not here, so at its end clients have the class centres that they began with."
            )
        update = self._observed(seen.update, sent, client, point)
        tensors = {name: place.fed(torch.from_numpy(np.array(value))) for name, value in sent.items()}
        train = federation.settings.train
        work = Work(self._network, tensors, tuple(update), seen.rate, train.weight_decay, point.steps)
        known = None
        if attack.knows_head:
            share = seen.rate * train.head_lr / train.lr
            known = Known(federation.head, place.fed(seen.centres), share, place.fed(seen.labels))
        generator = randomness.public_torch(attack.seed, "inversion", number, point.images)
        begun = time.perf_counter()
        found = _inversion.inverted(work, update, point.images, self.prior, self._search, generator, known, step)
        self.searching += time.perf_counter() - begun
        template, why = _inversion_closed.template(work, update)
        first, why_first = _inversion_closed.first_layer(work, update, tuple(seen.fed.shape[1:]))
        self._said += [f"No closed form for the template: {why}."] if why else []
        self._said += [f"No closed form for the input: {why_first}."] if why_first else []
        if first is not None and point.images == 1:
            found = first[None]
        return Trial(
            _inversion_scores.matched(found.cpu(), seen.fed), seen.fed, seen.pictures, seen.people, seen.others,
            seen.others_pictures, seen.others_people, template, embedder,
        )  # fmt: skip

    def _observed(self, update: Tensors, sent: Tensors, client: str, point: Point) -> Tensors:
        if self._attack.view == "coordinator":
            return update
        released = engine.load("fedveil_strategies.inspected:released")
        seen: Tensors = released(
            self._target.federation, update, sent, self._attack.seed, client, point.at, point.images, point.steps
        )
        return seen

    def panel(self, trials: Sequence[Trial]) -> dict[str, NDArray[np.uint8]] | None:
        """Return originals and what was recovered of them, drawn faces alone."""
        if self.eyes.show is None or not self._target.federation.split.train.synthetic:
            return None
        original = np.concatenate([trial.pictures for trial in trials])[:_SHOWN]
        recovered = np.concatenate([self.eyes.show(trial.found).numpy() for trial in trials])[:_SHOWN]
        return {"original": original, "recovered": recovered}
