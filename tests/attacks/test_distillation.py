"""A student recognises people in what leaves where nothing is hidden, and nobody in noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from easy import ends, guessed, known, pictures_trained_on

from fedveil.attacks import _learning, distillation
from fedveil.attacks._target import Target
from fedveil.attacks.base import silent
from fedveil.attacks.distillation import Distillation, Student
from fedveil.device import HOST
from fedveil.evaluation.identification import unit

SMALL = Distillation(victims=40, images=160, steps=30, trial=3, batch_size=32)


NAMES = ("linked", "rank1", "rank5")


def test_it_recognises_people_where_nothing_is_hidden(
    target_of: Callable[..., Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = SMALL.run(known(target_of(), monkeypatch))
    assert tuple(measure.name for measure in finding.measures) == (*NAMES, "deployed_rank1")
    for name in NAMES:
        assert ends(finding, name)[0] > guessed(finding, name), name
    assert min(measure.ceiling or 0.0 for measure in finding.measures[:3]) > 0.9
    assert finding.level == "adaptive"
    assert finding.panel is None
    assert finding.curves["held_out_loss"]["x"][-1] == SMALL.steps


def test_it_recognises_nobody_in_noise(target_of: Callable[..., Target], monkeypatch: pytest.MonkeyPatch) -> None:
    finding = SMALL.run(known(target_of(noise=True), monkeypatch))
    for name in (*NAMES, "deployed_rank1"):
        assert ends(finding, name)[0] <= guessed(finding, name), name


def test_no_victim_is_trained_on(target_of: Callable[..., Target], monkeypatch: pytest.MonkeyPatch) -> None:
    trained, victims = pictures_trained_on(SMALL, known(target_of(), monkeypatch), monkeypatch)
    assert trained
    assert not victims & trained


def test_the_same_seed_finds_the_same(target_of: Callable[..., Target], monkeypatch: pytest.MonkeyPatch) -> None:
    attack = dataclasses.replace(SMALL, steps=3, trial=2)
    first, second = (attack.run(known(target_of(), monkeypatch)) for _ in range(2))
    assert first.measures == second.measures
    assert first.curves == second.curves


def test_thresholds_come_from_different_people() -> None:
    """However alike or unlike equal people are, as many of the others are accepted."""
    gallery, strangers = unit(np.random.default_rng(1).normal(size=(120, 16))).reshape(2, 60, 16)
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
    finding = dataclasses.replace(SMALL, steps=5, trial=0).run(target)
    assert (finding.measures[0].ceiling or 0.0) < 0.2
    assert (finding.value("rank1") or 0.0) < 0.2


def test_a_student_begins_at_the_best_linear_map() -> None:
    """No other map of the same embeddings has a smaller squared error."""
    inputs, generator = torch.randn(300, 8), torch.Generator().manual_seed(1)
    backbone = torch.nn.Identity()
    answers = torch.nn.functional.normalize(inputs) @ torch.randn(8, 5, generator=generator) + 0.3
    student = Student(backbone, inputs, answers)  # the backbone gives back what it is fed
    assert torch.nn.functional.mse_loss(student(inputs), answers) < 1e-3


def test_the_kept_state_is_the_best_on_held_out_people() -> None:
    """With a learning rate that ruins the network, it is the one from before the first step."""
    network = torch.nn.Linear(3, 3)
    before = network.weight.detach().clone()
    inputs = torch.nn.functional.normalize(torch.randn(64, 3, generator=torch.Generator().manual_seed(1)))
    with torch.no_grad():
        held = (inputs, network(inputs))
    batches = ((inputs, -held[1]) for _ in range(20))  # what is asked for in training is the opposite
    learnt = _learning.learn(network, distillation._loss, batches, held, 20, 0.1, HOST, silent, "a network")
    assert learnt.loss == min(learnt.losses) == learnt.losses[0] < 1e-6
    assert max(learnt.losses) > 0.5
    assert torch.equal(network.weight, before)
