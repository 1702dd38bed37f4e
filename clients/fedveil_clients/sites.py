"""One client, ready to train: its owner has accepted the run, its release is booked, its images are protected."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import checks, randomness
from fedveil.data.faces import FaceSet
from fedveil.data.stores import Unreadable
from fedveil.device import Place
from fedveil.federation import instruction
from fedveil.federation.federation import Federation
from fedveil.federation.mechanism import mechanism_id
from fedveil.federation.schedule import Stage
from fedveil.privacy.events import Event, LocalRelease
from fedveil.privacy.ledger import Held
from fedveil_clients import adopting, booking, policy, rows
from fedveil_clients.features import Features, Feeding, joined
from fedveil_clients.memo import Listed, ReadOnce
from fedveil_clients.vault import Vault


@dataclasses.dataclass(frozen=True, eq=False)
class Site:
    """One client, ready to train: its protected copies, labels and model skeleton.

    Attributes:
        stage: what is trained: a phase of the protection, or the recogniser.
        features: image numbers (and the step, which keys fresh noise) -> (B, *layout) float32, on the device.
        layout: shape of one image's features.
        views: how often a pass visits each image.
        labels: (N,) class of each image, 0..classes-1, on the device: a person's own, or in private training its row.
        booked: the ledger's rows; nothing leaves before they are on disk.
        people: (N,) which of the client's people an image is of, from 0.
        joining: what was booked, for whom.
    """

    federation: Federation
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
    allowed: tuple[str, ...]
    place: Place
    booked: booking.Booking
    people: NDArray[np.int64]
    joining: booking.Joining


def own_faces(home: Federation, client_id: str, node: policy.Node) -> FaceSet:
    """Return a client's faces under the public caps: all of its own data root, or its share of a simulation's."""
    alone = node.data_root is not None and not node.simulated
    return home.faces_of(home.registry[0] if alone else client_id)


def open_site(
    federation: Federation,
    run_id: str,
    client_id: str,
    node: policy.Node,
    state: Mapping[str, torch.Tensor],
    round_number: int = 1,
) -> Site:
    """Check the owner's policy, book the release, protect the images and return the client ready for a round's stage.

    Nothing is made, and no picture read, before the floor has been checked.

    Raises:
        PolicyRefusal: the run is weaker than the owner's floor, or its limits over runs would be exceeded.
        fedveil.federation.instruction.BadInstruction: another run was accepted under this id.
        fedveil.checks.UserError: the client cannot train on what it has.
    """
    event = federation.release_event(state)
    policy.check(federation, node, event)
    home = node.at_home(federation)
    if node.simulated:
        federation = home  # of the whole registry: its pictures have a place, and the ledger names them by it
    faces = own_faces(home, client_id, node)
    policy.check_count(federation, node, event, len(faces), int(faces.identities.size))
    stage = federation.stage_of(round_number)
    place = node.place(federation)
    feeding = Feeding(federation, stage, state, mechanism_id(federation, state), place)
    vault = Vault(node.vault())
    vault.create()
    try:
        read, names, held = _listed(faces, node, vault, event)
    except Unreadable:  # what only decoding finds costs a picture, and not the client
        faces = faces.without_unreadable()
        read, names, held = _listed(faces, node, vault, event)
    people, local = np.unique(faces.labels, return_inverse=True)
    bank = home.bank
    classes = int(people.size + (0 if bank is None else bank.identities.size))
    if federation.private is not None:
        classes = federation.private.rows
    elif classes < 2 and federation.generator is None:
        raise checks.UserError(
            f"Client {client_id} has one person, and a softmax over one class learns nothing: give every client at "
            "least two people, or set train.bank_identities to add procedural faces as negatives."
        )
    before = vault.joined(run_id, client_id)
    client = booking.Joining(client_id, node, event, feeding.mechanism, held, before)
    pinned = {"configuration": instruction.digest(federation), f"state in stage {stage.index}": feeding.mechanism.hex()}
    vault.same_run(run_id, pinned)
    adopting.ensure(vault, node.data_set)
    booked = booking.accept(federation, run_id, vault, client)
    vault.accepted(run_id, pinned)
    own = _protected(feeding, faces, vault, names, event, read, client)
    labels = local
    if federation.private is not None:
        labels = rows.of_people([faces.names[label] for label in people], classes, federation.settings.seed)[local]
    if bank is not None:
        labels = np.concatenate([local, np.searchsorted(bank.identities, bank.labels) + people.size])
        own = joined(own, len(faces), feeding.empirical(bank, "bank"))
    backbone = _skeleton(federation, stage, _Public(b"" if stage.phase is None else feeding.mechanism, state), place)
    layout = federation.protection.layout(federation.size)
    if stage.phase is not None:
        layout = tuple(own(np.zeros(1, np.int64), 0).shape[1:])
    return Site(
        federation=federation,
        run_id=run_id,
        client_id=client_id,
        vault=vault,
        stage=stage,
        features=own,
        layout=layout,
        views=1 if isinstance(event, LocalRelease) else federation.protection.views,
        labels=place.fed(torch.from_numpy(labels.astype(np.int64))),
        classes=classes,
        backbone=backbone,
        allowed=federation.trainable([name for name, _ in backbone.named_parameters()], stage),
        place=place,
        booked=booked,
        people=local.astype(np.int64),
        joining=client,
    )


def _listed(faces: FaceSet, node: policy.Node, vault: Vault, event: Event) -> tuple[ReadOnce, Listed, list[Held]]:
    """Return a reader of the images, their names, and what the ledger shows of them."""
    read, names = ReadOnce(faces.images), booking.listed(faces, node.data_set)
    return read, names, booking.pictures_of(faces, names, vault, event, read)


def _protected(
    feeding: Feeding, faces: FaceSet, vault: Vault, names: Listed, event: Event, read: ReadOnce, client: booking.Joining
) -> Features:
    """Return the features of the owner's images; their event is in the owner's ledger already."""
    protection, test_seed = feeding.federation.protection, feeding.federation.settings.privacy.test_seed
    if not isinstance(event, LocalRelease):  # no noise protects anyone: the draws may be public
        return feeding.empirical(faces, client.client_id, names.keys)
    if protection.phases:
        raise ValueError("A phase reads clean faces: a protection with a formal guarantee cannot have one.")
    if booking.kept(event):
        key = vault.owner_key() if test_seed is None else randomness.test_key(test_seed, "owner", client.node.data_set)
        copies, _ = vault.memo.open(
            key, feeding.mechanism, names, read,
            lambda images, streams: protection.release(images, feeding.state, streams), lambda: None,
        )  # fmt: skip
        return feeding.kept(copies, client.client_id)
    fresh = randomness.os_key() if test_seed is None else randomness.test_key(test_seed, "fresh", client.node.data_set)
    return feeding.afresh(faces, fresh, client.client_id)


@dataclasses.dataclass(frozen=True)
class _Public:
    """The protection's public state, equal when its hash is."""

    digest: bytes
    state: Mapping[str, torch.Tensor] = dataclasses.field(compare=False)


@functools.lru_cache(maxsize=4)
def _skeleton(federation: Federation, stage: Stage, public: _Public, place: Place) -> torch.nn.Module:
    """One network per process and stage, resident on its device: a round sets all its tensors before it reads any.

    What is constant in a phase's network comes from the state; the recogniser depends on none.
    """
    return place.module(federation.network(stage, public.state))
