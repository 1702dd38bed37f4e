"""The weakest attack: it succeeds where nothing is hidden, and finds nothing in noise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from fedveil.attacks import _judges, _recovered
from fedveil.attacks._target import Target
from fedveil.attacks.base import Measure
from fedveil.attacks.replay import Replay
from fedveil.evaluation.identification import unit

ATTACK = Replay(victims=60, images=200)


class Averages:
    """A judge in a moment: the picture in blocks of four pixels, without what all pictures have in common."""

    said = {"kind": "test"}  # noqa: RUF012

    def embed(self, images: np.ndarray | torch.Tensor) -> np.ndarray:
        tensor = torch.as_tensor(np.array(images)).float()
        small = torch.nn.functional.avg_pool2d(tensor, 4).flatten(1).double().numpy()
        return unit(small - small.mean(axis=1, keepdims=True))


@pytest.fixture(autouse=True)
def judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Target, "judge", lambda *_: Averages())


def measures(target: Target) -> dict[str, Measure]:
    return {measure.name: measure for measure in ATTACK.run(target).measures}


def test_it_succeeds_where_nothing_is_hidden(target_of: Callable[..., Target]) -> None:
    found = measures(target_of())
    assert found["ssim"].value == pytest.approx(1)
    assert found["accepted_same_photo"].value == 1
    assert found["linked"].value == found["linked"].ceiling
    assert found["rank1"].value == found["rank1"].ceiling
    assert found["replayed"].value == found["replayed"].ceiling


def test_it_finds_nothing_in_noise(target_of: Callable[..., Target]) -> None:
    found = measures(target_of(noise=True))
    for name in ("linked", "rank1", "accepted_same_photo"):
        assert found[name].low <= found[name].floor + 0.02, name
    assert found["ssim"].value < found["ssim"].floor
    assert found["release_replayed"].low <= 0.05


def test_every_number_stands_beside_its_floor_ceiling_and_interval(target_of: Callable[..., Target]) -> None:
    finding = ATTACK.run(target_of("protection=dct"))
    assert finding.level == "static"
    for measure in finding.measures:
        assert measure.low <= measure.value <= measure.high
        assert measure.floor is not None
    tree = finding.to_dict()
    assert tree["people"]["victims"]["people"] == 60
    assert "panel" not in tree


def test_faces_are_rounded_before_anybody_judges_them(target_of: Callable[..., Target]) -> None:
    target = target_of()
    people = target.people(ATTACK)
    hidden = torch.from_numpy(people.taken).float() / 1000  # a face below half a grey level is no face
    found = {one.name: one.value for one in _recovered.measures(target, ATTACK, people, Averages(), hidden)}
    assert found["linked"] <= 0.05


def test_a_network_of_our_own_is_the_same_every_time_and_kept(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_judges, "_PHASES", ((3, 0.05), (2, 0.01)))
    rng = np.random.default_rng(1)
    images, labels = rng.integers(0, 255, (40, 3, 32, 32), dtype=np.uint8), np.repeat(np.arange(10), 4)
    first = _judges.trained(images, labels, 1, torch.device("cpu"), tmp_path)
    monkeypatch.setattr(_judges, "_train", lambda *_: pytest.fail("it is kept"))
    again = _judges.trained(images, labels, 1, torch.device("cpu"), tmp_path)
    assert np.array_equal(first.embed(images), again.embed(images))
    with pytest.raises(pytest.fail.Exception):
        _judges.trained(images, labels, 2, torch.device("cpu"), tmp_path)
