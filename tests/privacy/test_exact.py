"""Draws of rounded noise: exact probabilities, and many at a time against one at a time at any precision."""

from __future__ import annotations

import decimal
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special, stats

from fedveil.privacy import exact, settling
from fedveil.privacy.settling import STRIPS, Bits, Law
from fedveil.randomness import SecretStream, test_key

LAWS: tuple[Law, ...] = ("gaussian", "laplace")
FALSE_ALARM = 1e-6
CDF: dict[Law, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "gaussian": special.ndtr,
    "laplace": lambda x: np.where(x < 0, 0.5 * np.exp(-np.abs(x)), 1 - 0.5 * np.exp(-np.abs(x))),
}


def stream(*labels: str | int) -> SecretStream:
    return SecretStream(test_key(11, *labels))


def drawn(law: Law, steps: int, count: int, *labels: str | int) -> NDArray[np.int64]:
    return exact.rounded(law, stream(law, steps, *labels), np.full(count, steps))


def cells(law: Law, steps: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return ends of about 100 cells (between integers), out to five scales, and the exact probabilities of the cells.

    A cell's mass comes from its side's lower tail, where the distribution functions are precise.
    """
    edges = np.unique(np.round(np.linspace(-5, 5, 101) * steps)) + 0.5
    lower = CDF[law](np.minimum(edges, -edges) / steps)
    below = np.concatenate([[0.0], lower[edges < 0]])
    above = np.concatenate([lower[edges > 0], [0.0]])
    middle = [1 - below[-1] - above[0]]
    return edges, np.concatenate([np.diff(below), middle, -np.diff(above)])


def check_law(law: Law, steps: int, count: int = 400_000) -> None:
    """Chi-square over cells of known probability, few of them pooled, at a false alarm of one in a million."""
    values = drawn(law, steps, count)
    edges, expected = cells(law, steps)
    assert expected.sum() == pytest.approx(1.0, abs=1e-12)
    observed = np.bincount(np.searchsorted(edges, values), minlength=len(expected))
    often = expected * count >= 10
    pairs = [(observed[often], expected[often] * count)]
    if not often.all():
        pairs.append((observed[~often].sum(keepdims=True), expected[~often].sum(keepdims=True) * count))
    seen, awaited = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    assert awaited.min() > 1e-3
    statistic = float(((seen - awaited) ** 2 / awaited).sum())
    assert stats.chi2.sf(statistic, len(seen) - 1) > FALSE_ALARM, (law, steps, statistic, len(seen))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("steps", [1, 2, 3, 16, 999, 2**29 + 1, exact.LARGEST_STEPS])
def test_every_cell_has_its_exact_probability(law: Law, steps: int) -> None:
    check_law(law, steps)


@pytest.mark.parametrize("law", LAWS)
def test_half_the_noise_rounding_up_and_one_sign_are_caught(law: Law, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = exact.rounded
    faults: Sequence[Callable[..., NDArray[np.int64]]] = (
        lambda law, stream, steps: whole(law, stream, (steps + 1) // 2),
        lambda law, stream, steps: whole(law, stream, steps) + 1,
        lambda law, stream, steps: np.abs(whole(law, stream, steps)),
    )
    for fault in faults:
        monkeypatch.setattr(exact, "rounded", fault)
        with pytest.raises(AssertionError):
            check_law(law, 16)


@pytest.mark.parametrize("law", LAWS)
def test_moments(law: Law) -> None:
    unit = drawn(law, 2**29, 300_000, "moments") / 2.0**29
    variance, kurtosis = (1.0, 3.0) if law == "gaussian" else (2.0, 6.0)
    eighth = (105.0 if law == "gaussian" else 2520.0) / variance**4
    spread = 5 / np.sqrt(len(unit))
    assert abs(unit.mean()) < spread * np.sqrt(variance)
    assert abs((unit**2).mean() / variance - 1) < spread * np.sqrt(kurtosis - 1)
    assert abs((unit**3).mean()) < spread * np.sqrt(15.0 if law == "gaussian" else 720.0)
    assert abs((unit**4).mean() / variance**2 - kurtosis) < spread * np.sqrt(eighth)


@pytest.mark.parametrize("law", LAWS)
def test_low_bits_are_uniform_and_neighbours_and_places_are_independent(law: Law) -> None:
    values = drawn(law, 2**30, 3 * (1 << 15) + 17, "places")
    counts = np.bincount(values & 255, minlength=256)
    assert stats.chisquare(counts).pvalue > FALSE_ALARM
    ranks = stats.rankdata(values)
    for lag in (1, 2, 1 << 15):
        assert abs(np.corrcoef(ranks[lag:], ranks[:-lag])[0, 1]) < 5 / np.sqrt(len(values) - lag)
    # Each part of a stream by itself: the first draws of a chunk, its last, and what was rejected and drawn again.
    for part in np.array_split(values, 7):
        assert stats.kstest(part / 2.0**30, CDF[law]).pvalue > FALSE_ALARM


@pytest.mark.parametrize("law", LAWS)
def test_a_key_repeats_and_a_stream_continues(law: Law) -> None:
    steps = np.random.default_rng(1).integers(1, exact.LARGEST_STEPS, 70_000)
    first = stream("same")
    values = exact.rounded(law, first, steps)
    assert np.array_equal(values, exact.rounded(law, stream("same"), steps))
    assert not np.array_equal(values, exact.rounded(law, first, steps))
    assert exact.rounded(law, first, steps[:0]).shape == (0,)


@pytest.mark.parametrize("bad", [0, -1, exact.LARGEST_STEPS + 1])
def test_steps_out_of_range_are_refused(bad: int) -> None:
    with pytest.raises(ValueError, match="Expected steps"):
        exact.rounded("gaussian", stream("bad"), np.array([1, bad]))


class Given(SecretStream):
    """First the given words, then those of a key."""

    def __init__(self, words: NDArray[np.uint64]) -> None:
        super().__init__(test_key(11, "after"))
        self._given: Iterator[NDArray[np.uint64]] = iter([words])
        self.further = 0

    def words(self, count: int) -> NDArray[np.uint64]:
        given = next(self._given, None)
        if given is not None:
            assert len(given) == count
            return given
        self.further += count
        return super().words(count)


def check_settled(law: Law, steps: NDArray[np.uint64], first: NDArray[np.uint64], place: NDArray[np.uint64]) -> int:
    """Decide the same words many at a time and one at a time; return how many further words that took."""
    many, single = Given(np.concatenate([first, place])), Given(np.empty(0, np.uint64))
    single.words(0)
    values, rejected = exact._drawn(law, many, steps)
    for index in range(len(steps)):
        word = int(first[index])
        bits = Bits(word >> 33, 31, single), Bits(int(place[index]), 64, single), Bits(word & (2**32 - 1), 32, single)
        size = settling.settled(law, int(steps[index]), *bits)
        assert (size is None) == (index in rejected), (law, index)
        if size is not None:
            assert values[index] == (-size if word >> 32 & 1 else size), (law, index)
    assert many.further == single.further
    return many.further


@pytest.mark.parametrize("law", LAWS)
def test_many_at_a_time_decide_what_one_at_a_time_does(law: Law) -> None:
    count = 3000
    words = stream("any").words(2 * count)
    steps = np.random.default_rng(2).integers(1, exact.LARGEST_STEPS, count, endpoint=True).astype(np.uint64)
    check_settled(law, steps, words[:count], words[count:])


@pytest.mark.parametrize("law", LAWS)
def test_closest_calls_are_decided_by_further_bits(law: Law) -> None:
    """Choices at the ends of strips, heights at the edge of acceptance, places at a tie, and the end of the tail."""
    table, ones = exact._table(law), 2**64 - 1
    ends = [int(end) for end in table.ends]
    choices = sorted({end + near for end in ends[::7] + ends[-3:] for near in (-1, 0, 1) if 0 <= end + near < 2**31})
    words = [(choice << 33 | height, place) for choice in choices for height in (0, 2**32 - 1) for place in (0, ones)]
    for strip in (0, 1, 20, 40):
        inside = (ends[strip - 1] if strip else 0) + 1
        for place in (1 << 63, 12345 << 40):
            height, _ = settling.decay(*settling.exponent(law, strip, place, 64), 32)
            words += [(inside << 33 | height + near, place) for near in (-2, -1, 0, 1) if height + near < 2**32]
    # Ties: steps * x is half an integer at or behind the end of the place's digits.
    words += [(index << 33, place) for index in (0, ends[0] + 1) for place in (2**63 - 1, 2**63, ones)]
    first, place = (np.array(part, np.uint64) for part in zip(*words, strict=True))
    further = [
        check_settled(law, np.full(len(words), steps, np.uint64), first, place) for steps in (1, 3, 16, 2**30 + 1)
    ]
    assert min(further) > len(choices) // 6, "no call was close: this test would test nothing"


def test_a_tie_waits_for_further_bits() -> None:
    """x = 1/2 - 2^-68 or more: half a step exactly where all further bits are ones."""
    place = Bits(2**64 - 1, 64, stream("tie"))
    assert settling.rounded(1, STRIPS // 2 - 1, place) == 0
    assert place.count == 64, "below one half whatever follows"
    several = 3  # 3 x = 1 / 2 lies inside a strip
    tie = (STRIPS << 64) // (2 * several)
    near = Bits(tie & (2**64 - 1), 64, stream("tie"))
    assert settling.rounded(several, tie >> 64, near) in (0, 1)
    assert near.count > 64


@pytest.mark.parametrize("bits", [8, 32, 95])
def test_decay_is_around_the_exponential(bits: int) -> None:
    decimal.getcontext().prec = 80
    rng = np.random.default_rng(bits)
    for numerator, denominator in [(0, 1), (1, 10**9), *rng.integers(1, 3000, (60, 2)).tolist()]:
        low, high = settling.decay(numerator, denominator, bits)
        value = (-decimal.Decimal(numerator) / decimal.Decimal(denominator)).exp() * 2**bits
        assert low <= value <= high <= low + 2


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("bits", [31, 95])
def test_strips_have_their_exact_probabilities(law: Law, bits: int) -> None:
    decimal.getcontext().prec = 80
    unit = decimal.Decimal(1) / STRIPS
    edges = [unit * strip for strip in range(2500)]
    weights = [(-(x * x / 2 if law == "gaussian" else x)).exp() for x in edges]
    total, so_far = sum(weights), decimal.Decimal(0)
    if law == "laplace":
        total = 1 / (1 - (-unit).exp())
    low, high = settling.cumulative(law, bits)
    for below, above, weight in zip(low, high, weights, strict=False):
        so_far += weight
        assert below <= so_far / total * 2**bits <= above <= below + 1
    assert low[-1] == 2**bits - 1
