"""Streams are independent per key, uniform, and never leave the open interval."""

import numpy as np
import pytest
from scipy import stats

from fedveil import randomness


def test_seeds_depend_on_every_label_and_its_type():
    purposes = [(1, "a", 1), (1, "a", "1"), (1, "a1"), (2, "a", 1), (1, "a", 1, 0)]
    seeds = [randomness.derive_seed(*labels) for labels in purposes]
    assert len(set(seeds)) == len(seeds)


def test_labels_cannot_be_shifted_between_parts_of_a_key():
    key = bytes(32)
    assert randomness.subkey(key, "ab", "c") != randomness.subkey(key, "a", "bc")
    assert randomness.subkey(key, b"1") != randomness.subkey(key, 1)


def test_stream_is_uniform_and_continues():
    key = randomness.test_key(7, "uniform")
    whole = randomness.SecretStream(key).uniform(200_000)
    parts = randomness.SecretStream(key)
    assert np.array_equal(whole, np.concatenate([parts.uniform(77_777), parts.uniform(122_223)]))
    assert whole.min() > 0
    assert whole.max() < 1
    assert stats.kstest(whole, "uniform").pvalue > 1e-4


def test_all_52_bits_are_random():
    words = (randomness.SecretStream(randomness.test_key(7, "bits")).uniform(100_000) * 2.0**52 - 0.5).astype(np.uint64)
    ones = [int((words >> np.uint64(bit) & np.uint64(1)).sum()) for bit in range(52)]
    assert min(stats.binomtest(count, 100_000).pvalue for count in ones) > 1e-5
    assert len(np.unique(words)) == 100_000


def test_extreme_words_stay_inside_the_open_interval():
    words = np.array([0, 2**64 - 1], dtype="<u8")
    values = ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    assert 0 < values[0] < values[1] < 1


def test_streams_of_two_keys_are_uncorrelated():
    draws = [randomness.SecretStream(randomness.test_key(7, "pair", n)).uniform(50_000) for n in range(2)]
    assert abs(np.corrcoef(draws[0], draws[1])[0, 1]) < 0.02
    assert randomness.os_key() != randomness.os_key()


def test_wrong_key_length_is_refused():
    with pytest.raises(ValueError, match="32 bytes, got 3"):
        randomness.SecretStream(b"abc")
