"""Client-level privacy: bounded influence of any reply, noise at its stated scale, the quantile from both sides."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import stats

from fedveil import checks, randomness
from fedveil.configuration.schema import Cohort
from fedveil.records import Failure, Update
from fedveil_strategies import contributions, private, rounds

IDS = tuple(f"c{n}" for n in range(20))
TENSORS = {"a": np.zeros((3, 2), np.float32), "scalar": np.zeros((), np.float32), "b": np.zeros(4, np.float32)}
PLAN = rounds.Plan(10, IDS, Cohort("poisson", 0.5), 1, ("a", "scalar", "b"))
BOUND = 0.7
MECHANISMS = {
    kind: private.Mechanism(noise_multiplier=1.5, clip=BOUND, expected=10.0, quantile=0.5, kind=kind)
    for kind in ("real", "grid")
}


def update(client, rng, size=1.0):
    return Update(client, {n: (size * rng.normal(size=v.shape)).astype(np.float32) for n, v in TENSORS.items()})


def extreme(kind, client):
    values = {n: np.zeros_like(v) for n, v in TENSORS.items()}
    if kind == "huge":
        values = {n: np.full_like(v, 3e38) for n, v in TENSORS.items()}
    elif kind == "nan":
        values["a"] = np.full((3, 2), np.nan, np.float32)
        values["b"] = np.full(4, 5.0, np.float32)
    elif kind == "inf":
        values["b"] = np.full(4, -np.inf, np.float32)
        values["scalar"] = np.float32(1000.0).reshape(())
    elif kind == "scalar":
        values["scalar"] = np.float32(1e9).reshape(())
    elif kind == "tiny":
        values["a"] = np.full((3, 2), 1e-38, np.float32)
    return Update(client, values)


KINDS = ["zero", "huge", "nan", "inf", "scalar", "tiny"]


def check_sensitivity(bound=BOUND, kind="real"):
    """Whatever one client sends, nothing instead moves the sum by at most C, anything else by at most 2 C."""
    mechanism, rng = MECHANISMS[kind], np.random.default_rng(0)
    others = [update(client, rng, size) for client, size in zip(IDS[1:], np.geomspace(0.01, 100, 19), strict=True)]
    candidates = [extreme(what, "c0") for what in KINDS] + [update("c0", rng, s) for s in (0.01, 1.0, 1e6)]
    without, count, _ = private.bounded_sums([Failure("c0", "gone"), *others], PLAN, TENSORS, mechanism, bound)
    sums = [private.bounded_sums([candidate, *others], PLAN, TENSORS, mechanism, bound) for candidate in candidates]
    rounding = 1e-12
    for total, indicators, _ in sums:
        assert torch.linalg.vector_norm(total - without) <= bound + rounding
        assert abs(indicators - count) <= 0.5
    for first, first_count, _ in sums:
        for second, second_count, _ in sums:
            assert torch.linalg.vector_norm(first - second) <= 2 * bound + rounding
            assert abs(first_count - second_count) <= 1.0


def check_noise(draws=400, kind="real"):
    """The released mean times the public divisor is the sum plus noise of standard deviation z C, fresh every round."""
    mechanism, rng = dataclasses.replace(MECHANISMS[kind], quantile=None), np.random.default_rng(1)
    total, count, _ = private.bounded_sums([update(c, rng) for c in IDS[:5]], PLAN, TENSORS, mechanism, BOUND)
    noises = []
    for number in range(draws):
        stream = randomness.SecretStream(randomness.test_key(5, "round", number))
        noisy = private.released(total.clone(), count, PLAN, TENSORS, mechanism, BOUND, stream)
        flat = np.concatenate([noisy.mean[name].ravel() for name in PLAN.allowed])
        noises.append(flat * 10.0 - total.numpy())
    noise = np.stack(noises)
    assert stats.kstest(noise.ravel() / (1.5 * BOUND), "norm").pvalue > 1e-4
    assert len(np.unique(noise)) == noise.size
    assert np.abs(np.corrcoef(noise.T) - np.eye(noise.shape[1])).max() < 5 / math.sqrt(draws)
    assert abs(np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1]) < 5 / math.sqrt(noise.size)


@pytest.mark.parametrize("kind", MECHANISMS)
def test_any_reply_is_bounded(kind):
    check_sensitivity(kind=kind)


@pytest.mark.parametrize("kind", MECHANISMS)
def test_noise_has_its_scale_and_is_independent(kind):
    check_noise(kind=kind)


@pytest.mark.parametrize("clip", ["dropped", "per tensor", "not finite"])
def test_a_broken_clip_is_caught(monkeypatch, clip):
    add = contributions.add

    def per_tensor(total, tensors, layout, factor, finite, addend):
        for block in layout.blocks:
            one = contributions.Layout({block.name: tensors[block.name].shape}, [block.name])
            own = private.clipping.factor(contributions.length(tensors, one).norm, BOUND)
            add(total[block.whole], tensors, one, own, finite, addend)

    if clip == "dropped":
        monkeypatch.setattr(private.clipping, "factor", lambda norm, bound: 1.0)
    elif clip == "per tensor":
        monkeypatch.setattr(contributions, "add", per_tensor)
    else:
        monkeypatch.setattr(contributions, "zeroed", lambda values: values)
    with pytest.raises(AssertionError if clip != "not finite" else ValueError):
        check_sensitivity()


def test_an_uncentred_indicator_is_caught(monkeypatch):
    centred = private.indicator
    monkeypatch.setattr(private, "indicator", lambda v, b: centred(v, b) + 0.5)
    with pytest.raises(AssertionError):
        check_sensitivity()


def test_halved_noise_is_caught(monkeypatch):
    whole = private.noise.gaussian
    monkeypatch.setattr(private.noise, "gaussian", lambda stream, sigma: whole(stream, sigma / 2))
    with pytest.raises(AssertionError):
        check_noise()


def test_a_reused_seed_is_caught(monkeypatch):
    whole = private.noise.gaussian
    same = randomness.test_key(5, "always")
    monkeypatch.setattr(private.noise, "gaussian", lambda stream, sigma: whole(randomness.SecretStream(same), sigma))
    with pytest.raises(AssertionError):
        check_noise()


def test_noise_per_client_instead_of_per_sum_is_caught(monkeypatch):
    whole = private.noise.gaussian
    monkeypatch.setattr(private.noise, "gaussian", lambda stream, sigma: whole(stream, sigma * math.sqrt(5)))
    with pytest.raises(AssertionError):
        check_noise()


def test_an_empty_cohort_releases_noise():
    mechanism = private.Mechanism(noise_multiplier=1.0, clip=BOUND, expected=10.0)
    total, count, failures = private.bounded_sums([], PLAN, TENSORS, mechanism, BOUND)
    assert (count, failures) == (0.0, [])
    assert not total.any()
    noisy = private.released(
        total, count, PLAN, TENSORS, mechanism, BOUND, randomness.SecretStream(randomness.test_key(1, "r"))
    )
    assert all(value.all() for value in noisy.mean.values())


def test_a_sum_of_one_update_splits_into_it_scalars_included():
    rng = np.random.default_rng(2)
    one = update("c0", rng)
    loose = private.Mechanism(0.0, clip=1e9, expected=10.0)
    back = private.split(private.bounded_sums([one], PLAN, TENSORS, loose, 1e9)[0], PLAN, TENSORS)
    for name, value in one.tensors.items():
        np.testing.assert_array_equal(back[name].astype(np.float32), value)
        assert back[name].shape == value.shape


@pytest.mark.parametrize("start", [0.01, 100.0])
def test_the_adaptive_bound_comes_to_the_quantile_from_both_sides(start):
    rng = np.random.default_rng(3)
    mechanism = private.Mechanism(noise_multiplier=1.0, clip=start, expected=200.0, quantile=0.5, share=0.1)
    clip = start
    history = []
    for number in range(150):
        norms = rng.lognormal(0.0, 0.5, 200)
        count = float(np.where(norms <= clip, 0.5, -0.5).sum())
        stream = randomness.SecretStream(randomness.test_key(9, "round", number))
        total = torch.zeros(11, dtype=torch.float64)
        clip = private.released(total, count, PLAN, TENSORS, mechanism, clip, stream).clip
        history.append(clip)
    assert np.median(history[-40:]) == pytest.approx(1.0, rel=0.15)


def test_the_two_queries_together_cost_the_stated_multiplier():
    mechanism = private.Mechanism(noise_multiplier=1.3, clip=1.0, expected=10.0, quantile=0.5, share=0.2)
    together = (mechanism.update_multiplier**-2 + mechanism.count_multiplier**-2) ** -0.5
    assert together == pytest.approx(1.3)
    alone = private.Mechanism(noise_multiplier=1.3, clip=1.0, expected=10.0)
    assert alone.update_multiplier == 1.3


def test_bad_constants_are_refused():
    with pytest.raises(checks.UserError, match="clip=0"):
        private.Mechanism(1.0, clip=0.0, expected=10.0)
    with pytest.raises(checks.UserError, match=r"quantile=1\.5"):
        private.Mechanism(1.0, clip=1.0, expected=10.0, quantile=1.5)


def test_noise_follows_the_bound_of_its_round_and_the_count_has_its_own():
    mechanism = private.Mechanism(noise_multiplier=1.5, clip=1.0, expected=10.0, quantile=0.5, share=0.2, clip_lr=0.3)
    clip, count, total = 6.0, 2.5, torch.zeros(11, dtype=torch.float64)
    sums, counts = [], []
    for number in range(600):
        stream = randomness.SecretStream(randomness.test_key(6, "round", number))
        noisy = private.released(total.clone(), count, PLAN, TENSORS, mechanism, clip, stream)
        sums.append(np.concatenate([noisy.mean[name].ravel() for name in PLAN.allowed]) * 10.0)
        # The inverse of the geometric step: what the noisy count must have been.
        counts.append(10.0 * (0.5 - math.log(noisy.clip / clip) / 0.3 - 0.5) - count)
    update_noise, count_noise = 1.5 / math.sqrt(0.8), 1.5 / math.sqrt(0.2)
    assert stats.kstest(np.ravel(sums) / (update_noise * clip), "norm").pvalue > 1e-4
    assert stats.kstest(np.array(counts) / (count_noise / 2), "norm").pvalue > 1e-4
