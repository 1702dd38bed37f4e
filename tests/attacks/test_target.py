"""Draws of releases: one for each picture, purpose and seed, or noise would cancel where two are compared."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fedveil.attacks import _target
from fedveil.attacks._target import Target
from fedveil.attacks.replay import Replay

ATTACK = Replay(victims=40, images=120)


class Averages:
    """A judge in a moment."""

    said: Any = {"kind": "test"}  # noqa: RUF012

    def embed(self, images: np.ndarray | torch.Tensor) -> np.ndarray:
        small = torch.nn.functional.avg_pool2d(torch.as_tensor(np.array(images)).float(), 4).flatten(1).double().numpy()
        found: np.ndarray = small - small.mean(axis=1, keepdims=True)
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)


def test_equal_pictures_have_draws_of_their_own_however_many_there_are(target_of: Callable[..., Target]) -> None:
    count = _target._BATCH + 3
    released = target_of(noise=True).release(np.zeros((count, 3, 32, 32), np.uint8), 1, "victims").flatten(1)
    assert len(torch.unique(released, dim=0)) == count


def test_a_purpose_and_a_seed_are_other_draws_and_the_same_are_the_same(target_of: Callable[..., Target]) -> None:
    target, image = target_of(noise=True), np.zeros((1, 3, 32, 32), np.uint8)
    drawn = [target.release(image, seed, what) for seed in (1, 2) for what in ("victims", "enrolled")]
    assert all(not torch.equal(one, other) for one, other in itertools.combinations(drawn, 2))
    assert torch.equal(drawn[0], target.release(image, 1, "victims"))


def test_a_probe_shares_no_draw_with_what_is_enrolled(
    target_of: Callable[..., Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Target, "judge", lambda *_: Averages())
    asked: list[tuple[Any, ...]] = []
    real = Target.release

    def spy(self: Target, images: np.ndarray, seed: int, *labels: Any) -> torch.Tensor:
        asked.append((images.tobytes(), *labels))
        return real(self, images, seed, *labels)

    monkeypatch.setattr(Target, "release", spy)
    ATTACK.run(target_of())
    contents: dict[tuple[Any, ...], set[bytes]] = {}
    for pictures, *labels in asked:
        contents.setdefault(tuple(labels), set()).add(pictures)
    assert len(contents) >= 4
    assert all(len(pictures) == 1 for pictures in contents.values())  # one purpose never names two sets of pictures
