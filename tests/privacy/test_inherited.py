"""What a run inherits from a generator of synthetic faces: sums that hold, and nothing where nothing is guaranteed."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedveil import checks
from fedveil.privacy import events, gaussian, inherited, statements
from fedveil.privacy.events import Synthetic
from fedveil.privacy.statements import Statement

UNITS, RELATIONS = ("client", "image", "identity"), ("zero-out", "replace-one")
MODES = ("public", "federated", "shared")
NO_BOUND = [("client", "image"), ("client", "identity"), ("identity", "image")]
losses = st.floats(0.0, 12.0)
small = st.floats(0.0, 1e-6)


def claim(unit="client", relation="zero-out", epsilon=2.0, delta=1e-6, **more) -> Statement:
    formal = epsilon is not None
    plain = Statement(
        unit, relation, "every released global model", "noise", epsilon, delta if formal else None,
        "formal" if formal else "none", formal and epsilon <= 20, ("trusted",), ("others",),
    )  # fmt: skip
    return dataclasses.replace(plain, **more)


def made(*claims: Statement, mode="federated", use="start", generator="a") -> Synthetic:
    texts = tuple(inherited.written(one.to_dict()) for one in claims)
    return Synthetic(use, mode, generator * 64, "ten clinics", texts)


@given(losses, losses, small, small, st.sampled_from(UNITS), st.sampled_from(RELATIONS))
def test_shares_of_the_same_unit_and_relation_add(mine, theirs, delta, other, unit, relation):
    found = inherited.added(claim(unit, relation, mine, delta), made(claim(unit, relation, theirs, other)))
    assert (found.unit, found.relation) == (unit, relation)
    assert found.epsilon == pytest.approx(mine + theirs)
    assert found.delta == pytest.approx(delta + other, abs=1e-18)
    assert found.meaningful == (mine + theirs <= statements.MEANINGFUL)
    assert set(found.assumptions) == {"trusted"} | ({inherited.ONE_CLIENT} if unit == "client" else set())


@given(losses, losses, small, small, st.sampled_from(UNITS), st.sampled_from(UNITS), *[st.sampled_from(RELATIONS)] * 2)
def test_no_share_makes_a_claim_smaller_and_more_makes_it_larger(mine, theirs, delta, other, unit, of, one, two):
    alone = claim(unit, one, mine, delta)
    found = inherited.added(alone, made(claim(of, two, theirs, other)))
    more = inherited.added(alone, made(claim(of, two, theirs + 1.0, other)))
    if (unit, of) in NO_BOUND:
        assert found.epsilon is None  # a finer unit bounds nothing for a coarser one
        assert found.guarantee == "none"
        return
    assert found.epsilon >= mine + theirs - 1e-9
    assert found.delta >= delta + other - 1e-18
    assert more.epsilon >= found.epsilon + 1.0 - 1e-9
    assert more.delta >= found.delta - 1e-18
    assert found.relation == (one if (unit, one) == (of, two) else "replace-one")


@given(st.floats(0.05, 3.0), st.floats(0.0, 8.0))
def test_what_replaces_a_unit_bounds_gaussian_noise_between_two_units(mu, epsilon):
    """Zero-out moves a sum by one clip, replace-one by two: the exact curve of twice the distance is below."""
    doubled, delta = inherited.replaced(epsilon, gaussian.delta_of(epsilon, mu))
    assert gaussian.delta_of(doubled, 2 * mu) <= delta * (1 + 1e-9) + 1e-15


@given(st.floats(0.1, 3.0), st.floats(0.1, 3.0))
def test_the_sum_bounds_what_two_gaussian_releases_tell_together(mu, other):
    """Exactly they are one release of the distance sqrt(mu^2 + other^2)."""
    one, two = (claim(epsilon=gaussian.epsilon_of(value, 1e-6)) for value in (mu, other))
    found = inherited.added(one, made(two))
    assert gaussian.delta_of(found.epsilon, math.hypot(mu, other)) <= found.delta


def test_a_share_that_leaves_no_delta_voids_a_claim():
    found = inherited.added(claim("image", "replace-one", 1.0, 0.0), made(claim("client", "zero-out", 12.0, 1e-5)))
    assert found.epsilon is None
    assert "delta is 1 or more" in found.mechanism


def test_public_generators_add_nothing_and_others_are_counted_once_each():
    own = claim()
    assert inherited.applied([own], [made(mode="public"), made(mode="public", use="bank")]) == [own]
    twice = [made(claim(epsilon=1.0)), made(claim(epsilon=1.0), use="bank")]
    (once,) = inherited.applied([own], twice)
    assert once.epsilon == 3.0
    (both,) = inherited.applied([own], [twice[0], made(claim(epsilon=1.0), use="bank", generator="b")])
    assert both.epsilon == 4.0


def test_a_claim_about_what_leaves_beside_the_model_stays_as_it_is():
    own = claim("image", "replace-one", view="the representation of a face")
    assert inherited.applied([own], [made(claim("client"))]) == [own]


def test_what_is_claimed_of_synthetic_people_is_what_is_claimed_of_their_generator():
    theirs = [claim(epsilon=1.5), claim("image", epsilon=None)]
    found = inherited.applied([], [made(*theirs, use="data")])
    assert [(one.unit, one.relation, one.epsilon, one.delta) for one in found] == [
        (one.unit, one.relation, one.epsilon, one.delta) for one in theirs
    ]
    assert all("model" in one.view and one.mechanism.startswith(statements.NOBODY) for one in found)
    same, other = made(*theirs), made(*theirs, generator="b")
    assert inherited.applied([], [made(*theirs, use="data"), same])[0].epsilon == 1.5  # told once
    assert inherited.applied([], [made(*theirs, use="data"), other])[0].epsilon == 3.0
    assert inherited.applied([], [made(mode="public", use="data"), other])[1].epsilon == 1.5


def test_the_people_of_a_public_generator_are_promised_nothing_beside_any_noise():
    own = claim("image", "replace-one", 8.0)
    image, people = inherited.applied([own], [made(mode="public", use="data")])
    assert (image.epsilon, people.unit, people.epsilon) == (8.0, "identity", None)
    assert "ten clinics" in image.not_covered[-1]
    assert "ten clinics" in people.mechanism
    assert "image itself" not in statements.claim(people)
    assert not statements.all_meaningful([image, people])
    assert statements.NOBODY in statements.headline([image, people])
    assert statements.headline([people]).startswith(statements.NOBODY)


@pytest.mark.parametrize(("use", "mode"), [*itertools.product(("data", "start", "bank"), MODES)])
def test_only_a_guarantee_or_public_people_are_no_leak(use, mode):
    none = made(claim(epsilon=None), mode=mode, use=use)
    leak = inherited.leak(none)
    assert (leak is None) == (mode == "public")
    assert (inherited.leak(made(claim(), mode=mode, use=use)) is None) == (mode != "shared")
    if leak is not None:
        assert inherited.own(none) == []
        assert inherited.added(claim(), none).epsilon is None
        assert inherited.applied([claim()], [none])[0].epsilon == (2.0)  # voided by the leak, in one place


def test_the_event_survives_its_json_and_no_accountant_prices_it():
    event = made(claim(), claim("image", epsilon=None))
    assert events.from_dict(events.to_dict(event)) == event
    assert len(events.digest(event)) == 64
    with pytest.raises(checks.UserError):
        statements.price(event)
    with pytest.raises(checks.UserError, match="mode"):
        dataclasses.replace(event, mode="private")


GOOD = claim().to_dict()
DAMAGED = {
    "no block": [1], "no unit": {**GOOD, "unit": "household"}, "no relation": {**GOOD, "relation": "some"},
    "no delta": {**GOOD, "delta": None}, "delta of 1": {**GOOD, "delta": 1.0},
    "less than nothing": {**GOOD, "epsilon": -1.0}, "a number without a guarantee": {**GOOD, "guarantee": "none"},
    "a missing view": {key: value for key, value in GOOD.items() if key != "view"},
    "infinite": {**GOOD, "epsilon": math.inf}, "a truth value": {**GOOD, "epsilon": True},
    "more than any number": {**GOOD, "epsilon": 10**400, "meaningful": False},
    "too large to mean something": {**GOOD, "epsilon": 21.0}, "letters of a terminal": {**GOOD, "view": "all\x1b[2J"},
    "an assumption of two lines": {**GOOD, "assumptions": ["trusted\nprivate: yes"]},
    "a guarantee without a number": {**GOOD, "epsilon": None}, "a word": {**GOOD, "assumptions": "trusted"},
}  # fmt: skip


@pytest.mark.parametrize("plain", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_statement_is_refused(plain):
    with pytest.raises(checks.UserError):
        inherited.statement_of(plain)
    assert inherited.statement_of(GOOD) == claim()
