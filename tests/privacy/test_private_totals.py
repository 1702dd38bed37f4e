"""What an owner's ledger makes of private steps: totals over runs, limits, and what stands beside copies."""

from __future__ import annotations

import pytest

from fedveil import checks
from fedveil.configuration.schema import Policy
from fedveil.federation.federation import Federation
from fedveil.privacy import spending, totals
from fedveil.privacy.accounting import filters
from fedveil.privacy.accounting.rdp import RdpAccountant
from fedveil.privacy.events import Gaussian, LocalRelease, NonPrivate, PoissonSampled, Release, Repeated
from fedveil.privacy.ledger import Row
from fedveil_clients import policy
from fedveil_clients.policy import Node, PolicyRefusal

STEPS = Release("image", "zero-out", "updates", Repeated(PoissonSampled(0.1, Gaussian(2.0)), 100))
PEOPLE = Release("identity", "zero-out", "updates", Repeated(PoissonSampled(0.1, Gaussian(2.0)), 100))
COPY = LocalRelease("laplace", 3.0)
WORDS = ("tracking=none", "protection=none", "privacy.image.epsilon=4", "train.rounds=4")


def rows(*events, status="reserved", run="run"):
    return [Row(f"{run} {number}", "own", status, event) for number, event in enumerate(events)]


def test_schedules_of_several_runs_compose():
    (one,) = totals.of_rows(rows(STEPS))
    (two,) = totals.of_rows(rows(STEPS, PEOPLE))
    exact = RdpAccountant("zero-out", "image").compose(STEPS).compose(PEOPLE).upper(1e-5)
    assert one.unit == two.unit == "image"
    assert exact > RdpAccountant("zero-out", "image").compose(STEPS, 2).upper(1e-5)
    assert one.epsilon < two.epsilon == pytest.approx(exact)


def test_a_round_that_is_asked_again_costs_its_steps():
    again = Release("image", "zero-out", "updates", Repeated(PoissonSampled(0.1, Gaussian(2.0)), 5))
    more = [*rows(STEPS), Row("run 0", "own", "spent", again, "round 3 again")]
    exact = RdpAccountant("zero-out", "image").compose(PoissonSampled(0.1, Gaussian(2.0)), 105).upper(1e-5)
    assert totals.of_rows(more)[0].epsilon == pytest.approx(exact)


def test_copies_of_another_run_are_priced_together_for_a_replaced_image():
    (both,) = totals.of_rows([*rows(STEPS), *rows(COPY, status="spent", run="copied")])
    assert both.relation == "replace-one"
    exact = RdpAccountant("replace-one", "image").compose(STEPS).compose(COPY).upper(1e-5)
    assert both.epsilon == pytest.approx(exact)


def test_steps_on_copies_tell_no_more_than_the_copies():
    same = [Row("run", "own", "spent", COPY), Row("run", "own", "reserved", STEPS)]
    (only,) = totals.of_rows(same)
    assert (only.epsilon, only.relation) == (3.0, "replace-one")


def test_steps_are_no_schedule_of_clients_and_clipping_alone_is_nothing():
    assert spending.reserved(rows(STEPS, PEOPLE)) == []
    bare = rows(NonPrivate("identity", "updates", "no noise"), status="spent")
    assert totals.of_rows([*rows(STEPS), *bare])[-1].epsilon is None
    assert spending.Picture(tuple(bare)).unprotected


def test_fixed_noise_protects_no_picture():
    fixed = [Row("run", "own", "reserved", STEPS, "NOT PRIVATE: fixed noise (privacy.test_seed)")]
    assert spending.Picture(tuple(fixed)).unprotected


def test_the_filter_prices_one_schedule_as_the_accountant_of_record():
    federation = Federation.of(WORDS)
    schedule = federation.private_schedule
    assert filters.filtered_images([], [schedule], 4.0, 1e-5) <= 4.0
    assert filters.filtered_images([], [schedule, schedule], 4.0, 1e-5) > 4.0


def test_an_owners_limit_on_one_run_reads_the_private_steps():
    federation = Federation.of(WORDS)
    event = federation.planned_event
    policy.check(federation, Node("own", policy=Policy(None, 4.0)), event)
    with pytest.raises(PolicyRefusal, match="at most 3"):
        policy.check(federation, Node("own", policy=Policy(None, 3.0)), event)
    with pytest.raises(PolicyRefusal, match="infinite"):  # a gallery is another matter
        policy.check(federation, Node("own", policy=Policy(None, 4.0)), event, training=False)


def test_delta_is_compared_with_the_owners_own_number_of_images():
    federation = Federation.of(WORDS)
    node = Node("own")
    policy.check_count(federation, node, federation.planned_event, 9_000, 9)
    with pytest.raises(PolicyRefusal) as refused:
        policy.check_count(federation, node, federation.planned_event, 200_000, 9)
    assert "200" not in refused.value.told
    assert not isinstance(refused.value, checks.UserError)


@pytest.mark.parametrize("copy", [COPY, LocalRelease("gaussian", 0.4, delta=1e-5)])
def test_the_filter_takes_the_larger_total_of_both_first_releases(copy):
    """Which order was fixed beforehand hangs on what came first, and that is not asked."""
    limit, delta = 20.0, 1e-5
    both = filters.filtered_images([copy], [STEPS], limit, delta)
    everything, zero = RdpAccountant("replace-one", "image"), RdpAccountant("zero-out", "image")
    copied_first = filters._renyi([copy, STEPS], everything, everything, limit, delta)
    trained_first = filters._renyi([STEPS, copy], zero, everything, limit, delta)
    assert copied_first != pytest.approx(trained_first)
    assert both == max(copied_first, trained_first)
    assert (copied_first > trained_first) == (copy is COPY)



def test_one_picture_of_a_person_costs_more_than_the_person():
    found = {one.unit: one.epsilon for one in totals.of_rows(rows(PEOPLE, PEOPLE))}
    assert found["identity"] == pytest.approx(RdpAccountant("zero-out", "identity").compose(PEOPLE, 2).upper(1e-5))
    assert found["image"] == pytest.approx(RdpAccountant("replace-one", "identity").compose(PEOPLE, 2).upper(1e-5))
    assert found["image"] > 1.8 * found["identity"]
