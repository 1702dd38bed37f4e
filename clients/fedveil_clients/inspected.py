"""What one client's update would be, computed by a client's own round, for `fedveil attack` on public faces alone.

Accounts, keys and class centres of the round are those of a vault that is thrown away; from the run's own vault the
class centres are read, where it is on this machine. Noise and coins are public draws: nobody's secret is at stake.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import checks
from fedveil.configuration import places
from fedveil.configuration.recipe import Augment
from fedveil.data.faces import FaceSet
from fedveil.federation import private_steps, rates
from fedveil.federation.federation import Federation
from fedveil.records import Tensors
from fedveil_clients import local, sites, training
from fedveil_clients.features import Features
from fedveil_clients.policy import Node
from fedveil_clients.vault import Vault

MOST = 32  # other pictures of a client beside those that are attacked


@dataclasses.dataclass(frozen=True, eq=False)
class Inspected:
    """One update beside what it was computed from.

    The first group leaves the client; the second is what an attack is judged by, or what a white box holds.

    Attributes:
        update: local minus global, of the allow-list.
        rate: learning rate of the backbone in this round, which is public.
        fed: (B, *layout) what the network was fed in the first step.
        pictures: (B, 3, H, W) the pictures it was made of.
        people: who is on each of them.
        others: (n, *layout) the same of at most `MOST` other pictures; one of each attacked person first.
        others_pictures: (n, 3, H, W) those.
        others_people: who is on each of those.
        labels: (B,) class of each picture.
        centres: (K, D) class centres that the round began with.
        kept: the centres are those that the run left in its vault, not those of the public seed.
    """

    update: Tensors
    rate: float
    fed: torch.Tensor
    pictures: NDArray[np.uint8]
    people: tuple[str, ...]
    others: torch.Tensor
    others_pictures: NDArray[np.uint8]
    others_people: tuple[str, ...]
    labels: torch.Tensor
    centres: torch.Tensor
    kept: bool


def faces_of(federation: Federation, client_id: str) -> FaceSet:
    """Return a client's faces, if everybody may read them.

    Raises:
        fedveil.checks.UserError: they are somebody's, and nobody has declared them public.
    """
    faces = federation.faces_of(client_id)
    if not (faces.synthetic or faces.public or federation.split.public_benchmark):
        raise checks.UserError(
            f"The faces of client {client_id} (data={federation.settings.data.name}) are not public, and an attack on "
            "its update would show them: attack a run of the same settings on data=procedural or data=lfw."
        )
    return faces


def chosen(faces: FaceSet, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the numbers of `count` of a client's images, of as many people as there are, drawn by a public generator.

    Raises:
        fedveil.checks.UserError: the client has fewer.
    """
    if count > len(faces):
        raise checks.UserError(
            f"An update of {count} images was asked for (attack.batches), and a client of this run has {len(faces)}: "
            "lower attack.batches."
        )
    order = rng.permutation(len(faces))
    labels = faces.labels[order]
    turn = np.array([(labels[:place] == label).sum() for place, label in enumerate(labels)])
    return order[np.argsort(turn, kind="stable")][:count]


def update_of(
    federation: Federation, run_id: str, client_id: str, state: Mapping[str, torch.Tensor], tensors: Tensors,
    round_number: int, images: Sequence[int], steps: int, seed: int, ended: bool = False,
) -> Inspected:  # fmt: skip
    """Return the update of a client that has these images alone, and makes `steps` steps on all of them.

    Everything else is the run's: learning rates, weight decay, class centres, clip, divisor and noise of private steps.
    Pictures are not varied, and every private coin falls on them: what an attacker would wish for.

    Args:
        federation: of the run.
        run_id: the run, whose vault is asked for class centres.
        client_id: whose images.
        state: public state of the protection.
        tensors: what the round sends.
        round_number: which round's rates and noise.
        images: numbers among the client's images.
        steps: local steps of the round.
        seed: public seed of draws.
        ended: take the centres after the round, not those before it.

    Raises:
        fedveil.checks.UserError: the faces are not public, or the run sends more than tensors.
    """
    faces, settings = faces_of(federation, client_id), federation.settings
    if settings.train.correction != "none":
        raise checks.UserError(
            f"train.correction={settings.train.correction} sends variates beside the tensors, which this attack does "
            "not read; attack a run with train.correction=none."
        )
    views = 1 if federation.private is not None else federation.protection.views
    if federation.private is None and len(images) * views > settings.train.batch_size:
        raise checks.UserError(
            f"A step of this run reads train.batch_size={settings.train.batch_size} views of images, and "
            f"{len(images)} images with {views} views each were asked for: lower attack.batches."
        )
    staged, which = _staged(federation, steps, seed), np.asarray(images, np.int64)
    rest = _rest(faces, which)
    with tempfile.TemporaryDirectory() as folder:
        whole = sites.open_site(staged, "inspected", client_id, _node(staged, folder), state, round_number)
        whole.booked.on_disk()
        watched = _Watched(whole.features, which)
        site = dataclasses.replace(
            whole, labels=whole.labels[whole.place.fed(torch.from_numpy(which))], people=whole.people[which],
            features=watched,
        )  # fmt: skip
        heads, kept = site.vault.heads(site.run_id, client_id), None
        if round_number > site.stage.first or ended:
            kept = Vault(Path(settings.vault.root)).heads(run_id, client_id).before(round_number + int(ended))
        if kept is not None:
            heads.save(round_number - 1, kept)
        centres = training.centres_before(site, heads, round_number).cpu()
        step = local.train_round(staged)
        update = step(site, round_number, tensors).tensors
        return Inspected(
            update=update,
            rate=settings.train.lr * rates.factor(settings.train.schedule, site.stage, round_number),
            fed=torch.stack([watched.first[place] for place in range(len(which))]),
            pictures=faces.images(which),
            people=_names(faces, which),
            others=whole.features(rest, 0).detach().cpu() if rest.size else torch.empty(0, *site.layout),
            others_pictures=faces.images(rest),
            others_people=_names(faces, rest),
            labels=site.labels.cpu(),
            centres=centres,
            kept=kept is not None,
        )


def _rest(faces: FaceSet, which: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the numbers of other pictures: first another one of each attacked person who has one."""
    left = np.setdiff1d(np.arange(len(faces)), which)
    first = [left[faces.labels[left] == label][:1] for label in dict.fromkeys(faces.labels[which].tolist())]
    mates = np.concatenate([*first, np.empty(0, np.int64)])
    return np.concatenate([mates, np.setdiff1d(left, mates)])[:MOST]


def _names(faces: FaceSet, which: NDArray[np.int64]) -> tuple[str, ...]:
    return tuple(faces.names[label] for label in faces.labels[which])


class _Watched:
    """The features of some of a client's images, by their place among them; remembers each one's first."""

    def __init__(self, features: Features, which: NDArray[np.int64]) -> None:
        self._features, self._which = features, which
        self.first: dict[int, torch.Tensor] = {}

    def __call__(self, index: NDArray[np.int64], step: int) -> torch.Tensor:
        found = self._features(self._which[index], step)
        for place, one in zip(index.tolist(), found, strict=True):
            self.first.setdefault(place, one.detach().cpu().clone())
        return found


def _staged(federation: Federation, steps: int, seed: int) -> Federation:
    settings = federation.settings
    local = dataclasses.replace(settings.train.local, steps=steps, epochs=None)
    train = dataclasses.replace(settings.train, local=local, augment=Augment())
    privacy = dataclasses.replace(settings.privacy, test_seed=seed)
    budget = federation.private
    if budget is not None:
        drawn = {"sampling_rate": 1.0, "views": 1, "expected_batch": private_steps.expected_batch(settings)}
        privacy = dataclasses.replace(privacy, **{budget.unit: dataclasses.replace(budget, **drawn)})  # type: ignore[arg-type]
    return Federation(dataclasses.replace(settings, train=train, privacy=privacy))


def _node(federation: Federation, folder: str) -> Node:
    settings = federation.settings
    place = places.of_source(settings.data.name)
    return Node(
        "inspected", allow_test_seed=True, data_root=None if place is None else settings.data.settings.get(place),
        vault_root=f"{folder}/vault", simulated=True, device=settings.device, device_batch=settings.device_batch,
    )  # fmt: skip
