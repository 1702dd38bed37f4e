"""One configuration and all that both sides derive from it, each computed once and kept on the object.

Everything here is a function of public values, so the coordinator and every owner arrive at the same answer. The
object is handed on; nobody derives again.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from fedveil import checks, config, device, randomness
from fedveil.configuration.schema import Config, Group, Partition
from fedveil.configuration.training_budget import TrainingBudget
from fedveil.data import verification
from fedveil.data.faces import FaceSet
from fedveil.data.pairs import PairSet
from fedveil.data.partition import Registry, Shares, deal
from fedveil.data.split import Split
from fedveil.federation import (
    generating,
    groups,
    planning,
    private_steps,
    recipe,
    schedule,
    synthetic,
    training,
)  # fmt: skip
from fedveil.federation.groups import Groups
from fedveil.federation.schedule import Stage
from fedveil.generators.base import learnt
from fedveil.privacy import events
from fedveil.privacy.events import Event, Relation, Release


@dataclasses.dataclass(frozen=True, eq=False)
class Federation:
    """What a configuration comes to; equal only to itself, so it may key what is kept beside it.

    >>> federation = Federation.of(["protection=none", "train.rounds=3", "train.clients=4"])
    >>> federation.total_rounds, federation.registry[-1], federation.size
    (3, 'c0004', (32, 32))
    """

    settings: Config

    def __post_init__(self) -> None:
        groups.check(self.settings)
        private_steps.check(self.settings, self.protection)
        recipe.check(self.settings, self.protection)
        generating.check(self.settings)
        for unit, (setting, delta) in planning.deltas(self.settings).items():
            planning.check_delta(setting, delta, self.units(unit), unit, self.settings.policy.max_delta)

    @classmethod
    def of(cls, words: Iterable[str] = ()) -> Federation:
        """Return the federation that command-line words plan: noise is found for a client-level target."""
        return cls(planning.planned(config.load(words)))

    @functools.cached_property
    def protection(self) -> Any:
        """The protection, built from its settings (see `protections.base.Protection`)."""
        return config.build(self.settings, "protection").with_noise(self.settings.privacy.noise)

    @functools.cached_property
    def model(self) -> Any:
        """The backbone's settings, with `build`."""
        return config.build(self.settings, "model")

    @functools.cached_property
    def generator(self) -> Any | None:
        """What is trained in the recogniser's place (`generators`), or None: the recogniser is."""
        return None if self.settings.generator.name == "none" else config.build(self.settings, "generator")

    @functools.cached_property
    def head(self) -> Any:
        """The margin head."""
        return config.build(self.settings, "head")

    @functools.cached_property
    def aggregation(self) -> Any:
        """The server optimiser."""
        return config.build(self.settings, "aggregation")

    @functools.cached_property
    def data(self) -> Any:
        """The data source's settings, with `load`."""
        return config.build(self.settings, "data")

    @functools.cached_property
    def place(self) -> device.Place:
        """Where this machine computes, as the configuration says; a node's own words say where a node does.

        Raises:
            fedveil.checks.UserError: no such device, with those that exist.
        """
        return device.place(self.settings.device, self.settings.precision, self.settings.device_batch)

    # --- data and registry ---------------------------------------------------------------------------------------

    @functools.cached_property
    def split(self) -> Split:
        """The data; a process decodes one source once, whoever asks, and forked workers inherit it."""
        return _split(config.to_json(_only_data(self.settings)), self.settings.seed)

    def over(self, split: Split) -> Federation:
        """Return the same configuration over people that are handed over instead of those that its source has."""
        found = Federation(self.settings)
        found.__dict__["split"] = split
        return found

    @functools.cached_property
    def pairs(self) -> PairSet:
        """The verification pairs: those of `evaluation.pairs`, else the source's; read once per process."""
        wanted = self.settings.evaluation
        if wanted.pairs is None:
            return self._evaluated()
        return _pairs(wanted.pairs, self.size[0], wanted.pairs_are_public, self.training_place)

    def _evaluated(self) -> PairSet:
        return self.split.evaluation

    @property
    def training_place(self) -> str:
        """Where the people are who train, by its absolute name; empty where that is not known."""
        return str(self.data.place(self.settings.seed))

    @functools.cached_property
    def public(self) -> FaceSet:
        """Public or drawn faces, from which budgets, radii and starts may be learnt."""
        return self.split.public

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images, pixels; no image is read to know them."""
        side = int(self.settings.data.settings["size"])
        return side, side

    @functools.cached_property
    def registry(self) -> Registry:
        """The ids of all clients, in order; none of them is kept in memory."""
        return Registry(self.settings.train.clients)

    @functools.cached_property
    def shares(self) -> Shares:
        """Client id -> its images' numbers in `split.train`: whole people, under the public caps."""
        settings = self.settings
        return _shares(self.split, settings.train.clients, settings.seed, settings.partition)

    def check(self) -> None:
        """Refuse what cannot be trained before anything is written: size, trained tensors, data, clients without faces.

        Raises:
            fedveil.checks.UserError: naming the setting and the remedy.
        """
        self.check_evaluation()
        _ = self.shares  # once, and not by every client

    def check_evaluation(self) -> None:
        """Refuse what cannot be trained or evaluated, whoever has faces.

        Raises:
            fedveil.checks.UserError: naming the setting and the remedy.
        """
        _ = self.place
        self.protection.representation(self.size)
        self.trainable([name for name, _ in self.backbone().named_parameters()])
        pairs = self.pairs.same
        if min(int(pairs.sum()), int((~pairs).sum())) < 2:
            raise checks.UserError(
                f"Evaluation needs two pairs of one person and two of different people, and has {int(pairs.sum())} and "
                f"{int((~pairs).sum())}: raise data.pairs, or add people with two pictures or more."
            )

    def check_clients(self) -> None:
        """Refuse a simulation of which most clients could not train: owners' nodes have faces of their own instead.

        Raises:
            fedveil.checks.UserError: naming the settings and the remedy.
        """
        if self.generator is not None:  # it tells nobody from anybody
            return
        if self.private is not None:  # class centres are public in number: one person has others to be told from
            return
        bank = 0 if self.bank is None else self.bank.identities.size
        lonely = int((np.diff(self.shares.edges) + bank < 2).sum())
        if 2 * lonely > len(self.registry):
            raise checks.UserError(
                f"{lonely} of {len(self.registry)} clients have one person, and a softmax over one class learns "
                "nothing: give every client two people (train.clients, data, partition.max_identities), or set "
                "train.bank_identities to add public faces as negatives."
            )

    @functools.cached_property
    def bank(self) -> FaceSet | None:
        """Public or synthetic people that every client adds as negatives; None where there are none.

        Raises:
            fedveil.checks.UserError: there are fewer, or the synthetic ones are others than the run was planned with.
        """
        wanted = self.settings.train.bank_identities
        if wanted == 0:
            return None
        if synthetic.has_bank(self.settings):
            return synthetic.bank(self.settings)
        public = self.public
        if wanted > public.identities.size:
            raise checks.UserError(
                f"train.bank_identities={wanted} exceeds the {public.identities.size} public people of this source."
            )
        return public.subset(np.isin(public.labels, public.identities[:wanted]))

    def faces_of(self, client_id: str) -> FaceSet:
        """Return the faces of one client of the registry.

        Raises:
            fedveil.checks.UserError: no such client.
        """
        if client_id not in self.registry:
            raise checks.UserError(self.registry.unknown(client_id))
        return self.split.train.subset(self.shares[client_id])

    @functools.cached_property
    def source_id(self) -> str:
        """The default id of all pictures at one place: an account that no other setting moves them out of.

        Neither the name of the source nor its size is in it: whoever chooses how a folder is read (`data=folder`,
        `data=lfw`) must not choose what it has spent.

        >>> Federation.of(["protection=none"]).source_id[:9]
        'pictures-'
        """
        return f"pictures-{_short(self.data.place(self.settings.seed))}"

    @functools.cached_property
    def data_id(self) -> str:
        """The default id of a simulation's data: SOURCE/DEAL, before the client's name (`privacy.ledger.deal_of`).

        The source is where the pictures are; the deal is who got which people. The same pictures dealt anew are the
        same source, so that totals over deals can be formed.
        """
        settings, data = self.settings, self.settings.data
        dealt = [data.name, dict(data.settings), settings.seed, settings.train.clients]
        return f"{self.source_id}/{_short([*dealt, dataclasses.asdict(settings.partition)])}"

    # --- schedule and networks -----------------------------------------------------------------------------------

    @functools.cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The protection's phases, then the recogniser's rounds."""
        return schedule.stages(self.protection, self.settings.train.rounds)

    @property
    def total_rounds(self) -> int:
        """Rounds of all stages: every one of them releases a model, so budgets pay for them all."""
        return self.stages[-1].last

    def stage_of(self, round_number: int) -> Stage:
        """Return the stage that a round belongs to."""
        return next(stage for stage in self.stages if round_number <= stage.last)

    def network(self, stage: Stage, state: Mapping[str, torch.Tensor]) -> nn.Module:
        """Return a stage's initial network, the phase's or the recogniser: the same tensors on every machine."""
        if stage.phase is None:
            return self.backbone()
        generator = randomness.public_torch(self.settings.seed, "phase", stage.index)
        return stage.phase.network(self.model, self.size, state, generator)

    def backbone(self) -> nn.Module:
        """Return the initial backbone, from the public seed: the recogniser's, or a generator around it."""
        generator = randomness.public_torch(self.settings.seed, "backbone")
        built: nn.Module = self.protection.network(self.model, self.size, generator)
        return built if self.generator is None else generating.network(self.settings, self.generator, built, self.size)

    def trainable(self, names: list[str], stage: Stage | None = None) -> tuple[str, ...]:
        """Return the allow-list: the only tensors that are aggregated and that an update may carry; all, in a phase."""
        if stage is not None and stage.phase is not None:
            return tuple(names)
        if self.generator is not None:
            names = learnt(names)
        return training.select_trainable(names, self.settings.train.trainable)

    # --- what is released ----------------------------------------------------------------------------------------

    def units(self, unit: str) -> int | None:
        """Return the public number of units of a kind that a guarantee speaks of; None where nothing public bounds it.

        Clients: the registry. People: what the source's settings or the cap on a client's identities say; images: that
        many times the cap on a person's.

        >>> Federation.of(["protection=none", "train.clients=4", "partition.max_identities=3"]).units("identity")
        12
        """
        clients, dealt = self.settings.train.clients, self.settings.partition
        known = [count for count in (getattr(self.data, "identities", None),) if count is not None]
        known += [clients * dealt.max_identities] if dealt.max_identities is not None else []
        people: int | None = min(known, default=None)
        if unit == "client" or people is None:
            return clients if unit == "client" else None
        return people if unit == "identity" else people * dealt.max_images_per_identity

    @property
    def releases_per_image(self) -> int:
        """How often one image can be freshly noised in a run: a public bound, 1 when copies are memoised.

        A batch holds an image at most once per pass, so `steps` batches of a round hold it at most `steps` times.
        """
        if dict(self.settings.protection.settings).get("memoise", True):
            return 1
        local = self.settings.train.local
        return self.settings.train.rounds * (local.steps or (local.epochs or 0) + 1)

    @functools.cached_property
    def planned_event(self) -> Event:
        """The event of one client's images over the whole run as far as the settings say it: all but its detail.

        Raises:
            fedveil.checks.UserError: images of a size that the protection cannot serve.
        """
        if self.generator is not None:
            return generating.event(self.settings)
        event: Event = self.protection.planned(
            self.size, self.releases_per_image, self.settings.partition.max_images_per_identity
        )
        return event

    def release_event(self, state: Mapping[str, torch.Tensor]) -> Event:
        """Return the event of one client's images over the whole run: the same on both sides."""
        if self.generator is not None:
            return generating.event(self.settings)
        event: Event = self.protection.event(
            self.size, state, self.releases_per_image, self.settings.partition.max_images_per_identity
        )
        return event

    def counts(self, event: Event) -> bool:
        """Return whether an image's own event belongs into a ledger.

        Under private training nothing but updates leaves, and those are events of their own; what a representation
        without a guarantee would tell is another matter (a gallery books it).
        """
        return self.private is None or isinstance(event, events.LocalRelease)

    @property
    def private(self) -> TrainingBudget | None:
        """The budget of private training inside clients, or None."""
        return private_steps.budget_of(self.settings)

    def private_round(self, number: int) -> private_steps.Budgeted:
        """Return what the private steps of a round, from 1, release of one unit of a client."""
        return private_steps.round_release(self.settings, self.total_rounds, number)

    @functools.cached_property
    def private_rounds(self) -> tuple[private_steps.Budgeted, ...]:
        """What the private steps of every round release, in order."""
        return tuple(self.private_round(number) for number in range(1, self.total_rounds + 1))

    @functools.cached_property
    def private_schedule(self) -> private_steps.Budgeted:
        """The private steps of all rounds: what an owner reserves on joining."""
        return private_steps.schedule(self.private_rounds)

    @property
    def relation(self) -> Relation:
        """Which neighbours a client-level claim compares."""
        return planning.relation_of(self.settings.train.cohort)

    @functools.cached_property
    def round_release(self) -> Release | events.NonPrivate:
        """The release of the first round at client level; with independent noise, of every round."""
        return self.release_of(1)

    def release_of(self, number: int) -> Release | events.NonPrivate:
        """Return the release of one round at client level."""
        return planning.round_release(self.settings, self.total_rounds, number)

    @functools.cached_property
    def groups(self) -> Groups:
        """How clients take turns: one group of everybody, or `privacy.client.bands` of them."""
        return groups.of(self.settings)

    @functools.cached_property
    def whole_schedule(self) -> Release | events.NonPrivate:
        """All rounds of the public schedule that one client pays for as one release: what an owner reserves."""
        return planning.whole_schedule(self.round_release, self.groups.rounds_of_one(self.total_rounds))


@functools.lru_cache(maxsize=4)
def kept(config_json: str) -> Federation:
    """Return the federation of a configuration that crossed the wire: one per process and configuration."""
    return Federation(config.from_json(config_json))


@functools.lru_cache(maxsize=1)
def _bare() -> Config:
    return config.load(["protection=none"])


def _only_data(settings: Config) -> Config:
    """Return what the data depends on, everything else as it is by default."""
    return dataclasses.replace(_bare(), data=Group(settings.data.name, settings.data.settings), seed=settings.seed)


@functools.lru_cache(maxsize=2)
def _split(data_json: str, seed: int) -> Split:
    loaded: Split = config.build(config.from_json(data_json), "data").load(seed)
    return loaded


@functools.lru_cache(maxsize=2)
def _pairs(place: str, size: int, public: bool, training: str) -> PairSet:
    return verification.read(place, size, public, training)


@functools.lru_cache(maxsize=2)
def _shares(split: Split, clients: int, seed: int, settings: Partition) -> Shares:
    """Deal one split once per process: a simulation's coordinator deals, and forked workers inherit it."""
    return deal(split.train, clients, seed, settings)


def _short(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:6]
