"""What happened: frozen events in full mathematical detail, with public parameters only.

Events say nothing about what they cost; `privacy.statements` and `privacy.accounting` price them. Two kinds stand side
by side: *releases* say who saw what of whom (`LocalRelease`, `Release`, `NonPrivate`, `Synthetic`), *mechanisms* say
what was done to the data (`Gaussian`, `Laplace`, `PoissonSampled`, `FixedSize`, `Repeated`, `Composed`,
`PostProcessing`). Rules of evolution: an event is never removed, the meaning of a field never changes, a new kind of
release is a new class.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any, Literal, Union

from fedveil import checks

Unit = Literal["image", "identity", "client"]
Relation = Literal["zero-out", "replace-one"]


ON_GRID = ("noise", "grid")
"""In the detail of a release whose noise was drawn exactly, on a public grid; without it noise is real arithmetic's."""


@dataclasses.dataclass(frozen=True)
class LocalRelease:
    """One image (any image for any other: replace-one) left its owner through a clipped, noised linear map.

    `diameter` is the largest distance between two inputs after clipping, in the norm and units in which the noise has
    scale 1: for Laplace noise of scales b_i the weighted L1 distance sum |z_i - z'_i| / b_i, for Gaussian noise of
    standard deviations sigma_i the L2 distance sqrt(sum ((z_i - z'_i) / sigma_i)^2). So the privacy loss of one
    release is at most `diameter` (Laplace), or the release is exactly `diameter`-GDP (Gaussian).

    Attributes:
        mechanism: law of the noise.
        diameter: see above; finite and positive.
        releases: how many independent draws of the same image leave; 1 when memoised.
        delta: the delta at which a Gaussian release is to be stated; 0 for Laplace.
        max_images_per_identity: the enforced public cap m on images of one identity; an identity pays for m images.
        view: what the adversary sees.
        detail: the mechanism's public parameters, as sorted (name, value) pairs.
    """

    mechanism: Literal["laplace", "gaussian"]
    diameter: float
    releases: int = 1
    delta: float = 0.0
    max_images_per_identity: int | None = None
    view: str = "the noisy copies and everything computed from them, the released model included"
    detail: tuple[tuple[str, str | float | int | bool], ...] = ()

    def __post_init__(self) -> None:
        checks.one_of(("laplace", "gaussian"), mechanism=self.mechanism)
        checks.positive(diameter=self.diameter, releases=self.releases)
        checks.non_negative(delta=self.delta)


@dataclasses.dataclass(frozen=True)
class NonPrivate:
    """Something left without any formal guarantee: epsilon is infinite, and `reason` says why."""

    unit: Unit
    view: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Synthetic:
    """A run read synthetic faces: what the training of their generator told of somebody, the run tells, too.

    It is a row of its own in a run's ledger, so that what may be claimed does not depend on the set of faces, which may
    be gone. `privacy.inherited` says what follows from it.

    Attributes:
        use: "data": the people who train are synthetic; "start": the backbone was first trained on such faces; "bank":
            they are every client's negatives.
        mode: "public": the generator learnt from public people; "federated": under a guarantee; "shared": from private
            faces without one.
        generator: SHA-256 of the generator's tensors.
        learnt_from: whose faces it learnt from, in words.
        statements: what may be claimed of its training, each as canonical JSON of `statements.Statement.to_dict`.
    """

    use: Literal["data", "start", "bank"]
    mode: Literal["public", "federated", "shared"]
    generator: str
    learnt_from: str
    statements: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        checks.one_of(("data", "start", "bank"), use=self.use)
        checks.one_of(("public", "federated", "shared"), mode=self.mode)


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """One vector per unit, clipped to L2 norm C, was summed; the sum got noise N(0, (noise_multiplier * C)^2).

    One unit replaced by nothing (zero-out) moves the sum by at most C, one replaced by another by at most 2C; the
    accountant applies that factor, never the writer of the event.
    """

    noise_multiplier: float

    def __post_init__(self) -> None:
        checks.positive(noise_multiplier=self.noise_multiplier)


@dataclasses.dataclass(frozen=True)
class Laplace:
    """One number per unit, clipped to [-C, C], was summed; the sum got Laplace noise of scale noise_multiplier * C.

    A scalar query. A vector that is clipped as a whole is a `LocalRelease`; coordinates that are clipped one by one are
    one event each.
    """

    noise_multiplier: float

    def __post_init__(self) -> None:
        checks.positive(noise_multiplier=self.noise_multiplier)


@dataclasses.dataclass(frozen=True)
class PostProcessing:
    """Something was computed from private outputs alone; it costs nothing. `reason` says from which."""

    reason: str


@dataclasses.dataclass(frozen=True)
class PoissonSampled:
    """`event` ran on a fresh secret sample that every unit entered independently with the public probability `rate`."""

    rate: float
    event: Event

    def __post_init__(self) -> None:
        checks.fraction(rate=self.rate)


@dataclasses.dataclass(frozen=True)
class FixedSize:
    """`event` ran on a fresh uniform sample of exactly `sampled` of `population` units, without replacement.

    Priced for replace-one only (sensitivity 2C). `stateless` declares that no unit keeps anything between samples;
    units with a state (private heads, memoised copies) get no amplification: as if all of them were sampled.
    """

    sampled: int
    population: int
    event: Event
    stateless: bool = False

    def __post_init__(self) -> None:
        checks.positive(sampled=self.sampled, population=self.population)
        if self.sampled > self.population:
            raise checks.UserError(
                f"Expected sampled={self.sampled} of population={self.population} to be possible; lower sampled."
            )


@dataclasses.dataclass(frozen=True)
class Repeated:
    """`event` happened `count` times, with independent noise and coins, possibly depending on earlier outputs."""

    event: Event
    count: int

    def __post_init__(self) -> None:
        whole_count(self.count)


@dataclasses.dataclass(frozen=True)
class Composed:
    """All of `events` happened to the same units, with independent noise and coins; their order does not matter."""

    events: tuple[Event, ...]


@dataclasses.dataclass(frozen=True)
class Release:
    """What leaves to someone: a mechanism, whose contributions it hides, and from whom.

    Attributes:
        unit: whose contribution the mechanism clips: one image, one identity or one client.
        relation: the neighbouring data sets for which it was planned. "zero-out": a unit of a public registry replaced
            by nothing; "replace-one": replaced by any other.
        view: what the adversary sees.
        event: the mechanism.
        detail: further public parameters, as sorted (name, value) pairs.
    """

    unit: Unit
    relation: Relation
    view: str
    event: Event
    detail: tuple[tuple[str, str | float | int | bool], ...] = ()

    def __post_init__(self) -> None:
        checks.one_of(("image", "identity", "client"), unit=self.unit)
        checks.one_of(("zero-out", "replace-one"), relation=self.relation)


def on_grid(release: LocalRelease | Release) -> bool:
    """Return whether a release's noise was exact, so that its bound holds in a computer's arithmetic."""
    return ON_GRID in release.detail


def whole_count(count: int) -> None:
    """Raise `UserError` unless `count` is a whole number of at least 1."""
    checks.positive(count=count)
    if not isinstance(count, int):
        raise checks.UserError(f"Expected count={count!r} to be a whole number of releases.")


# Union, not |: the names inside quotes are defined above, and the alias is used by them as a forward reference.
Event = Union[  # noqa: UP007
    LocalRelease, NonPrivate, Synthetic, Gaussian, Laplace, PostProcessing, PoissonSampled, FixedSize, Repeated,
    Composed, Release
]  # fmt: skip
_KINDS: dict[str, Any] = {
    "local_release": LocalRelease,
    "non_private": NonPrivate,
    "synthetic": Synthetic,
    "gaussian": Gaussian,
    "laplace": Laplace,
    "post_processing": PostProcessing,
    "poisson_sampled": PoissonSampled,
    "fixed_size": FixedSize,
    "repeated": Repeated,
    "composed": Composed,
    "release": Release,
}
_NAMES: dict[type, str] = {cls: name for name, cls in _KINDS.items()}


def to_dict(event: Event) -> dict[str, Any]:
    """Return plain JSON types; `from_dict` is the inverse."""
    plain: dict[str, Any] = {"kind": _NAMES[type(event)]}
    for field in dataclasses.fields(event):
        value = getattr(event, field.name)
        if field.name == "event":
            value = to_dict(value)
        elif field.name == "events":
            value = [to_dict(one) for one in value]
        plain[field.name] = value
    checked: dict[str, Any] = json.loads(json.dumps(plain, allow_nan=False))
    return checked


def from_dict(data: dict[str, Any]) -> Event:
    """Return the event that `to_dict` wrote; an unknown kind is refused.

    >>> event = Repeated(PoissonSampled(0.01, Gaussian(1.1)), 1000)
    >>> from_dict(to_dict(event)) == event
    True
    """
    fields = dict(data)
    kind = fields.pop("kind")
    checks.one_of(_KINDS, kind=kind)
    if "detail" in fields:
        fields["detail"] = tuple((name, value) for name, value in fields["detail"])
    if "statements" in fields:
        fields["statements"] = tuple(fields["statements"])
    if "event" in fields:
        fields["event"] = from_dict(fields["event"])
    if "events" in fields:
        fields["events"] = tuple(from_dict(one) for one in fields["events"])
    event: Event = _KINDS[kind](**fields)
    return event


def digest(event: Event) -> str:
    """Return a SHA-256 over the canonical JSON of the event."""
    return hashlib.sha256(json.dumps(to_dict(event), sort_keys=True, separators=(",", ":")).encode()).hexdigest()
