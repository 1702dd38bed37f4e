from __future__ import annotations

import dataclasses
import unicodedata

import numpy as np
from numpy.typing import NDArray

from fedveil.data.faces import from_array
from fedveil.data.inspect import inspect
from fedveil.data.sources.procedural import Procedural
from fedveil.data.split import Split
from fedveil.data.stores import CachedStore, Problem, Unreadable

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


def columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def test_pictures_that_turn_out_unreadable_are_listed_not_refused() -> None:
    split = SMALL.load(1)
    far = "\u674e\u5c0f\u9f99" * 12

    def make(index: NDArray[np.int64]) -> NDArray[np.uint8]:
        for i in index.tolist():
            if i >= 12 or i == 4:
                raise Unreadable(Problem(f"{far}/{i}\x1b[2J", "cannot be decoded " + far), "repack it", "set.npz")
        return split.train.images(index)

    store = CachedStore(15, (32, 32), make, str, str)
    train = dataclasses.replace(split.train, store=store, names=(*split.train.names[:4], far))
    report = inspect("given", Given(dataclasses.replace(split, train=train)), 1)
    assert (report.parts[0].images, report.parts[0].identities) == (11, 4)
    assert report.parts[0].unread == (far,)
    text = str(report)
    assert "train: 11 images of 4 people" in text
    assert "train: 4 files or people left out:" in text
    assert "train: 1 people without a readable picture keep their place:" in text
    assert max(map(columns, text.splitlines())) <= 80
    assert text.replace("\n", "").isprintable()


def test_a_set_without_a_readable_picture_is_reported() -> None:
    split = SMALL.load(1)
    train = dataclasses.replace(split.train, unreadable=np.ones(15, bool))
    assert "train: 0 images of 0 people" in str(inspect("given", Given(dataclasses.replace(split, train=train)), 1))
