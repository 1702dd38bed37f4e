"""A round's sum, block by block on all cores, against one vector in float64: equal bits, and the clip holds exactly."""

from __future__ import annotations

import math
import threading
import time
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedveil import blocks, randomness
from fedveil.configuration.schema import Cohort
from fedveil.privacy import banded
from fedveil.privacy.banded import Correlated
from fedveil.privacy.noise import Noise
from fedveil.records import Failure, Update, model_sha256
from fedveil_strategies import contributions, private, rounds
from fedveil_strategies.aggregation.fedavg import FedAvg

BLOCK = 8  # instead of a few numbers in one block, many blocks of a few numbers
IDS = tuple(f"c{n}" for n in range(7))
SHAPES = st.dictionaries(
    st.sampled_from("abcd"), st.lists(st.integers(0, 5), max_size=3).map(tuple), min_size=1, max_size=4
)
NUMBERS = st.floats(width=32) | st.floats(-1, 1, width=32)


@pytest.fixture(autouse=True, params=[1, 3])
def cores(request, monkeypatch):
    """Small blocks, and as many threads as asked for, however little there is to do."""
    monkeypatch.setattr(blocks, "_cores", lambda: request.param)
    monkeypatch.setattr(blocks, "_MANY", 1)
    monkeypatch.setattr(blocks, "BLOCK", BLOCK)
    monkeypatch.setattr(blocks.spans, "__defaults__", (BLOCK,))
    return request.param


def arrays(draw, shape):
    size = math.prod(shape)
    return np.array(draw(st.lists(NUMBERS, min_size=size, max_size=size)), np.float32).reshape(shape)


@st.composite
def updates(draw, count=None):
    shapes = draw(SHAPES)
    answers = []
    for client in IDS[: draw(st.integers(0, len(IDS))) if count is None else count]:
        tensors = {name: arrays(draw, shape) for name, shape in shapes.items()}
        if draw(st.booleans()):
            tensors = dict(reversed(tensors.items()))
        answers.append(Update(client, tensors) if draw(st.integers(0, 5)) else Failure(client, "gone"))
    return shapes, answers


# --- the oracle: one float64 vector an update, and the sum in one order


def vector(tensors, allowed):
    return np.concatenate([np.asarray(tensors[name], np.float64).ravel() for name in allowed])


def norm_of(values, shapes, allowed):
    """Return the root of the exact sum of what is added pairwise in every block of every tensor."""
    sums, place = [], 0
    for name in allowed:
        size = math.prod(shapes[name])
        for start in range(0, size, BLOCK):
            part = values[place + start : place + min(start + BLOCK, size)]
            sums.append(float(np.sum(part * part)))
        place += size
    return math.sqrt(math.fsum(sums))


def naive(shapes, answers, allowed, mechanism, clip, key, correlated=None):
    """Return the mean and the next clipping norm of a client-level round, with nothing done in parts."""
    total, count = np.zeros(sum(math.prod(shapes[name]) for name in allowed)), 0.0
    sums, counts = mechanism.update_noise(clip), mechanism.count_noise()
    for answer in answers:
        if isinstance(answer, Failure):
            continue
        values = vector(answer.tensors, allowed)
        values[~np.isfinite(values)] = 0.0
        norm, most = norm_of(values, shapes, allowed), clip * (1 - 1e-6)
        share = values * (most / norm if norm > most else 1.0)
        total = total + (share if sums is None else sums.addend(torch.from_numpy(share)).numpy())
        count += 0.5 if norm <= clip else -0.5
    stream = randomness.SecretStream(key)
    if sums is not None and correlated is None:
        total = sums.added(stream, torch.from_numpy(total)).numpy()
    elif sums is not None:
        total = total + correlated.next(sums.added(stream, torch.zeros(len(total), dtype=torch.float64))).numpy()
    mean = total / mechanism.expected
    if mechanism.quantile is not None:
        if counts is not None:
            count = float(counts.added(stream, torch.tensor([count], dtype=torch.float64))[0])
        clip = clip * math.exp(-mechanism.clip_lr * (count / mechanism.expected + 0.5 - mechanism.quantile))
    return mean, clip


def plan_of(allowed, count=3):
    return rounds.Plan(count, IDS, Cohort("fixed", size=len(IDS)), 1, tuple(allowed), None)


MECHANISMS = {
    "clip alone": private.Mechanism(0.0, clip=0.7, expected=3.0),
    "client-level": private.Mechanism(1.5, clip=0.7, expected=3.0),
    "quantile": private.Mechanism(1.5, clip=0.7, expected=3.0, quantile=0.4),
    "grid": private.Mechanism(1.5, clip=0.7, expected=3.0, quantile=0.4, kind="grid"),
    "banded": private.Mechanism(1.5, clip=0.7, expected=3.0),
    "banded grid": private.Mechanism(1.5, clip=0.7, expected=3.0, kind="grid"),
}


@pytest.mark.parametrize("kind", MECHANISMS)
@given(given=updates(), order=st.randoms(use_true_random=False))
@settings(max_examples=15, deadline=None)
def test_three_noisy_rounds_have_the_oracles_bits(kind, given, order):
    shapes, answers = given
    allowed, mechanism = sorted(shapes), MECHANISMS[kind]
    start = {name: np.full(shape, 0.3, np.float32) for name, shape in shapes.items()}
    plan = plan_of(allowed)
    streams = [Correlated(banded.strategy(3, 2)) if "banded" in kind else None for _ in range(2)]

    def key(number):
        return randomness.test_key(3, "noise", number)

    def transport(number, cohort, tensors):
        given = list(answers)
        order.shuffle(given)
        return given

    def combine(number, given, state):
        clip = state.memory.get("clip", mechanism.clip)
        total, count, failures = private.bounded_sums(given, plan, state.tensors, mechanism, clip)
        stream = randomness.SecretStream(key(number))
        noisy = private.released(total, count, plan, state.tensors, mechanism, clip, stream, streams[0])
        return rounds.Combined(noisy.mean, tuple(failures), {"clip": noisy.clip})

    found = rounds.run(plan, rounds.State(0, start, {}), transport, FedAvg(), [], combine=combine)
    expected, clip = dict(start), mechanism.clip
    for number in (1, 2, 3):
        mean, clip = naive(shapes, answers, allowed, mechanism, clip, key(number), streams[1])
        place = 0
        for name in allowed:
            size = math.prod(shapes[name])
            moved = expected[name] + mean[place : place + size].reshape(shapes[name])
            expected[name] = moved.astype(np.float32)
            place += size
    assert model_sha256(found.tensors) == model_sha256(expected)
    assert found.memory["clip"] == clip


@given(given=updates(), order=st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_a_plain_round_has_the_oracles_bits(given, order):
    shapes, answers = given
    allowed = sorted(shapes)
    tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    shuffled = list(answers)
    order.shuffle(shuffled)
    mean, failures = rounds.expected_mean(rounds.ordered(shuffled, IDS), plan_of(allowed), tensors)
    total, failed = np.zeros(sum(map(math.prod, shapes.values()))), []
    said = {answer.client_id: answer for answer in answers}
    for client in IDS:
        answer = said.get(client)
        if isinstance(answer, Update) and np.isfinite(vector(answer.tensors, allowed)).all():
            total = total + vector(answer.tensors, allowed)
        else:
            failed.append(client)
    assert vector(mean, allowed).tobytes() == (total / 7).tobytes()
    assert [failure.client_id for failure in failures] == failed


# --- the guarantee


@given(given=updates(count=1), bound=st.floats(1e-30, 1e30), kind=st.sampled_from(["real", "grid"]))
@settings(max_examples=150, deadline=None)
def test_what_is_added_is_within_the_bound_in_exact_arithmetic(given, bound, kind):
    """For any float32 at all: the squares of the float64 numbers that go into the sum, added as fractions."""
    shapes, (answer,) = given
    if isinstance(answer, Failure):
        return
    allowed = sorted(shapes)
    tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    mechanism = private.Mechanism(1.0, clip=bound, expected=1.0, kind=kind)
    total, _, _ = private.bounded_sums([answer], plan_of(allowed), tensors, mechanism, bound)
    assert sum(Fraction(float(value)) ** 2 for value in total) <= Fraction(bound) ** 2
    kept = vector(answer.tensors, allowed)
    kept[~np.isfinite(kept)] = 0.0
    if kind == "real" and sum(Fraction(float(value)) ** 2 for value in kept) <= Fraction(bound * (1 - 2e-6)) ** 2:
        assert np.array_equal(total.numpy(), kept)  # what is within it is not changed


@given(given=updates(count=1))
@settings(max_examples=60, deadline=None)
def test_the_norm_is_the_exact_one_within_a_part_in_1e14(given):
    shapes, (answer,) = given
    if isinstance(answer, Failure):
        return
    values = vector(answer.tensors, sorted(shapes))
    exact = sum(Fraction(float(value)) ** 2 for value in values if math.isfinite(value))
    found = contributions.length(answer.tensors, contributions.Layout(shapes, sorted(shapes)))
    assert abs(Fraction(found.norm) ** 2 - exact) <= exact * Fraction(2, 10**14)
    assert found.finite == bool(np.isfinite(values).all())


# --- threads


def test_every_item_is_done_once_whoever_does_it(cores):
    done = [0] * 1000

    def work(item, scratch):
        assert scratch.shape == (BLOCK,)
        done[item] += 1

    blocks.each(work, range(1000), 10**6)
    assert done == [1] * 1000


def test_an_error_in_any_thread_is_the_callers():
    def work(item, scratch):
        if item == 700:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        blocks.each(work, range(1000), 10**6)


def test_ctrl_c_while_it_waits_ends_all_threads_first(cores, monkeypatch):
    """A thread that went on would write into arrays that are somebody else's by then."""
    join, done = threading.Thread.join, []

    def interrupted(thread, timeout=None):
        monkeypatch.setattr(threading.Thread, "join", join)
        raise KeyboardInterrupt

    def work(item, scratch):
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0.01)
        done.append(item)

    if cores > 1:
        monkeypatch.setattr(threading.Thread, "join", interrupted)
        with pytest.raises(KeyboardInterrupt):
            blocks.each(work, range(20), 1 << 22)
        assert not [one for one in threading.enumerate() if one.name == "blocks"]


def test_an_error_leaves_what_has_not_begun_undone(cores):
    done = []

    def work(item, scratch):
        done.append(item)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        blocks.each(work, range(1000), 1 << 22)
    assert len(done) <= cores


def test_a_machine_without_threads_to_give_does_all_of_it(cores, monkeypatch):
    def none(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none)
    done = []
    blocks.each(lambda item, scratch: done.append(item), range(30), 1 << 22)
    assert done == [*range(30)]


def test_scratch_is_a_threads_own(cores):
    def work(item, scratch):
        scratch[:] = item
        for _ in range(20):
            np.sqrt(scratch)  # lets others run
        assert (scratch == item).all()

    blocks.each(work, range(200), 10**6)


# --- noise in parts


@pytest.mark.parametrize("law", ["gaussian", "laplace"])
@pytest.mark.parametrize("kind", ["real", "grid"])
@pytest.mark.parametrize("scale", [0.7, "one each"])
def test_noise_in_parts_has_the_bits_of_noise_at_once(kind, law, scale):
    size = 1003
    scales = torch.linspace(0.5, 3.0, size, dtype=torch.float64) if scale == "one each" else scale
    noise = Noise(kind, law, scales)
    start = noise.addend(torch.linspace(-2.0, 2.0, size, dtype=torch.float64))
    streams = [randomness.SecretStream(randomness.test_key(1, "parts")) for _ in range(2)]
    expected = noise.added(streams[0], start)
    values = start.clone()
    noise.add_to(streams[1], values)
    assert values.numpy().tobytes() == expected.numpy().tobytes()
    assert np.array_equal(streams[0].words(4), streams[1].words(4))  # the next draw is the same as well


def test_values_beside_the_grid_are_refused_and_left_as_they_are():
    values = torch.full((20,), 1 / 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="addend"):
        Noise("grid", "gaussian", 1.0).add_to(randomness.SecretStream(bytes(32)), values)
    assert (values == 1 / 3).all()


