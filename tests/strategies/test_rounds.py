"""The round loop against a naive one: any order of replies, validation, the public divisor, bounded influence."""


import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedveil import checks
from fedveil.configuration.schema import Cohort
from fedveil.records import Failure, Update, model_sha256
from fedveil_strategies import rounds
from fedveil_strategies.aggregation.fedadam import FedAdam
from fedveil_strategies.aggregation.fedavg import FedAvg
from fedveil_strategies.aggregation.fedavgm import FedAvgM

IDS = tuple(f"c{n}" for n in range(8))


def plan(**changes):
    values = {"rounds": 3, "registry": IDS, "cohort": Cohort("poisson", 0.5), "seed": 1, "allowed": ("a", "b")}
    return rounds.Plan(**{**values, **changes})


def start():
    rng = np.random.default_rng(0)
    return rounds.State(0, {"a": rng.normal(size=(3, 2)).astype(np.float32), "b": np.ones(4, np.float32)}, {})


def update_of(client, number, tensors):
    rng = np.random.default_rng([int(client[1:]), number])
    return Update(client, {name: rng.normal(size=value.shape).astype(np.float32) for name, value in tensors.items()})


def transport(order=lambda items: items):
    return lambda number, cohort, tensors: order([update_of(client, number, tensors) for client in cohort])


@given(st.randoms())
@settings(max_examples=20)
def test_replies_in_any_order_give_equal_bits(random):
    expected = rounds.run(plan(), start(), transport(), FedAvgM(), [])

    def shuffled(items):
        random.shuffle(items)
        return items

    found = rounds.run(plan(), start(), transport(shuffled), FedAvgM(), [])
    assert model_sha256(found.tensors) == model_sha256(expected.tensors)


def test_mean_divides_by_the_expected_cohort_not_by_who_came():
    state, p = start(), plan()
    answers = [update_of(client, 1, state.tensors) for client in IDS[:3]]
    mean, failures = rounds.expected_mean(answers, p, state.tensors)
    naive = {name: sum(np.float64(a.tensors[name]) for a in answers) / (0.5 * 8) for name in ("a", "b")}
    assert failures == []
    for name, value in naive.items():
        np.testing.assert_allclose(mean[name], value, rtol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8])
def test_the_sum_has_the_bits_of_one_addition_after_the_other(count):
    """Whatever is added in one pass: float64, in the order of the registry, large and small values among each other."""
    rng = np.random.default_rng(count)
    tensors = {"a": np.zeros((300, 400), np.float32), "b": np.zeros(3, np.float32)}
    answers: list[Update | Failure] = [
        Update(f"c{i}", {k: (10.0 ** rng.integers(-9, 9) * rng.standard_normal(v.shape)).astype(np.float32)
                         for k, v in tensors.items()})
        for i in range(count)
    ]  # fmt: skip
    answers.insert(1, Failure("c9", "gone"))
    mean, _ = rounds.expected_mean(answers, plan(), tensors)
    for name, value in tensors.items():
        total = np.zeros(value.shape, np.float64)
        for answer in answers:
            if isinstance(answer, Update):
                total = total + answer.tensors[name].astype(np.float64)
        assert np.array_equal(mean[name], total / 4)


def test_one_reply_moves_the_sum_by_exactly_itself():
    state = start()
    answers = [update_of(client, 1, state.tensors) for client in IDS[:4]]
    full, _ = rounds.expected_mean(answers, plan(), state.tensors)
    without, _ = rounds.expected_mean([Failure("c0", "gone"), *answers[1:]], plan(), state.tensors)
    np.testing.assert_allclose((full["a"] - without["a"]) * 4, answers[0].tensors["a"], atol=1e-6)


def bad(kind, tensors):
    good = {name: np.zeros_like(value) for name, value in tensors.items()}
    return {
        "nan": {**good, "a": np.full_like(good["a"], np.nan)},
        "inf": {**good, "b": np.full_like(good["b"], np.inf)},
        "extra tensor": {**good, "head": np.zeros(3, np.float32)},
        "missing tensor": {"a": good["a"]},
        "shape": {**good, "a": good["a"].T.copy()},
        "zero dimensions": {**good, "b": np.float32(1000.0).reshape(())},
        "dtype": {**good, "b": good["b"].astype(np.int64)},
        "float64": {**good, "b": good["b"].astype(np.float64)},
    }[kind]


@pytest.mark.parametrize(
    "kind", ["nan", "inf", "extra tensor", "missing tensor", "shape", "zero dimensions", "dtype", "float64"]
)
def test_a_bad_update_counts_as_zero_and_is_reported(kind):
    state = start()
    answers = [Update("c0", bad(kind, state.tensors)), update_of("c1", 1, state.tensors)]
    mean, failures = rounds.expected_mean(answers, plan(), state.tensors)
    np.testing.assert_allclose(mean["a"] * 4, answers[1].tensors["a"], atol=1e-6)
    assert [failure.client_id for failure in failures] == ["c0"]


def test_permuted_keys_change_nothing():
    state = start()
    answer = update_of("c0", 1, state.tensors)
    permuted = Update("c0", dict(reversed(answer.tensors.items())))
    first, _ = rounds.expected_mean([answer], plan(), state.tensors)
    second, _ = rounds.expected_mean([permuted], plan(), state.tensors)
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_missing_doubled_and_uninvited_replies():
    answers = [Update("c2", {}), Update("c9", {}), Update("c2", {"x": np.zeros(1, np.float32)}), Update("c0", {})]
    found = list(rounds.ordered(answers, ("c0", "c1", "c2")))
    assert [answer.client_id for answer in found] == ["c0", "c1", "c2"]
    assert found[1] == Failure("c1", "no reply", "late")
    assert found[2] == Update("c2", {})


class Compared(str):
    """A client id that counts how often one is compared with another or looked up."""

    count = 0

    def __eq__(self, other):
        Compared.count += 1
        return super().__eq__(other)

    def __hash__(self):
        Compared.count += 1
        return super().__hash__()


def test_a_cohort_is_put_in_order_by_look_ups_and_no_search():
    """At 2,000 clients a search per answer would take two million comparisons."""
    ids = [Compared(f"c{n}") for n in range(2_000)]
    found = [answer.client_id for answer in rounds.ordered((Update(name, {}) for name in reversed(ids)), ids)]
    counted = Compared.count
    assert found == ids
    assert 2_000 <= counted < 40_000


def test_interrupted_and_resumed_equals_uninterrupted():
    whole = rounds.run(plan(rounds=5), start(), transport(), FedAdam(), [])
    part = rounds.run(plan(rounds=2), start(), transport(), FedAdam(), [])
    resumed = rounds.run(plan(rounds=5), part, transport(), FedAdam(), [])
    assert model_sha256(resumed.tensors) == model_sha256(whole.tensors)


def test_most_of_a_cohort_failing_stops_the_run_with_the_reason():
    def refuse(number, cohort, tensors):
        return [Failure(client, "the owner's floor") for client in cohort]

    with pytest.raises(checks.UserError, match=r"Round 1: 4 of 4 .*the owner's floor") as stopped:
        rounds.run(plan(cohort=Cohort("fixed", size=4)), start(), refuse, FedAvg(), [])
    assert stopped.value.round == 1
    assert len({failure.client_id for failure in stopped.value.failures}) == 4


def test_observers_see_every_round_and_an_empty_cohort_is_a_round():
    seen = []
    rounds.run(plan(cohort=Cohort("poisson", 1e-9)), start(), transport(), FedAvg(), [seen.append])
    assert [report.round for report in seen] == [1, 2, 3]
    assert [report.cohort for report in seen] == [0, 0, 0]


def test_aggregation_rules_against_scalars_by_hand():
    tensors = {"w": np.array([1.0], np.float32), "frozen": np.array([5.0], np.float32)}
    mean = {"w": np.array([0.5])}
    moved, state = FedAvg(server_lr=2.0).step(tensors, mean, {})
    assert moved["w"][0] == 2.0
    assert moved["frozen"][0] == 5.0
    assert state == {}
    first, state = FedAvgM(momentum=0.5).step(tensors, mean, {})
    second, _ = FedAvgM(momentum=0.5).step(first, mean, state)
    assert (first["w"][0], second["w"][0]) == (1.5, 2.25)
    first, state = FedAdam(server_lr=0.1, beta1=0.9, beta2=0.99, tau=0.01).step(tensors, mean, {})
    v = 0.99 * 1e-4 + 0.01 * 0.25
    assert first["w"][0] == pytest.approx(1.0 + 0.1 * 0.05 / (v**0.5 + 0.01), rel=1e-6)
    assert tensors["w"][0] == 1.0
