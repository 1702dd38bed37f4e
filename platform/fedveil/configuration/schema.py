"""The typed, frozen shape of a configuration; field by field commented in configs/base.yaml."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from fedveil import checks


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
    trainable: str
    warm_start: str | None
    warm_start_is_public: bool
    warm_steps: int
    warm_lr: float
    bank_identities: int
    min_clients: int = 1

    def __post_init__(self) -> None:
        checks.positive(rounds=self.rounds, clients=self.clients, batch_size=self.batch_size)
        checks.positive(lr=self.lr, head_lr=self.head_lr)
        checks.positive(warm_steps=self.warm_steps, warm_lr=self.warm_lr, min_clients=self.min_clients)
        checks.non_negative(weight_decay=self.weight_decay, bank_identities=self.bank_identities)
        if self.cohort.size is not None and self.cohort.size > self.clients:
            raise checks.UserError(f"train.cohort.size={self.cohort.size} exceeds train.clients={self.clients}.")
        if self.min_clients > self.clients:
            raise checks.UserError(f"train.min_clients={self.min_clients} exceeds train.clients={self.clients}.")


@dataclasses.dataclass(frozen=True)
class Budget:
    """A target (epsilon, delta) for one unit; epsilon `inf` clips without noise, a baseline without guarantee."""

    epsilon: float | None = None
    delta: float | None = None
    clip: float | None = None
    on_exhausted: Literal["stop", "refuse_to_start"] = "stop"


@dataclasses.dataclass(frozen=True)
class ClientBudget(Budget):
    """A budget for clients, with what its mechanism needs; all public constants.

    `clip` is the largest L2 norm of one client's update. `noise_multiplier` is found from the target unless given.
    With `quantile` the clipping norm follows that quantile of the update norms, for `quantile_share` of the budget.
    """

    delta: float | None = 1e-5
    clip: float | None = 0.5
    noise_multiplier: float | None = None
    quantile: float | None = None
    quantile_share: float = 0.05
    quantile_lr: float = 0.2

    def __post_init__(self) -> None:
        if self.epsilon is not None and not self.epsilon > 0:
            raise checks.UserError(f"Expected privacy.client.epsilon={self.epsilon!r} > 0, `inf` or `none`.")
        for name in ("clip", "noise_multiplier"):
            value = getattr(self, name)
            if value is not None:
                checks.positive(**{f"privacy.client.{name}": value})


@dataclasses.dataclass(frozen=True)
class Privacy:
    """One block per unit; absent means none."""

    client: ClientBudget | None
    image: Budget | None
    identity: Budget | None
    test_seed: int | None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Verification on declared-public pairs."""

    gallery: Literal["protected", "clean"]
    draws: int
    far: tuple[float, ...]
    every: int
    bootstrap: int
    reference: bool

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

    floor: tuple[str, ...] | None
    max_epsilon: float | None
    max_total_epsilon: float | None = None
    max_client_epsilon: float | None = None
    client_delta: float = 1e-5
    image_delta: float = 1e-5
    max_delta: float | None = None

    def __post_init__(self) -> None:
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

    root: str


_LONGEST_ROUND = 43_200.0  # flwr.app.DEFAULT_TTL


@dataclasses.dataclass(frozen=True)
class Engine:
    """Where the two apps run; never changes a result."""

    name: str
    workers: int | None = None
    wire: bool = False
    round_timeout: float = 1800.0

    def __post_init__(self) -> None:
        checks.positive(round_timeout=self.round_timeout)
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
    engine: Engine
    tracking: Tracking
    vault: Root
    runs: Root


def _fail(path: str, value: Any, wanted: str) -> typing.NoReturn:
    raise checks.UserError(f"Expected {path}={value!r} to be {wanted}.")


def from_tree(kind: Any, value: Any, path: str) -> Any:
    """Return `value` (plain YAML types) as `kind`: a dataclass, a union, a literal, a tuple or a scalar.

    Raises:
        fedveil.checks.UserError: naming the dotted path, the value and what was expected.

    >>> from_tree(float, 3, "train.lr"), from_tree(tuple[float, ...], [0.1, 1], "far")
    (3.0, (0.1, 1.0))
    >>> from_tree(int, "many", "train.rounds")
    Traceback (most recent call last):
        ...
    fedveil.checks.UserError: Expected train.rounds='many' to be a whole number.
    """
    if kind is Group:
        tree = dict(value)
        return Group(tree.pop("name"), tree)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, path)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        rest = [argument for argument in arguments if argument is not type(None)]
        if len(rest) == 1:
            return from_tree(rest[0], value, path)
        for argument in rest:
            try:
                return from_tree(argument, value, path)
            except checks.UserError:
                continue
        _fail(path, value, f"one of {[getattr(a, '__name__', str(a)) for a in rest]}")
    if origin is Literal:
        if value is None and "none" in arguments:
            value = "none"  # the typed word, where it is one of the choices
        if value not in arguments:
            near = checks.nearest(str(value), [str(a) for a in arguments])
            raise checks.UserError(f"Expected {path}={value!r} to be one of {list(arguments)}.{near}")
        return value
    if origin is tuple:
        items = value if isinstance(value, (list, tuple)) else [value]
        return tuple(from_tree(arguments[0], item, f"{path}[{i}]") for i, item in enumerate(items))
    return _scalar(kind, value, path)


def _dataclass(kind: Any, value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        _fail(path or "configuration", value, f"a block with the fields {[f.name for f in dataclasses.fields(kind)]}")
    prefix = f"{path}." if path else ""
    hints = typing.get_type_hints(kind)
    known = [field.name for field in dataclasses.fields(kind)]
    for key in value:
        if key not in known:
            raise checks.UserError(f"Unknown setting {prefix}{key}.{checks.nearest(str(key), known)}")
    try:
        return kind(**{key: from_tree(hints[key], item, f"{prefix}{key}") for key, item in value.items()})
    except TypeError as error:
        raise checks.UserError(f"Incomplete block {path or 'configuration'}: {error}.") from error


def _scalar(kind: Any, value: Any, path: str) -> Any:
    if kind is bool:
        return value if isinstance(value, bool) else _fail(path, value, "true or false")
    if kind is int:
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        return int(value) if whole and not isinstance(value, bool) else _fail(path, value, "a whole number")
    if kind is float:
        if value == "inf":
            return math.inf
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return float(value) if number else _fail(path, value, "a number")
    if kind is str:
        return value if isinstance(value, str) else _fail(path, value, "a word")
    raise TypeError(f"Unsupported field type {kind!r} at {path}.")
