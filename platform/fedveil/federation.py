"""What both sides derive from one configuration: the data split, the registry, the backbone's skeleton, local steps.

Everything here is a function of public values, so the coordinator and every owner arrive at the same answer.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedveil import checks, config, randomness, training
from fedveil.data import partition
from fedveil.data.faces import FaceSet
from fedveil.data.split import Split
from fedveil.privacy.events import Event
from fedveil.schedule import Stage
from fedveil.schema import Config, Partition


@functools.lru_cache(maxsize=1)
def _defaults() -> Config:
    """Everything but the data, the same for all: a thousand clients read the YAML files once."""
    return config.load(["protection=none"])


@functools.lru_cache(maxsize=2)
def _split(data_json: str, seed: int) -> Split:
    """One decoded copy per process: a simulation's clients share it, and forked workers inherit it."""
    loaded: Split = config.build(config.from_json(data_json), "data").load(seed)
    return loaded


def split(settings: Config) -> Split:
    """Return the data of a configuration; kept per process, since every client of a simulation asks for it."""
    only = dataclasses.replace(_defaults(), data=settings.data, seed=settings.seed)
    return _split(config.to_json(only), settings.seed)


@functools.lru_cache(maxsize=2)
def _shares(data_json: str, seed: int, clients: int, dealt: Partition) -> partition.Shares:
    return partition.deal(_split(data_json, seed).train, clients, seed, dealt)


def data_id(settings: Config) -> str:
    """Return the default id of a simulation's data: SOURCE/DEAL, before the client's name.

    The source is where the pictures are; the deal is who got which people. The same pictures dealt anew are the same
    source, so that totals over deals can be formed.

    >>> data_id(config.load(["protection=none"]))[:11]
    'procedural-'
    """
    place = next((settings.data.settings[key] for key in ("root", "path") if key in settings.data.settings), None)
    where = dict(settings.data.settings) if place is None else str(Path(str(place)).expanduser().resolve())
    dealt = [dict(settings.data.settings), settings.seed, settings.train.clients]
    deal = _short([*dealt, dataclasses.asdict(settings.partition)])
    return f"{settings.data.name}-{_short([settings.data.name, where])}/{deal}"


def _short(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:6]


def faces_of(settings: Config, client_id: str) -> FaceSet:
    """Return the faces of one client of the registry: whole people, under the public caps.

    Raises:
        fedveil.checks.UserError: no such client.
    """
    train = split(settings).train
    only = dataclasses.replace(_defaults(), data=settings.data, seed=settings.seed)
    shares = _shares(config.to_json(only), settings.seed, settings.train.clients, settings.partition)
    if client_id not in shares:
        raise checks.UserError(f"Client {client_id!r} is not in the registry of {settings.train.clients} clients.")
    return train.subset(shares[client_id])


def backbone(settings: Config, protection: Any, size: tuple[int, int]) -> nn.Module:
    """Return the initial backbone: the same tensors on every machine, from the public seed."""
    generator = randomness.public_torch(settings.seed, "backbone")
    built: nn.Module = protection.network(config.build(settings, "model"), size, generator)
    return built


def network(settings: Config, protection: Any, stage: Stage, size: tuple[int, int], state: Any) -> nn.Module:
    """Return the initial network of a stage: the phase's, or the recogniser."""
    if stage.phase is None:
        return backbone(settings, protection, size)
    generator = randomness.public_torch(settings.seed, "phase", stage.index)
    return stage.phase.network(config.build(settings, "model"), size, state, generator)


def get_tensors(module: nn.Module) -> dict[str, NDArray[np.float32]]:
    """Return float32 copies of a module's parameters; modules with buffers are refused."""
    if any(True for _ in module.buffers()):
        raise checks.UserError("A backbone must have no buffers (use GroupNorm): they would need rules of their own.")
    return {name: tensor.detach().numpy().astype(np.float32, copy=True) for name, tensor in module.named_parameters()}


def set_tensors(module: nn.Module, tensors: Any) -> None:
    """Copy tensors into a module's parameters; a missing name or another shape is refused."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name not in tensors or tuple(tensors[name].shape) != tuple(parameter.shape):
                found = tuple(tensors[name].shape) if name in tensors else "nothing"
                raise checks.UserError(f"Expected tensor {name} of shape {tuple(parameter.shape)}, got {found}.")
            parameter.copy_(torch.from_numpy(np.array(tensors[name], dtype=np.float32)))


def trainable(settings: Config, names: list[str], stage: Stage | None = None) -> tuple[str, ...]:
    """Return the allow-list: the only tensors that are aggregated and that an update may carry; all, in a phase."""
    if stage is not None and stage.phase is not None:
        return tuple(names)
    return training.select_trainable(names, settings.train.trainable)


def releases_per_image(settings: Config) -> int:
    """Return how often one image can be freshly noised in a run: a public bound, 1 when copies are memoised.

    A batch holds an image at most once per pass, so `steps` batches of a round hold it at most `steps` times.
    """
    if dict(settings.protection.settings).get("memoise", True):
        return 1
    return settings.train.rounds * (settings.train.local.steps or (settings.train.local.epochs or 0) + 1)


def release_event(settings: Config, protection: Any, size: tuple[int, int], state: Any) -> Event:
    """Return the event of one client's images over the whole run: the same on both sides."""
    event: Event = protection.event(
        size, state, releases_per_image(settings), settings.partition.max_images_per_identity
    )
    return event
