"""A network that is trained to draw the picture from what leaves, on pictures of the attacker's own people."""

from __future__ import annotations

import dataclasses
import time
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import checks, randomness
from fedveil.attacks import _learning, _recovered, _releases
from fedveil.attacks._inverter import Inverter
from fedveil.attacks._learning import Learnt
from fedveil.attacks._people import People
from fedveil.attacks._releases import Reads, Releases, Stream
from fedveil.attacks._target import Target
from fedveil.attacks.base import Finding, Level, Measure, OnFaces, Progress, percent_of, settings_of, silent
from fedveil.device import peak_memory_mb
from fedveil.evaluation import reconstruction

_STRUCTURE = 0.1  # weight of 1 - SSIM beside the mean absolute error
_SHOWN = 8


@dataclasses.dataclass(frozen=True)
class Decoder(OnFaces):
    """A U-Net from releases to pictures; loss: mean absolute error plus 0.1 (1 - SSIM), of pictures in 0..1.

    Adam at 1e-3 in batches of 64 is what decides how strong it is (https://arxiv.org/abs/2403.12457). Its state is
    chosen on people of the attacker's whom it was not trained on.

    Attributes:
        attacker: "adaptive" trains on releases, drawn anew; "static" on representations without their randomness or
            adversarial part, and meets releases only when it attacks.
        reads: "features": what the recogniser is fed of a release, "release": what leaves, as it is.
        sizes: numbers of the attacker's pictures to try, for a curve; the largest is the finding. (): all that he has.
        steps: training steps.
        batch_size: pictures in a step.
        lr: largest learning rate of Adam.
        width: channels of the U-Net's first level; cost grows with its square.
        redrawn: share of the visits of a picture that draw anew, in (0, 1]; the others take its last draw. None: all,
            or a tenth where the release runs a network.
    """

    attacker: Literal["adaptive", "static"] = "adaptive"
    reads: Reads = "features"
    sizes: tuple[int, ...] = ()
    steps: int = 300
    batch_size: int = 64
    lr: float = 1e-3
    width: int = 8
    redrawn: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.one_of(("adaptive", "static"), attacker=self.attacker)
        checks.one_of(("features", "release"), reads=self.reads)
        checks.positive(steps=self.steps, batch_size=self.batch_size, lr=self.lr, width=self.width)
        checks.within(1e-6, 1.0, redrawn=1.0 if self.redrawn is None else self.redrawn)
        for size in self.sizes:
            checks.within(50, 10**9, sizes=size)

    @property
    def level(self) -> Level:
        """As set."""
        return self.attacker

    def run(self, target: Target, progress: Progress = silent) -> Finding:
        """Return what the recovered faces are worth; see `base.Attack`."""
        begun = time.perf_counter()
        people, judge = target.people(self), target.judge(self, progress)
        released = target.release(people.taken, self.seed, "victims")
        sizes = sorted({min(size, len(people.attacker)) for size in self.sizes}) or [len(people.attacker)]
        linked: list[float | None] = []
        measures: tuple[Measure, ...] = ()
        for size in sizes:
            mine = _releases.whole_people(people.labels, size, self.seed)
            network, learnt = self._trained(target, people.attacker[mine], people.labels[mine], progress)
            started = time.perf_counter()
            recovered = self._recovered(target, network, released)
            taken = time.perf_counter() - started
            measures = _recovered.measures(target, self, people, judge, recovered)
            linked.append(measures[0].value)
        curves = {"held_out_loss": learnt.curve}
        if len(sizes) > 1:
            curves["linked_by_size"] = {
                "x": sizes, "y": linked, "x_name": "pictures of the attacker's own", "y_name": "linked",
            }  # fmt: skip
        finding = Finding(
            attack="decoder", level=self.level, settings=settings_of(self), protection=target.name,
            what=self._what(mine.size), verdict="", measures=measures, people=people.groups,
            judge={**judge.said, "far": self.far}, curves=curves, notes=(*people.notes, *self._notes(target, learnt)),
            seconds=time.perf_counter() - begun, seconds_per_image=taken / len(released),
            peak_memory_mb=peak_memory_mb(), panel=self._panel(target, people, released, recovered),
        )  # fmt: skip
        verdict = (
            f"Recovered faces are accepted as their person in {percent_of(finding, 'linked')} of cases, and replayed "
            f"to the system itself in {percent_of(finding, 'replayed')}."
        )
        return dataclasses.replace(finding, verdict=verdict)

    def _trained(
        self, target: Target, images: NDArray[np.uint8], labels: NDArray[np.int64], progress: Progress
    ) -> tuple[Inverter, Learnt]:
        own = self._own(target)
        train, held = _releases.parted(labels, self.seed)
        pictures = torch.from_numpy(images).to(target.place.device)
        generator = randomness.public_torch(self.seed, "decoder", "network")
        mean = (pictures[train].float().mean(0) / 255.0).cpu()
        sample = own.of(images[train[:256]], "sample")
        network = target.place.module(Inverter(sample, mean, self.width, generator))
        learnt = _learning.learn(
            network, _loss, Stream(own, images[train], pictures[train]).batches(self.batch_size, self.steps),
            (own.of(images[held], "held out"), pictures[held]), self.steps, self.lr, target.place, progress,
            f"training the decoder on {len(train)} pictures",
        )  # fmt: skip
        return network, learnt

    @torch.no_grad()
    def _recovered(self, target: Target, network: Inverter, released: torch.Tensor) -> torch.Tensor:
        own = self._own(target)
        parts = [network(own.seen(part)) for part in torch.split(released, 64)]
        return (255.0 * torch.cat(parts)).clamp(0, 255).cpu()

    def _what(self, images: int) -> str:
        pairs = "pairs of release and picture" if self.attacker == "adaptive" else "clean representations"
        return f"The attacker trains a U-Net on {pairs} of {images} pictures of his own, and draws victims' faces."

    def _notes(self, target: Target, learnt: Learnt) -> list[str]:
        done = f"{self.steps} steps of {self.batch_size}; held-out loss {learnt.losses[0]:.3f} to {learnt.loss:.3f}."
        return [done, *self._own(target).said]

    def _own(self, target: Target) -> Releases:
        return Releases(target, self.seed, "decoder", self.reads, self.attacker == "static", self.redrawn)

    def _panel(
        self, target: Target, people: People, released: torch.Tensor, recovered: torch.Tensor
    ) -> dict[str, NDArray[np.uint8]] | None:
        if not people.shown:
            return None
        return {
            "original": people.taken[:_SHOWN], "what leaves": target.rendered(released[:_SHOWN]),
            "recovered": recovered[:_SHOWN].round().to(torch.uint8).numpy(),
        }  # fmt: skip


def _loss(network: torch.nn.Module, inputs: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    drawn, wanted = network(inputs), pictures.float() / 255.0
    structure = reconstruction.ssim(255.0 * drawn, 255.0 * wanted).mean().float()
    total: torch.Tensor = (drawn - wanted).abs().mean() + _STRUCTURE * (1.0 - structure)
    return total


METHOD = Decoder
