"""One client's work in a round, free of Flower: protected copies -> local steps -> update.

Only the update of the allow-listed tensors leaves. The head (class centres), losses, counts and clean images stay.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import checks, config, frequency, randomness
from fedveil.configuration.schema import Config
from fedveil.data import partition
from fedveil.data.faces import FaceSet
from fedveil.federation import federation, schedule, training
from fedveil.federation.schedule import Stage
from fedveil.privacy.events import Event, LocalRelease
from fedveil.records import Tensors, Update
from fedveil_clients import booking, policy
from fedveil_clients.memo import ReadOnce
from fedveil_clients.prepared import SHELF
from fedveil_clients.vault import Vault

Features = Callable[[NDArray[np.int64], int], torch.Tensor]
"""Image numbers and the global step number -> what the recogniser is fed, (B, *layout) float32."""


@dataclasses.dataclass(frozen=True, eq=False)
class Site:
    """One client, ready to train: its protected copies, labels and model skeleton.

    Attributes:
        stage: what is trained: a phase of the protection, or the recogniser.
        features: image numbers (and the step, which keys fresh noise) -> (B, *layout) float32.
        layout: shape of one image's features.
        views: how often a pass visits each image.
        labels: (N,) local class of each image, 0..classes-1.
    """

    settings: Config
    run_id: str
    client_id: str
    vault: Vault
    stage: Stage
    features: Features
    layout: tuple[int, ...]
    views: int
    labels: torch.Tensor
    classes: int
    backbone: torch.nn.Module
    head: Any
    allowed: tuple[str, ...]


def own_faces(settings: Config, client_id: str, node: policy.Node) -> FaceSet:
    """Return the faces of a client: all of its own data root, or its share of the run's data; under the public caps."""
    if node.data_root is None:
        return federation.faces_of(settings, client_id)
    return federation.faces_of(node.at_home(settings), partition.client_ids(1)[0])


def mechanism_id(settings: Config, state: Mapping[str, torch.Tensor], size: tuple[int, int]) -> bytes:
    """Return a hash of everything the noise depends on but the image: settings, learnt state, size, transform."""
    chosen = [settings.protection.name, dict(settings.protection.settings), list(size), frequency.VERSION]
    text = json.dumps(chosen, sort_keys=True)
    digest = hashlib.sha256(text.encode())
    for name in sorted(state):
        digest.update(name.encode() + np.ascontiguousarray(state[name].numpy()).tobytes())
    return digest.digest()


def open_site(
    settings: Config,
    run_id: str,
    client_id: str,
    node: policy.Node,
    state: Mapping[str, torch.Tensor],
    round_number: int = 1,
) -> Site:
    """Check the owner's policy, book the release, protect the images and return the client ready for a round's stage.

    Raises:
        PolicyRefusal: the run is weaker than the owner's floor.
        fedveil.checks.UserError: the client cannot train on what it has.
    """
    protection = config.build(settings, "protection")
    faces = own_faces(settings, client_id, node)
    event = federation.release_event(settings, protection, faces.size, state)
    policy.check(settings, node, event)
    people, local = np.unique(faces.labels, return_inverse=True)
    bank = _bank(node.at_home(settings))
    classes = int(people.size + (0 if bank is None else bank.identities.size))
    if classes < 2:
        raise checks.UserError(
            f"Client {client_id} has one person, and a softmax over one class learns nothing: give every client at "
            "least two people, or set train.bank_identities to add procedural faces as negatives."
        )
    vault = Vault(Path(node.at_home(settings).vault.root))
    vault.create()
    read, mechanism = ReadOnce(faces.images), mechanism_id(settings, state, faces.size)
    pictures = booking.pictures_of(faces, vault, event, read)
    booking.accept(settings, run_id, client_id, node, vault, event, mechanism, pictures)
    stage = schedule.stage_of(settings, round_number, protection)
    own = _protected(settings, protection, stage, state, faces, vault, node.data_set, event, read, client_id, mechanism)
    labels = local
    if bank is not None:
        labels = np.concatenate([local, np.searchsorted(bank.identities, bank.labels) + people.size])
        own = _joined(own, len(faces), _empirical(settings, protection, stage, state, bank, "bank", mechanism))
    if stage.phase is None:
        backbone = _skeleton(config.to_json(settings), faces.size)
    else:
        public = _Public(mechanism_id(settings, state, faces.size), state)
        backbone = _phase_skeleton(config.to_json(settings), faces.size, stage.index, public)
    names = [name for name, _ in backbone.named_parameters()]
    return Site(
        settings=settings,
        run_id=run_id,
        client_id=client_id,
        vault=vault,
        stage=stage,
        features=own,
        layout=protection.layout(faces.size) if stage.phase is None else tuple(own(np.zeros(1, np.int64), 0).shape[1:]),
        views=1 if isinstance(event, LocalRelease) else protection.views,
        labels=torch.from_numpy(labels.astype(np.int64)),
        classes=classes,
        backbone=backbone,
        head=config.build(settings, "head"),
        allowed=federation.trainable(settings, names, stage),
    )


@functools.lru_cache(maxsize=2)
def _skeleton(config_json: str, size: tuple[int, int]) -> torch.nn.Module:
    """One module per process: a round sets all its tensors before it reads any."""
    settings = config.from_json(config_json)
    return federation.backbone(settings, config.build(settings, "protection"), size)


@dataclasses.dataclass(frozen=True)
class _Public:
    """The protection's public state, equal when its hash is."""

    digest: bytes
    state: Mapping[str, torch.Tensor] = dataclasses.field(compare=False)


@functools.lru_cache(maxsize=2)
def _phase_skeleton(config_json: str, size: tuple[int, int], index: int, public: _Public) -> torch.nn.Module:
    """One network per process and phase, like `_skeleton`; what is constant in it comes from the state."""
    settings = config.from_json(config_json)
    protection = config.build(settings, "protection")
    return federation.network(
        settings, protection, schedule.stages(settings, protection)[index], size, public.state
    )


def train_round(site: Site, round_number: int, tensors: Tensors) -> Update:
    """Train from the global tensors with the client's own head and return local minus global, float32.

    The batches are a function of (seed, client, step number), so a round run again gives the same update.
    """
    train = site.settings.train
    federation.set_tensors(site.backbone, tensors)
    phase = "" if site.stage.phase is None else f"phase{site.stage.index}"
    heads = site.vault.heads(site.run_id, site.client_id, phase)
    centres = heads.before(round_number)
    start = torch.from_numpy(centres) if centres is not None else _first_head(site)
    images = int(site.labels.numel())
    count = images * site.views
    steps = train.local.steps or training.steps_for_epochs(count, train.batch_size, train.local.epochs or 1)
    first = (round_number - 1) * steps
    indices = training.batch_indices(
        count, train.batch_size, site.settings.seed, "batches", site.client_id, start_step=first, steps=steps
    )
    indices = (index % images for index in indices)
    training.local_sgd(
        site.backbone, start, site.head, _batches(site, indices, first), train.lr,
        weight_decay=train.weight_decay, centre_lr=train.head_lr, trainable=site.allowed,
    )  # fmt: skip
    heads.save(round_number, start.detach().numpy())
    after = dict(site.backbone.named_parameters())
    return Update(site.client_id, {name: after[name].detach().numpy() - tensors[name] for name in site.allowed})


def _batches(
    site: Site, indices: Iterator[NDArray[np.int64]], first: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for step, index in enumerate(indices, first):
        yield site.features(index, step), site.labels[torch.from_numpy(index)]


def _first_head(site: Site) -> torch.Tensor:
    label = () if site.stage.phase is None else (site.stage.index,)
    with torch.inference_mode():
        dimension = int(site.backbone(torch.zeros(1, *site.layout)).shape[1])
    return training.head_init(
        site.classes, dimension, randomness.public_torch(site.settings.seed, "head", site.client_id, *label)
    )


def _bank(settings: Config) -> FaceSet | None:
    wanted = settings.train.bank_identities
    if wanted == 0:
        return None
    public = federation.split(settings).public
    if wanted > public.identities.size:
        raise checks.UserError(
            f"train.bank_identities={wanted} exceeds the {public.identities.size} public people of this data source."
        )
    return public.subset(np.isin(public.labels, public.identities[:wanted]))


def _joined(own: Features, count: int, public: Features) -> Features:
    """Image numbers below `count` are the owner's, those from `count` on the public bank's."""

    def features(index: NDArray[np.int64], step: int) -> torch.Tensor:
        mine = index < count
        if mine.all():
            return own(index, step)
        if not mine.any():
            return public(index - count, step)
        both = torch.cat([own(index[mine], step), public(index[~mine] - count, step)])
        order = np.argsort(np.concatenate([np.flatnonzero(mine), np.flatnonzero(~mine)]))
        return both[torch.from_numpy(order)]

    return features


def _protected(
    settings: Config,
    protection: Any,
    stage: Stage,
    state: Mapping[str, torch.Tensor],
    faces: FaceSet,
    vault: Vault,
    data_set: str,
    event: Event,
    read: ReadOnce,
    client_id: str,
    mechanism: bytes,
) -> Features:
    """Return the features of the owner's images; their event is in the owner's ledger already."""
    test_seed = settings.privacy.test_seed
    if not isinstance(event, LocalRelease):  # no noise protects anyone: the draws may be public
        return _empirical(settings, protection, stage, state, faces, client_id, mechanism)
    if protection.phases:
        raise ValueError("A phase reads clean faces: a protection with a formal guarantee cannot have one.")
    if booking.kept(event):
        key = vault.owner_key() if test_seed is None else randomness.test_key(test_seed, "owner", data_set)
        copies, _ = vault.memo.open(
            key, mechanism, faces.keys, read,
            lambda images, streams: protection.release(images, state, streams), lambda: None,
        )  # fmt: skip
        return lambda index, step: protection.features(copies.batch(index), state)
    fresh = randomness.os_key() if test_seed is None else randomness.test_key(test_seed, "fresh", data_set)

    def noised(index: NDArray[np.int64], step: int) -> torch.Tensor:
        streams = [randomness.SecretStream(randomness.subkey(fresh, step, place)) for place in range(len(index))]
        released = protection.release(torch.from_numpy(faces.images(index)), state, streams)
        fed: torch.Tensor = protection.features(released, state)
        return fed

    return noised


def _empirical(
    settings: Config,
    protection: Any,
    stage: Stage,
    state: Mapping[str, torch.Tensor],
    faces: FaceSet,
    where: str,
    mechanism: bytes,
) -> Features:
    """Return features whose draws are public: of procedural faces, or of a protection without a formal guarantee.

    A protection that keeps one draw per image has one here too; else every use draws afresh.
    """
    trained: Any = protection.training_features if stage.phase is None else stage.phase.features

    def prepare(index: NDArray[np.int64]) -> torch.Tensor | None:
        found: torch.Tensor | None = protection.prepared(torch.from_numpy(faces.images(index)), state)
        return found

    prepared = SHELF.of(mechanism, faces.keys, prepare)

    @functools.cache
    def person(label: int) -> bytes:  # by client and name: local numbers would collide across clients
        return randomness.test_key(settings.seed, "person", where, faces.names[label])

    def features(index: NDArray[np.int64], step: int) -> torch.Tensor:
        uses: Iterable[tuple[str | int, ...]] = ((where, step, place) for place in range(len(index)))
        if protection.memoise:
            uses = (("image", faces.store.key(int(faces.index[i]))) for i in index)
        keys = (randomness.test_key(settings.seed, "draw", *use) for use in uses) if protection.noise else ()
        streams = [randomness.SecretStream(key) for key in keys]
        given = (torch.from_numpy(faces.images(index)), state, streams, [person(int(k)) for k in faces.labels[index]])
        known = prepared(index) if stage.phase is None else None
        fed: torch.Tensor = trained(*given) if known is None else trained(*given, known)
        return fed

    return features
