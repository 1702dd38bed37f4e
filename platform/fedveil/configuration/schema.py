"""The typed, frozen shape of a configuration; field by field commented in configs/base.yaml."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fedveil import checks
from fedveil.configuration import plugins
from fedveil.configuration.marks import FOLDER, HERE, INFINITE, NO_PLACE, PLACE, Place
from fedveil.configuration.recipe import Augment, Schedule
from fedveil.configuration.training_budget import IdentityBudget, ImageBudget
from fedveil.storage import addresses

SCHEME = "to begin with scheme://, such as http:// or file:///, where it holds a user or a colon and an @."


@dataclasses.dataclass(frozen=True)
class Group:
    """A chosen method and its settings, typed by the method's own dataclass."""

    name: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Partition:
    """How people are dealt to clients; public constants."""

    kind: Literal["equal", "long_tailed"] = "equal"
    exponent: float = 1.0
    max_identities: int | None = None
    max_images_per_identity: int = 50

    def __post_init__(self) -> None:
        checks.within(0, 100, exponent=self.exponent)
        checks.positive(max_images_per_identity=self.max_images_per_identity)
        if self.max_identities is not None:
            checks.positive(max_identities=self.max_identities)


@dataclasses.dataclass(frozen=True)
class Cohort:
    """Who joins a round: every client by its own coin of probability `rate`, or a fixed number `size`."""

    kind: Literal["poisson", "fixed"] = "poisson"
    rate: float = 1.0
    size: int | None = None

    def __post_init__(self) -> None:
        checks.fraction(rate=self.rate)
        if self.kind == "fixed" and self.size is None:
            raise checks.UserError("train.cohort.kind=fixed needs train.cohort.size=N, the clients of every round.")
        if self.size is not None:
            checks.positive(size=self.size)


@dataclasses.dataclass(frozen=True)
class Local:
    """Local work of a client in a round: SGD steps, or passes over its images; exactly one of them."""

    steps: int | None = None
    epochs: int | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise checks.UserError(
                f"Expected exactly one of train.local.steps={self.steps} and train.local.epochs={self.epochs}."
            )
        checks.positive(local_work=self.steps or self.epochs or 0)


@dataclasses.dataclass(frozen=True)
class Train:
    """The federated recipe."""

    rounds: int
    clients: int
    cohort: Cohort
    local: Local
    batch_size: int
    lr: float
    head_lr: float
    weight_decay: float
    trainable: Annotated[str, NO_PLACE]
    warm_start: Annotated[str, Place(words=("public",), beside=("warm_start_is_public",))] | None
    warm_start_is_public: bool
    warm_steps: int
    warm_lr: float
    bank_identities: int
    min_clients: int = 1
    identity_bank: Literal["public", "synthetic"] = "public"
    synthetic: Annotated[str, PLACE] | None = None
    bank_sha256: Annotated[str, NO_PLACE] | None = None
    schedule: Schedule = dataclasses.field(default_factory=Schedule)
    augment: Augment = dataclasses.field(default_factory=Augment)
    proximal: float = 0.0
    correction: Literal["none", "scaffold"] = "none"
    class_share: float = 1.0
    average: float = 0.0

    def __post_init__(self) -> None:
        checks.positive(rounds=self.rounds, clients=self.clients, batch_size=self.batch_size)
        checks.positive(lr=self.lr, head_lr=self.head_lr)
        checks.fraction(class_share=self.class_share)
        if not 0 <= self.average < 1:
            raise checks.UserError(f"Expected train.average={self.average!r} in [0, 1): weights that fade over rounds.")
        checks.positive(warm_steps=self.warm_steps, warm_lr=self.warm_lr, min_clients=self.min_clients)
        checks.non_negative(bank_identities=self.bank_identities, proximal=self.proximal)
        checks.within(0, 1e3, weight_decay=self.weight_decay)
        if self.cohort.size is not None and self.cohort.size > self.clients:
            raise checks.UserError(f"train.cohort.size={self.cohort.size} exceeds train.clients={self.clients}.")
        if self.min_clients > self.clients:
            raise checks.UserError(f"train.min_clients={self.min_clients} exceeds train.clients={self.clients}.")


@dataclasses.dataclass(frozen=True)
class ClientBudget:
    """A target (epsilon, delta) for clients, with what its mechanism needs; all public constants.

    Epsilon `inf` clips without noise, a baseline without a guarantee. `clip` is the largest L2 norm of one client's
    update. `noise_multiplier` is found from the target unless given. With `quantile` the clipping norm follows that
    quantile of the update norms, for `quantile_share` of the budget. With `bands` the noise is correlated over so many
    rounds, and clients take turns in so many groups.
    """

    epsilon: Annotated[float, INFINITE] | None = None
    delta: float | None = 1e-5
    clip: float | None = 0.5
    on_exhausted: Literal["stop", "refuse_to_start"] = "stop"
    noise_multiplier: float | None = None
    quantile: float | None = None
    quantile_share: float = 0.05
    quantile_lr: float = 0.2
    bands: int | None = None

    def __post_init__(self) -> None:
        if self.epsilon is not None and not (self.epsilon == math.inf or 1e-6 <= self.epsilon <= 1e6):
            raise checks.UserError(
                f"Expected privacy.client.epsilon={self.epsilon!r} > 0 (1e-6 to 1e6), `inf` or `none`."
            )
        for name in ("clip", "noise_multiplier"):
            value = getattr(self, name)
            if value is not None:
                checks.within(1e-6, 1e7, **{f"privacy.client.{name}": value})
        for name in ("quantile", "quantile_share"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise checks.UserError(f"Expected privacy.client.{name}={value!r} in (0, 1).")
        checks.within(1e-6, 10, quantile_lr=self.quantile_lr)
        if self.bands is not None:
            checks.within(1, 1024, **{"privacy.client.bands": self.bands})


@dataclasses.dataclass(frozen=True)
class Privacy:
    """One block per unit; absent means none. `noise` is how all of it is drawn (see `privacy.noise`)."""

    client: ClientBudget | None
    image: ImageBudget | None
    identity: IdentityBudget | None
    test_seed: int | None
    noise: Literal["real", "grid"] = "real"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Verification on declared-public pairs."""

    gallery: Literal["protected", "clean"]
    draws: int
    far: tuple[float, ...]
    every: int
    bootstrap: int
    reference: bool
    pairs: Annotated[str, Place(beside=("pairs_are_public",))] | None = None
    pairs_are_public: bool = False
    flip: Literal["none", "auto", "always"] = "none"

    def __post_init__(self) -> None:
        checks.positive(draws=self.draws, every=self.every)
        checks.non_negative(bootstrap=self.bootstrap)
        for value in self.far:
            checks.fraction(far=value)


@dataclasses.dataclass(frozen=True)
class Policy:
    """The owner's floor, read at the client; the coordinator cannot lower it.

    Limits on epsilon are compared at `image_delta` and `client_delta`, to which every offer is converted first.
    """

    floor: tuple[Annotated[str, NO_PLACE], ...] | None
    max_epsilon: float | None
    max_total_epsilon: float | None = None
    max_client_epsilon: float | None = None
    client_delta: float = 1e-5
    image_delta: float = 1e-5
    max_delta: float | None = None

    def __post_init__(self) -> None:
        for name in self.floor or ():
            checks.one_of(plugins.acceptable(), **{"policy.floor": name})
        for name in ("max_epsilon", "max_total_epsilon", "max_client_epsilon"):
            value = getattr(self, name)
            if value is not None:
                checks.positive(**{f"policy.{name}": value})
        for name in ("client_delta", "image_delta", "max_delta"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise checks.UserError(f"Expected policy.{name}={value!r} in (0, 1), for example 1e-5.")

    @property
    def over_runs(self) -> bool:
        """Whether anything is limited over all runs together."""
        return self.max_total_epsilon is not None or self.max_client_epsilon is not None


@dataclasses.dataclass(frozen=True)
class Root:
    """A folder on this machine."""

    root: Annotated[str, FOLDER]

    def __post_init__(self) -> None:
        if not self.root.strip():
            raise checks.UserError(f"Expected root={self.root!r} to be a folder.")


_LONGEST_ROUND = 43_200.0  # flwr.app.DEFAULT_TTL


@dataclasses.dataclass(frozen=True)
class Engine:
    """Where the two apps run; never changes a result."""

    name: str
    workers: int | None = None
    wire: bool = False
    round_timeout: float = 1800.0

    def __post_init__(self) -> None:
        if self.workers is not None:
            checks.positive(workers=self.workers)
        checks.positive(round_timeout=self.round_timeout)
        if self.round_timeout < 1:
            raise checks.UserError(f"Expected engine.round_timeout={self.round_timeout:g} of at least 1 second.")
        if self.round_timeout > _LONGEST_ROUND:
            raise checks.UserError(
                f"Expected engine.round_timeout={self.round_timeout:g} <= {_LONGEST_ROUND:g} seconds: Flower drops "
                "messages that are older."
            )


@dataclasses.dataclass(frozen=True)
class Tracking:
    """Where runs are recorded; never changes a result."""

    name: str
    uri: str | None = None
    experiment: str | None = None
    log_model: bool = True
    model: Literal["light", "full"] = "light"

    def __post_init__(self) -> None:
        if self.uri is not None and addresses.has_slip(self.uri):
            raise checks.UserError(f"Expected uri={addresses.store(self.uri)!r} {SCHEME}")


@dataclasses.dataclass(frozen=True)
class Config:
    """One run, completely described by public values."""

    seed: int
    data: Group
    partition: Partition
    model: Group
    head: Group
    protection: Group
    aggregation: Group
    train: Train
    privacy: Privacy
    evaluation: Evaluation
    policy: Policy
    engine: Annotated[Engine, HERE]
    tracking: Annotated[Tracking, HERE]
    vault: Annotated[Root, HERE]
    runs: Annotated[Root, HERE]
    generator: Group = Group("none")
    device: Annotated[str, HERE] = "auto"
    device_batch: Annotated[int, HERE] | None = None
    precision: Literal["fp32", "bf16"] = "fp32"

    def __post_init__(self) -> None:
        if self.device_batch is not None:
            checks.positive(device_batch=self.device_batch)

    @property
    def method(self) -> str:
        """The name by which a run's method is known: its protection, or the generator that it trains."""
        return self.protection.name if self.generator.name == "none" else self.generator.name

    @property
    def title(self) -> str:
        """The method as tables of runs name it: what trains on nobody's faces is another one."""
        return f"{self.method} on synthetic faces" if self.data.name == "synthetic" else self.method
