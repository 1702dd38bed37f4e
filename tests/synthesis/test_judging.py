"""A set before its judges: the generator's own network is told apart, references stand beside, mistakes are said."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch
from fake import Fake

from fedveil import checks
from fedveil.synthesis import _blocks
from fedveil.synthesis.judging import judge
from fedveil.synthesis.sampling import Drawn, Sampling, generate


@dataclasses.dataclass
class Eye:
    """A judge that looks at what the fake's recogniser does, turned: the generator never saw it."""

    said: dict[str, Any] = dataclasses.field(default_factory=lambda: {"kind": "eye"})

    def embed(self, images: np.ndarray) -> np.ndarray:
        turn = np.linalg.qr(np.random.default_rng(4).normal(size=(8, 8)))[0]
        return np.tanh(Fake().embed(_blocks.to_pixels(torch.from_numpy(images))).numpy() @ turn)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    sampling = Sampling(identities=12, images=5, ddim_steps=4, apart=0.9, packing_steps=20, keep=0.6)
    real = np.eye(8)[:1]
    return generate(Fake(), sampling, real, 0.95, tmp_path_factory.mktemp("set"), 1)


def test_a_set_is_consistent_and_one_with_shuffled_labels_is_not(drawn: Drawn) -> None:
    told: list[tuple[int, int]] = []
    shuffled = np.random.default_rng(1).permutation(drawn.labels) + 7
    others = {"shuffled": (drawn.images, shuffled)}
    found = judge(drawn, Eye(), Fake(), others, progress=lambda _, done, of: told.append((done, of)))
    json.dumps(found, allow_nan=False)
    assert list(found["sets"]) == ["synthetic", "shuffled"]
    for who in ("by_judge", "by_generator"):
        mine, other = (found["sets"][name][who]["consistency"] for name in ("synthetic", "shuffled"))
        assert mine["pair_cosine"]["low"] > other["pair_cosine"]["high"]
        assert mine["auc"] > 0.9
        assert other["auc"] < 0.65
        assert set(mine["accepted_at"]) == {"shuffled"}
        assert "accepted_at" not in other
    assert found["judge"] == {"kind": "eye"}
    assert any("circular" in note and "by_generator" in note for note in found["notes"])
    assert found["counts"] == dict(drawn.counts)
    assert found["sets"]["synthetic"]["people"] == len(drawn.anchors)
    assert set(found["sets"]["synthetic"]["attributes"]) == {"yaw", "light"}
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]


def test_the_judge_and_the_generator_s_network_are_not_mixed_up(drawn: Drawn) -> None:
    class Blind(Eye):
        def embed(self, images: np.ndarray) -> np.ndarray:
            return np.random.default_rng(images.shape[0]).normal(size=(len(images), 8))

    found = judge(drawn, Blind(), Fake())["sets"]["synthetic"]
    assert abs(found["by_judge"]["consistency"]["auc"] - 0.5) < 0.1
    assert found["by_generator"]["consistency"]["auc"] > 0.9


def test_people_of_one_picture_are_left_out_of_a_reference(drawn: Drawn) -> None:
    extra = np.concatenate([drawn.images, drawn.images[:1]]), np.append(drawn.labels, 99)
    found = judge(drawn, Eye(), Fake(), {"real": extra})["sets"]
    assert found["real"]["images"] == len(drawn.images)
    assert found["real"]["by_judge"]["within"] == found["synthetic"]["by_judge"]["within"]


def test_what_cannot_be_judged_is_refused(drawn: Drawn) -> None:
    with pytest.raises(checks.UserError, match="Expected real faces of shape"):
        judge(drawn, Eye(), Fake(), {"real": (np.zeros((4, 3, 16, 16), np.uint8), np.array([0, 0, 1, 1]))})
    with pytest.raises(checks.UserError, match="rename it"):
        judge(drawn, Eye(), Fake(), {"synthetic": (drawn.images, drawn.labels)})
    with pytest.raises(checks.UserError, match=r"real faces of at least two people .* got 1"):
        judge(drawn, Eye(), Fake(), {"real": (drawn.images[:4], np.array([0, 0, 1, 2]))})
