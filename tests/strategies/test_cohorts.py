"""Cohorts: exact coins without asking those who stay at home, exact sets, and time that the cohort takes."""

import itertools
import math
import time
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from fedveil.configuration.schema import Cohort
from fedveil.privacy import sampling
from fedveil.randomness import SecretStream
from fedveil_strategies import cohorts


def secret(number):
    return SecretStream(number.to_bytes(32, "big")).words


@pytest.mark.parametrize(("rate", "count"), [(0.3, 5), (0.5, 4), (0.9, 4), (0.05, 6)])
def test_every_set_of_clients_has_its_own_probability(rate, count):
    """All 2^n outcomes against the product of independent coins: rate and independence at once."""
    draws = 20_000
    seen = np.zeros(2**count)
    for number in range(draws):
        seen[int((1 << sampling.poisson(rate, count, secret(number))).sum())] += 1
    sizes = np.array([bin(mask).count("1") for mask in range(2**count)])
    expected = draws * rate**sizes * (1 - rate) ** (count - sizes)
    rare = expected < 8  # too few for the law of large numbers: together
    seen, expected = np.append(seen[~rare], seen[rare].sum()), np.append(expected[~rare], expected[rare].sum())
    assert stats.chisquare(seen[expected > 0], expected[expected > 0]).pvalue > 1e-4


def test_sizes_are_binomial_and_places_uniform():
    rate, count = 0.02, 5000
    found = [sampling.poisson(rate, count, secret(number)) for number in range(3000)]
    sizes = np.array([places.size for places in found])
    law = stats.binom(count, rate)
    edges = law.ppf(np.linspace(0, 1, 21)[1:-1])
    groups = np.bincount(np.searchsorted(edges, sizes, side="left"), minlength=20)
    chances = np.diff([0.0, *law.cdf(edges), 1.0])
    assert stats.chisquare(groups, chances * len(sizes)).pvalue > 1e-4
    places = np.concatenate(found)
    assert stats.chisquare(np.bincount(places // 100, minlength=50)).pvalue > 1e-4
    assert all((np.diff(one) > 0).all() and one.min() >= 0 and one.max() < count for one in found if one.size)


def test_neighbours_and_rounds_are_independent():
    joined = np.zeros((4000, 60), bool)
    for number in range(4000):
        joined[number, sampling.poisson(0.25, 60, secret(number))] = True
    for one, other in ((joined[:, :-1], joined[:, 1:]), (joined[:-1], joined[1:])):
        table = [[int((one & other).sum()), int((one & ~other).sum())],
                 [int((~one & other).sum()), int((~one & ~other).sum())]]  # fmt: skip
        assert stats.chi2_contingency(table, correction=False).pvalue > 1e-4


@pytest.mark.parametrize("rate", [1e-7, 0.001, 0.3, 0.5, 0.999])
def test_gaps_are_those_of_the_exact_logarithms(rate):
    first = secret(7)(400)
    exact = [sampling._close_call(rate, int(word), secret(8)) for word in first]
    assert sampling._gaps(rate, first, secret(9), 10**9).tolist() == exact


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5])
def test_a_close_call_is_decided_by_further_bits(rate):
    """The word that holds the boundary (1 - q)^k falls to one side or the other by what follows it."""
    asked = []

    def following(bits):
        def words(count):
            asked.append(count)
            return np.full(count, bits, np.uint64)

        return words

    for k in (1, 3, 40):
        with sampling.decimal.localcontext(prec=80):
            boundary = (1 - sampling.decimal.Decimal(rate)) ** k * 2**64
        word = np.array([int(boundary)], np.uint64)
        if boundary == int(boundary):  # rate 1/2: the boundary is where a word begins
            word[0] -= np.uint64(1)
            assert sampling._gaps(rate, word, following(2**64 - 1), 10**9).tolist() == [k]
            continue
        assert sampling._gaps(rate, word, following(0), 10**9).tolist() == [k]
        assert sampling._gaps(rate, word, following(2**64 - 1), 10**9).tolist() == [k - 1]
    assert asked


def test_extreme_rates():
    assert sampling.poisson(1.0, 5, lambda count: pytest.fail("no word is needed")).tolist() == [0, 1, 2, 3, 4]
    assert sampling.poisson(1e-300, 10**6, secret(1)).size == 0
    assert sampling.poisson(5e-324, 10**6, secret(1)).size == 0
    near = np.array([2**64 - 1], np.uint64)  # so close to 1 that the gap is small although the rate is tiny
    assert sampling._close_call(1e-300, 2**64 - 1, secret(1)) > 10**200
    assert sampling._gaps(1e-300, near, secret(1), 10**6).tolist() == [10**6]
    almost = sampling.poisson(math.nextafter(1.0, 0.0), 1000, secret(1))
    assert almost.size == 1000


@pytest.mark.parametrize("size", [0, 1, 2, 3, 5])
def test_every_set_of_a_size_is_equally_likely(size):
    sets = {frozenset(one): 0 for one in itertools.combinations(range(5), size)}
    for number in range(12_000):
        sets[frozenset(sampling.without_replacement(size, 5, secret(number)).tolist())] += 1
    assert len(sets) == math.comb(5, size)
    assert len(sets) == 1 or stats.chisquare([*sets.values()]).pvalue > 1e-4


def test_words_beyond_the_last_multiple_are_thrown_away():
    """Taken modulo the count they would favour the first places."""
    answers = iter([[2**64 - 1] * 9, [7, 11] * 5])
    found = sampling.without_replacement(1, 10, lambda count: np.array(next(answers)[:count], np.uint64))
    assert found.tolist() == [7]


def test_a_cohort_of_a_million_costs_what_its_members_cost():
    registry = range(10**9)
    tracemalloc.start()
    begun = time.perf_counter()
    for cohort in (Cohort("poisson", rate=1e-6), Cohort("fixed", size=1000)):
        members = cohorts.draw(cohort, registry, secret(5))
        assert 800 < len(members) < 1200
        assert members[0] == members.places[0]
    assert time.perf_counter() - begun < 1.0
    assert tracemalloc.get_traced_memory()[1] < 10 * 2**20
    tracemalloc.stop()


def test_members_are_a_sequence_of_ids():
    members = cohorts.Members(("a", "b", "c", "d"), np.array([0, 2, 3]))
    assert (len(members), members[0], members[-1], list(members)) == (3, "a", "d", ["a", "c", "d"])
    assert list(members[1:]) == ["c", "d"]
    assert "c" in members
    assert "b" not in members


def test_public_cohorts_repeat_and_differ_from_round_to_round():
    cohort, registry = Cohort("fixed", size=7), range(500)
    first, second, again = (
        cohorts.draw(cohort, registry, cohorts.public_words(3, number)).places.tolist() for number in (1, 2, 1)
    )
    assert first == again != second
