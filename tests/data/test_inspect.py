from __future__ import annotations

import dataclasses

import numpy as np

from fedveil.data.faces import from_array
from fedveil.data.inspect import inspect
from fedveil.data.sources.procedural import Procedural
from fedveil.data.split import Split
from fedveil.data.stores import Problem

SMALL = Procedural(identities=5, images_per_identity=3, evaluation_identities=6, public_identities=2, pairs=24)


@dataclasses.dataclass(frozen=True)
class Given:
    split: Split

    def load(self, seed: int, size_hint: int | None = None) -> Split:
        return self.split


def test_a_clean_set_has_no_problems_and_fits_80_columns() -> None:
    report = inspect("procedural", SMALL, 1)
    assert report.problems() == []
    text = str(report)
    assert "train: 15 images of 5 people, 32x32, colour" in text
    assert "24 pairs, 12 of one person, in 3 folds" in text
    assert "problems: none found" in text
    assert max(map(len, text.splitlines())) <= 80


def test_every_problem_is_found() -> None:
    split = SMALL.load(1)
    images = split.train.images().copy()
    images[1] = images[0]  # a duplicate of one person
    images[4] = images[9]  # one image under two names
    images[14] = split.evaluation.faces.images([0])[0]  # a training image that is also evaluated
    images[7] = images[7, :1]  # grey
    skipped = tuple(
        Problem(f"a_rather_long_folder_name/with_a_long_file_name_{i:04d}.jpg", "broken" * 9) for i in range(12)
    )
    labels = np.where(np.arange(15) == 13, 5, split.train.labels)
    train = from_array(images, labels, (*split.train.names, "lonely"), skipped=skipped)
    report = inspect("given", Given(dataclasses.replace(split, train=train)), 1)
    text = str(report)
    assert max(map(len, text.splitlines())) <= 80
    found = " ".join(report.problems())
    assert "train: 12 files or people left out" in found
    assert "and 2 more" in found
    assert "train: 1 people with a single image" in found
    assert "train: 2 groups of identical images" in found
    assert "one image under several names: p0001, p0003" in found
    assert "one image in several sets: train, evaluation" in found
    assert "1 grey, colour" in text
    assert report.parts[0].histogram == (((1, 1), 1), ((2, 3), 5))
