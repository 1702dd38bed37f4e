"""What both sides derive: counted the long way round."""

from __future__ import annotations

import collections

import numpy as np
import pytest

from fedveil.federation import training
from fedveil.federation.federation import Federation, kept


@pytest.mark.parametrize("local", ["steps=1", "steps=4", "epochs=1", "epochs=2"])
@pytest.mark.parametrize(("count", "batch"), [(5, 2), (7, 3), (3, 8), (1, 1)])
def test_no_image_is_read_more_often_than_its_releases_are_counted(local: str, count: int, batch: int) -> None:
    words = ["protection.memoise=false", "train.rounds=5", f"train.local.{local}", f"train.batch_size={batch}"]
    run = Federation.of(words)
    work = run.settings.train.local
    steps = work.steps or training.steps_for_epochs(count, batch, work.epochs or 1)
    read: collections.Counter[int] = collections.Counter()
    for number in range(run.settings.train.rounds):
        for index in training.batch_indices(count, batch, 1, "x", start_step=number * steps, steps=steps):
            read.update(index.tolist())
    assert max(read.values()) <= run.releases_per_image
    assert Federation.of([]).releases_per_image == 1


def test_a_pass_that_ends_inside_a_batch_is_counted() -> None:
    """Three images in batches of two: one pass takes two steps, and a second look at one image."""
    run = Federation.of(["protection.memoise=false", "train.rounds=1", "train.local.epochs=1", "train.batch_size=2"])
    seen = [i for index in training.batch_indices(3, 2, 1, "x", steps=2) for i in index.tolist()]
    assert max(np.bincount(seen)) == 2 == run.releases_per_image


def test_a_process_keeps_one_federation_per_configuration() -> None:
    from fedveil import config

    one, other = (config.to_json(config.load([f"train.rounds={rounds}"])) for rounds in (3, 4))
    assert kept(one) is kept(one) is not kept(other)
    assert kept(one).split is kept(other).split  # an equal source is read once
