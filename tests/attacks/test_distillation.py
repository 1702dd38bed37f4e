"""A student recognises people in what leaves where nothing is hidden, and nobody in noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from easy import known

from fedveil.attacks import distillation
from fedveil.attacks._target import Target
from fedveil.attacks.base import Finding, Measure
from fedveil.attacks.distillation import Distillation, Student

SMALL = Distillation(victims=40, images=160, steps=40, trial=5, batch_size=32)


def of(finding: Finding) -> dict[str, Measure]:
    return {measure.name: measure for measure in finding.measures}


def test_it_recognises_people_where_nothing_is_hidden(
    target_of: Callable[..., Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = SMALL.run(known(target_of(), monkeypatch))
    found = of(finding)
    assert [*found] == ["linked", "rank1", "rank5", "deployed_rank1"]
    for name in ("linked", "rank1", "rank5"):
        one = found[name]
        assert one.low is not None and one.floor is not None and one.mean_face is not None, name
        assert one.low > max(one.floor, one.mean_face), name
        assert one.ceiling is not None and one.ceiling > 0.9, name
    assert finding.level == "adaptive" and finding.panel is None
    assert finding.curves["held_out_loss"]["x"][-1] == 40


def test_it_recognises_nobody_in_noise(target_of: Callable[..., Target], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, one in of(SMALL.run(known(target_of(noise=True), monkeypatch))).items():
        assert one.low is not None and one.floor is not None, name
        assert one.low <= one.floor, name


def test_the_same_seed_finds_the_same(target_of: Callable[..., Target], monkeypatch: pytest.MonkeyPatch) -> None:
    attack = dataclasses.replace(SMALL, steps=3, trial=2)
    first, second = (attack.run(known(target_of(), monkeypatch)) for _ in range(2))
    assert first.measures == second.measures and first.curves == second.curves


def test_thresholds_come_from_different_people(monkeypatch: pytest.MonkeyPatch) -> None:
    """However alike or unlike equal people are, as many of the others are accepted."""
    rng = np.random.default_rng(1)
    gallery = rng.normal(size=(60, 16))
    strangers = rng.normal(size=(60, 16))
    assert distillation.accepted(gallery, gallery, 0.01).mean() == 1.0
    assert distillation.accepted(strangers, gallery, 0.01).mean() <= 0.1
    assert distillation.accepted(-gallery, gallery, 0.01).mean() == 0.0


def test_the_gallery_is_of_other_pictures(target_of: Callable[..., Target], monkeypatch: pytest.MonkeyPatch) -> None:
    """With strangers' faces as the victims' other pictures nobody is found, though the very pictures would match."""
    target = known(target_of(), monkeypatch)
    found = Target.people

    def people(self: Target, wanted: Distillation) -> object:
        whole = found(self, wanted)
        return dataclasses.replace(whole, other=np.roll(whole.other, 1, axis=0))

    monkeypatch.setattr(Target, "people", people)
    measures = of(dataclasses.replace(SMALL, steps=5, trial=0).run(target))
    assert measures["linked"].ceiling is not None and measures["linked"].ceiling < 0.2
    assert measures["rank1"].value is not None and measures["rank1"].value < 0.2


def test_a_student_begins_at_the_best_linear_map() -> None:
    """No other map of the same embeddings has a smaller squared error."""
    inputs, generator = torch.randn(300, 8), torch.Generator().manual_seed(1)
    backbone = torch.nn.Identity()
    answers = torch.nn.functional.normalize(inputs) @ torch.randn(8, 5, generator=generator) + 0.3
    student = Student(backbone, inputs, answers)
    assert torch.nn.functional.mse_loss(student(inputs), answers) < 1e-3
