"""Events survive JSON, keep their digests for ever, and refuse parameters that describe no mechanism."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from fedveil.checks import UserError
from fedveil.privacy import events, statements
from fedveil.privacy.events import Event

EVENTS: list[Event] = [
    events.LocalRelease("laplace", 8.0, detail=(("mode", "image"), ("radius", 2.5))),
    events.NonPrivate("client", "the update", "no noise"),
    events.Gaussian(1.1),
    events.Laplace(0.5),
    events.PostProcessing("server optimiser"),
    events.PoissonSampled(0.01, events.Gaussian(1.1)),
    events.FixedSize(5, 100, events.Gaussian(2.0), stateless=True),
    events.Repeated(events.Composed((events.Gaussian(1.0), events.Laplace(2.0))), 7),
    events.Release(
        "client", "zero-out", "the model", events.PoissonSampled(0.1, events.Gaussian(1.0)), (("clip", 0.5),)
    ),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_events_survive_json(event: Event) -> None:
    restored = events.from_dict(json.loads(json.dumps(events.to_dict(event), allow_nan=False)))
    assert restored == event
    assert hash(restored) == hash(event)
    assert events.digest(restored) == events.digest(event)


def test_digests_differ_and_those_in_old_ledgers_still_hold() -> None:
    assert len({events.digest(event) for event in EVENTS}) == len(EVENTS)
    old = {"kind": "non_private", "unit": "client", "view": "the update", "reason": "no noise"}
    assert events.to_dict(EVENTS[1]) == old
    assert events.digest(EVENTS[1]) == "012ac51f721bce54fd0f2d524a3790371b60c34563ff5f062d79278f206db856"


@pytest.mark.parametrize(
    "build",
    [
        lambda: events.Gaussian(0.0),
        lambda: events.Laplace(-1.0),
        lambda: events.PoissonSampled(0.0, events.Gaussian(1.0)),
        lambda: events.PoissonSampled(1.1, events.Gaussian(1.0)),
        lambda: events.FixedSize(11, 10, events.Gaussian(1.0)),
        lambda: events.Repeated(events.Gaussian(1.0), 0),
        lambda: events.Repeated(events.Gaussian(1.0), 1.5),  # type: ignore[arg-type]
        lambda: events.Release("client", "add-remove", "", events.Gaussian(1.0)),  # type: ignore[arg-type]
        lambda: events.from_dict({"kind": "skellam"}),
    ],
)
def test_what_is_no_mechanism_is_refused(build: Callable[[], Event]) -> None:
    with pytest.raises(UserError):
        build()


def test_mechanisms_are_priced_by_accountants_only() -> None:
    with pytest.raises(UserError, match="accountant"):
        statements.price(events.Gaussian(1.0))
