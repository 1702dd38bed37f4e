"""Several sets as one: pixels, people, records and ranks are those of the parts."""

from __future__ import annotations

import numpy as np
import pytest

from fedveil import checks
from fedveil.data.faces import from_array
from fedveil.data.sources.procedural import draw_faces
from fedveil.data.together import together


def test_images_and_names_are_those_of_the_parts() -> None:
    one, two = draw_faces(1, 0, 4, 3, 32), draw_faces(1, 50, 3, 2, 32)
    one = one.subset(one.labels != 1)
    both = together([two, one])
    assert both.present_names == (*two.present_names, *one.present_names)
    assert both.records == two.records + one.records
    assert both.keys == two.keys + one.keys
    order = np.random.default_rng(1).permutation(len(both))
    assert np.array_equal(both.images(order), np.concatenate([two.images(), one.images()])[order])
    assert [both.names[i] for i in both.labels] == [two.names[i] for i in two.labels] + [
        one.names[i] for i in one.labels
    ]
    assert [both.store.rank(i) for i in range(3)] == [two.store.rank(i) for i in range(3)]
    assert both.synthetic
    assert both.public
    assert both.subset([0, 9]).images().shape == (2, 3, 32, 32)


def test_what_cannot_be_read_stays_so() -> None:
    pixels = np.zeros((2, 3, 8, 8), np.uint8)
    broken = from_array(pixels, [0, 1], ("ann", "bob"), unreadable=np.array([False, True]))
    both = together([from_array(pixels[:1], [0], ("cleo",)), broken])
    assert both.readable.tolist() == [True, True, False]
    assert not both.synthetic


def test_two_sizes_or_one_person_twice_are_refused() -> None:
    with pytest.raises(checks.UserError, match="one image size"):
        together([draw_faces(1, 0, 2, 2, 32), draw_faces(1, 9, 2, 2, 40)])
    with pytest.raises(checks.UserError, match="equal but for case"):
        together([draw_faces(1, 0, 2, 2, 32), draw_faces(1, 0, 2, 2, 32)])
    with pytest.raises(checks.UserError, match="one image size"):
        together([])
