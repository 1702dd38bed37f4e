"""What is attacked: a finished run, as the attacker meets it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedveil import randomness
from fedveil.attacks import _judges, _people
from fedveil.attacks._judges import Judge
from fedveil.attacks._people import People
from fedveil.attacks.base import OnFaces, Progress, silent
from fedveil.device import Place
from fedveil.evaluation.identification import unit
from fedveil.federation.federation import Federation
from fedveil.federation.finished import Model
from fedveil.models.embedding import embed
from fedveil.runs import Run

_BATCH = 64


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """A finished run under attack.

    Attributes:
        federation: its configuration and what follows from it.
        state: the public state of its protection, on the host.
        backbone: its recogniser, evaluating, on `place.device`.
        run: its folder; None for one that was made in memory.
    """

    federation: Federation
    state: Mapping[str, torch.Tensor]
    backbone: nn.Module
    run: Run | None = None
    _known: dict[Any, Any] = dataclasses.field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, model: Model, run: Run | None = None) -> Target:
        """Return a finished run's model as a target."""
        return cls(model.federation, model.state, model.backbone, run)

    @property
    def protection(self) -> Any:
        """The attacked protection."""
        return self.federation.protection

    @property
    def name(self) -> str:
        """Name of the attacked protection."""
        return self.federation.settings.protection.name

    @property
    def place(self) -> Place:
        """Where networks and protections run."""
        return self.federation.place

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures."""
        return self.federation.size

    def release(self, images: NDArray[np.uint8], seed: int, *labels: str | int) -> torch.Tensor:
        """Return what leaves of pictures (B, 3, H, W): (B, *representation), on `place.exact`.

        Randomness is drawn from the public (seed, labels, number of the picture): these people's pictures are public,
        and the numbers of a finding are the same every time. Other labels are other draws.
        """
        state, parts = self.place.state(self.state), []
        for start in range(0, len(images), _BATCH):
            part = images[start : start + _BATCH]
            keys = [randomness.test_key(seed, "attack", *labels, start + i) for i in range(len(part))]
            streams = [randomness.SecretStream(key) for key in keys]
            parts.append(self.protection.release(self.place.put(np.ascontiguousarray(part)), state, streams))
        return torch.cat(parts)

    def features(self, released: torch.Tensor) -> torch.Tensor:
        """Return what the recogniser is fed of releases, (B, *layout)."""
        found: torch.Tensor = self.protection.features(released, self.place.state(self.state))
        return found

    def templates(self, released: torch.Tensor) -> NDArray[np.float64]:
        """Return (B, D) what the deployed recogniser makes of releases, of length one."""
        parts = [
            embed(self.backbone, self.place.fed(self.features(part)), _BATCH).cpu().numpy()
            for part in torch.split(released, _BATCH)
        ]
        return unit(np.concatenate(parts))

    def rendered(self, released: torch.Tensor) -> NDArray[np.uint8]:
        """Return (B, 3, H, W) what a person sees in releases."""
        state = self.place.state(self.state)
        parts = [self.protection.render(part, state, self.size).cpu() for part in torch.split(released, _BATCH)]
        found: NDArray[np.uint8] = torch.cat(parts).numpy()
        return found

    def people(self, wanted: OnFaces) -> People:
        """Return the groups of people of an attack with these settings; found once."""
        key = ("people", wanted.victims, wanted.images, wanted.people, wanted.seed, wanted.judge is None)
        if key not in self._known:
            self._known[key] = _people.people_of(self.federation, wanted)
        found: People = self._known[key]
        return found

    def judge(self, wanted: OnFaces, progress: Progress = silent) -> Judge:
        """Return who decides on recovered faces; found once."""
        key = ("judge", wanted.victims, wanted.images, wanted.people, wanted.seed, wanted.judge)
        if key not in self._known:
            people = self.people(wanted)
            if wanted.judge is not None:
                self._known[key] = _judges.onnx(wanted.judge, people.attacker, people.labels)
            else:
                images, labels = people.attacker, people.labels
                if people.judged is not None:
                    images = people.judged.images()
                    labels = np.unique(people.judged.labels, return_inverse=True)[1].astype(np.int64)
                self._known[key] = self.trained(images, labels, wanted.seed, "judge", progress)
        found: Judge = self._known[key]
        return found

    def teacher(self, wanted: OnFaces, progress: Progress = silent) -> Judge:
        """Return the attacker's own recogniser of clean faces: the judge's file, or a network of his people."""
        if wanted.judge is not None:
            return self.judge(wanted, progress)
        key = ("teacher", wanted.victims, wanted.images, wanted.people, wanted.seed)
        if key not in self._known:
            people = self.people(wanted)
            self._known[key] = self.trained(people.attacker, people.labels, wanted.seed, "teacher", progress)
        found: Judge = self._known[key]
        return found

    def trained(
        self, images: NDArray[np.uint8], labels: NDArray[np.int64], seed: int, what: str, progress: Progress
    ) -> Judge:
        """Return a network of the attacker's; runs of one store share it, because it knows nothing of any run."""
        kept = None if self.run is None else Path(self.run.root) / "attackers"
        return _judges.trained(images, labels, seed, self.place.device, kept, progress, what)
