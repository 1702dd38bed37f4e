"""What happened: one frozen event per release and view, in full mathematical detail, with public parameters only.

Events say nothing about what they cost; `privacy.statements` prices them. Rules of evolution: an event is never
removed, the meaning of a field never changes, a new kind of release is a new class.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any, Literal

from fedveil import checks

Unit = Literal["image", "identity", "client"]


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


Event = LocalRelease | NonPrivate
_KINDS: dict[str, type[LocalRelease] | type[NonPrivate]] = {"local_release": LocalRelease, "non_private": NonPrivate}


def to_dict(event: Event) -> dict[str, Any]:
    """Return plain JSON types; `from_dict` is the inverse."""
    kind = next(name for name, cls in _KINDS.items() if type(event) is cls)
    plain: dict[str, Any] = json.loads(json.dumps({"kind": kind, **dataclasses.asdict(event)}, allow_nan=False))
    return plain


def from_dict(data: dict[str, Any]) -> Event:
    """Return the event that `to_dict` wrote; an unknown kind is refused.

    >>> event = NonPrivate("image", "the model", "no noise")
    >>> from_dict(to_dict(event)) == event
    True
    """
    fields = dict(data)
    kind = fields.pop("kind")
    checks.one_of(_KINDS, kind=kind)
    if "detail" in fields:
        fields["detail"] = tuple((name, value) for name, value in fields["detail"])
    return _KINDS[kind](**fields)


def digest(event: Event) -> str:
    """Return a SHA-256 over the canonical JSON of the event."""
    return hashlib.sha256(json.dumps(to_dict(event), sort_keys=True, separators=(",", ":")).encode()).hexdigest()
