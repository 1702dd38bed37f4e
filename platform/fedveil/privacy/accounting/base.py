"""What every accountant is: events in, a proven upper bound (and a lower one beside it) out.

An accountant is a value: `compose` returns a new one. Its state is the multiset of events, equal ones merged and kept
in a canonical order, so order and grouping of the calls cannot matter, and a saved accountant is restored exactly.
"""

from __future__ import annotations

import abc
import dataclasses
import json
import math
from collections.abc import Iterable
from typing import Any, ClassVar, Self

from fedveil import checks
from fedveil.privacy import events
from fedveil.privacy.accounting import _pairs
from fedveil.privacy.accounting._pairs import Pair
from fedveil.privacy.events import Event, Relation, Unit

_SIZES = ("image", "identity", "client")


class UnsupportedEvent(checks.UserError):
    """No proven bound is known for (part of) an event under this relation; `event` is that part."""

    def __init__(self, event: Event, why: str) -> None:
        super().__init__(f"Expected an event with a known bound, got {event!r}: {why}")
        self.event = event


@dataclasses.dataclass(frozen=True)
class Bound:
    """What is proven about the smallest epsilon at one delta.

    Attributes:
        upper: everything composed is (upper, delta)-DP; None without any guarantee (epsilon is infinite).
        lower: nothing smaller than this can be proven; None where `upper` is.
        method: where the upper end comes from, for a statement.
    """

    upper: float | None
    lower: float | None
    method: str


@dataclasses.dataclass(frozen=True)
class Accountant(abc.ABC):
    """Composes events of one unit under one neighbouring relation, and bounds what they cost together.

    Valid for a schedule that was declared beforehand (the choice of later events may not depend on earlier outputs);
    noise and outputs inside it may depend on earlier outputs.

    Attributes:
        relation: "zero-out" (a unit replaced by nothing, sensitivity C; numerically add/remove) or "replace-one"
            (by any other, 2C).
        unit: whose guarantee this is. Releases of a coarser unit are accepted, priced as if the coarser unit were
            replaced by any other: a person without one picture is another person, and the vector of norm C that the
            person adds may turn round, which moves the sum by 2C. Of a finer one they are refused.
        segments: the (event, count) pairs so far, merged and in canonical order.
    """

    relation: Relation = "zero-out"
    unit: Unit = "client"
    segments: tuple[tuple[Event, int], ...] = ()
    # Costs of single pairs, shared by all accountants composed from one another; never part of the state.
    _cache: dict[Any, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False, kw_only=True)

    kind: ClassVar[str]

    def __post_init__(self) -> None:
        checks.one_of(("zero-out", "replace-one"), relation=self.relation)
        checks.one_of(_SIZES, unit=self.unit)

    def compose(self, event: Event, count: int = 1) -> Self:
        """Return the accountant after `event` happened `count` more times.

        Raises:
            UnsupportedEvent: naming the part of the event without a known bound; nothing is composed.
            UserError: unless count is a whole number of at least 1.

        >>> from fedveil.privacy.accounting.rdp import RdpAccountant
        >>> from fedveil.privacy.events import Gaussian, PoissonSampled
        >>> spent = RdpAccountant().compose(PoissonSampled(0.01, Gaussian(1.0)), 1000).epsilon(1e-5)
        >>> round(spent.upper, 2)
        2.1
        """
        events.whole_count(count)
        merged: dict[Event, int] = dict(self.segments)
        for atom, times in _atoms(event, count):
            self._pairs_of(atom)
            merged[atom] = merged.get(atom, 0) + times
        ordered = sorted(merged.items(), key=lambda item: events.digest(item[0]))
        return dataclasses.replace(self, segments=tuple(ordered))

    def epsilon(self, delta: float) -> Bound:
        """Return what is proven about epsilon at this delta.

        Raises:
            UserError: unless 0 < delta < 1.
        """
        upper, method = self._end(delta)
        if math.isinf(upper):
            return Bound(None, None, method)
        counted = self._pairs()
        lower = self._lower(counted, delta) if counted else 0.0
        return Bound(upper, min(lower, upper), method)

    def upper(self, delta: float) -> float:
        """Return the upper end alone, `math.inf` without a guarantee; about half the work of `epsilon`."""
        return self._end(delta)[0]

    def _end(self, delta: float) -> tuple[float, str]:
        checks.positive(delta=delta)
        if delta >= 1:
            raise checks.UserError(f"Expected delta={delta!r} below 1; any release is (0, 1)-DP, which means nothing.")
        if any(isinstance(atom, events.NonPrivate) for atom, _ in self.segments):
            return math.inf, "no guarantee"
        counted = self._pairs()
        return self._upper(counted, delta) if counted else (0.0, "nothing was released")

    def to_dict(self) -> dict[str, Any]:
        """Return the state as plain JSON types; `accounting.restore.from_dict` is the inverse, exactly."""
        settings = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("segments", "_cache")
        }
        state = {
            "kind": self.kind,
            **settings,
            "segments": [[events.to_dict(event), count] for event, count in self.segments],
        }
        plain: dict[str, Any] = json.loads(json.dumps(state, allow_nan=False))
        return plain

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """Return the accountant that `to_dict` of the same class wrote; its events are validated again.

        Raises:
            UserError: on another accountant's state.
        """
        fields = dict(state)
        if fields.pop("kind") != cls.kind:
            raise checks.UserError(f"Expected the state of a {cls.kind!r} accountant, got kind={state['kind']!r}.")
        segments = fields.pop("segments")
        restored = cls(**fields)
        for data, count in segments:
            restored = restored.compose(events.from_dict(data), count)
        return restored

    @abc.abstractmethod
    def _upper(self, counted: dict[Pair, int], delta: float) -> tuple[float, str]:
        """Return an upper bound for this multiset of dominating pairs, which is not empty, and its method."""

    @abc.abstractmethod
    def _lower(self, counted: dict[Pair, int], delta: float) -> float:
        """Return a lower bound for what the attained pairs of this multiset, which is not empty, really cost."""

    def _pairs(self) -> dict[Pair, int]:
        """Return the dominating pairs with counts; all unsampled Gaussians merged into one, in canonical order."""
        counted: dict[Pair, int] = {}
        squares: list[float] = []
        for atom, count in self.segments:
            for pair, times in self._pairs_of(atom):
                if isinstance(pair, _pairs.Shift):
                    squares.append(pair.mu * pair.mu * times * count)
                else:
                    counted[pair] = counted.get(pair, 0) + times * count
        if squares:
            counted[_pairs.Shift(math.sqrt(math.fsum(squares)))] = 1
        return counted

    def _pairs_of(self, atom: Event) -> list[tuple[Pair, int]]:
        """Return the dominating pair of one mechanism under this relation, or refuse it."""
        key = (atom, self.relation, self.unit)
        if key not in self._cache:
            self._cache[key] = _dominating(atom, self.relation, self.unit)
        found: list[tuple[Pair, int]] = self._cache[key]
        return found


def _atoms(event: Event, count: int) -> Iterable[tuple[Event, int]]:
    """Yield what `count` times `event` is made of, free parts dropped; releases keep their wrapper."""
    if isinstance(event, events.PostProcessing):
        return
    if isinstance(event, events.Repeated):
        yield from _atoms(event.event, count * event.count)
    elif isinstance(event, events.Composed):
        for one in event.events:
            yield from _atoms(one, count)
    elif isinstance(event, events.Release):
        for atom, times in _atoms(event.event, count):
            if isinstance(atom, events.NonPrivate | events.LocalRelease | events.Release):
                yield atom, times
            else:
                # The view and the details say who saw it and why; they do not change what it costs.
                yield events.Release(event.unit, event.relation, "", atom), times
    elif isinstance(event, events.PoissonSampled | events.FixedSize) and isinstance(event.event, events.NonPrivate):
        yield event.event, count
    else:
        yield event, count


def _dominating(atom: Event, relation: Relation, unit: Unit) -> list[tuple[Pair, int]]:
    diameter = 1.0 if relation == "zero-out" else 2.0
    match atom:
        case events.Release():
            if _SIZES.index(atom.unit) < _SIZES.index(unit):
                raise UnsupportedEvent(atom, f"it hides one {atom.unit}, which bounds nothing for one {unit}.")
            if atom.relation == "replace-one" and relation == "zero-out":
                raise UnsupportedEvent(atom, "it was planned for replace-one and says nothing about presence.")
            coarser = _SIZES.index(atom.unit) > _SIZES.index(unit)
            return _dominating(atom.event, "replace-one" if coarser else relation, atom.unit)
        case events.NonPrivate():
            return []
        case events.Gaussian():
            return [(_pairs.Shift(diameter / atom.noise_multiplier), 1)]
        case events.Laplace():
            return [(_pairs.Number(diameter / atom.noise_multiplier), 1)]
        case events.PoissonSampled():
            return [(_poisson(atom, relation, unit), 1)]
        case events.FixedSize():
            return [(_fixed(atom, relation), 1)]
        case events.LocalRelease():
            if unit != "image":
                raise UnsupportedEvent(atom, f"a release of one image bounds nothing for one {unit}.")
            if relation == "zero-out":
                raise UnsupportedEvent(atom, "a local release does not hide presence; price it for replace-one.")
            exact = atom.mechanism == "gaussian"
            return [((_pairs.Shift if exact else _pairs.Pure)(atom.diameter), atom.releases)]
    raise UnsupportedEvent(atom, "this accountant does not know it.")


def _poisson(atom: events.PoissonSampled, relation: Relation, unit: Unit) -> Pair:
    inner, rate = atom.event, atom.rate
    if not isinstance(inner, events.Gaussian | events.Laplace):
        raise UnsupportedEvent(inner, "Poisson sampling has a known bound for one Gaussian or Laplace release only.")
    if rate == 1.0:
        return _dominating(inner, relation, unit)[0][0]
    if isinstance(inner, events.Gaussian):
        kind = _pairs.Poisson if relation == "zero-out" else _pairs.PoissonReplaced
        return kind(rate, inner.noise_multiplier)
    if relation == "replace-one":
        raise UnsupportedEvent(atom, "Poisson sampling before Laplace noise has a known bound for zero-out only.")
    return _pairs.Number(1.0 / inner.noise_multiplier, rate)


def _fixed(atom: events.FixedSize, relation: Relation) -> Pair:
    if relation == "zero-out":
        raise UnsupportedEvent(atom, "a fixed cohort has a known bound for replace-one only.")
    if not isinstance(atom.event, events.Gaussian):
        raise UnsupportedEvent(atom.event, "fixed-size sampling has a known bound for one Gaussian release only.")
    sigma = atom.event.noise_multiplier / 2  # one unit replaced by another moves the sum by 2C
    if not atom.stateless or atom.sampled == atom.population:
        return _pairs.Shift(1.0 / sigma)
    return _pairs.FixedReplaced(atom.sampled / atom.population, sigma)
