"""The audit of private steps: true claims stand, broken steps are seen, and so is a head without noise."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedveil import cli, runs
from fedveil.commands.audit import audit
from fedveil.federation import private_steps
from fedveil.federation.federation import Federation
from fedveil.privacy import audit as bounds
from fedveil.privacy import noise, sampling
from fedveil.privacy.accounting.pld import PldAccountant
from fedveil.privacy.events import Gaussian, PoissonSampled
from fedveil.privacy.ledger import Row
from fedveil_clients import canaries, private_training, repeats

UNITS = ("image", "identity")
WORDS = ("protection=none", "tracking=none", "train.rounds=4", "train.local.steps=2", "seed=2", "privacy.test_seed=7")


def words_of(unit: str = "image", **fields: Any) -> list[str]:
    fields = {"noise_multiplier": 1.0, "sampling_rate": 0.5, "rows": 16, **fields}
    return [*WORDS, *(f"privacy.{unit}.{name}={value}" for name, value in fields.items())]


def federation_of(unit: str = "image", **fields: Any) -> Federation:
    return Federation.of(words_of(unit, **fields))


def mu_of(scores: bounds.Scores) -> float:
    """What a Gaussian trade-off curve has at least, at a level of one in a thousand."""
    found: float = bounds.by_halves(scores, lambda counts: bounds.gaussian_mu(counts, 1e-3))[0]
    return found


@pytest.mark.parametrize("unit", UNITS)
def test_a_canary_is_the_extreme_legal_unit_on_a_coordinate_of_its_own(
    unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without noise the adversary's notes are the secret coins themselves: 1 in the sum, 0 outside it."""
    monkeypatch.setattr(noise, "gaussian", lambda stream, sigma: torch.zeros_like(sigma))
    seen = canaries.one_step(federation_of(unit, clip=0.3, expected_batch=7), 60, 1)
    assert np.allclose(seen.batch.present, 1.0, atol=1e-4)
    assert np.abs(seen.batch.absent).max() < 1e-4
    assert 15 < seen.data.present.size < 45
    assert 0.2 < seen.batch.present.size / seen.data.present.size < 0.8
    everybody = canaries.unsampled(federation_of(unit), 40)
    assert np.allclose(everybody.present, 1.0, atol=1e-4)
    assert np.abs(everybody.absent).max() < 1e-4


@pytest.mark.parametrize("unit", UNITS)
def test_a_true_claim_stands_and_a_step_is_seen_sharply(unit: str) -> None:
    scores = canaries.unsampled(federation_of(unit), 1000)
    assert 0.3 < mu_of(scores) <= 1.0


def halved(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = noise.gaussian
    monkeypatch.setattr(noise, "gaussian", lambda stream, sigma: whole(stream, sigma / 2))


def of_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise of z C / batch on the sum, which is divided afterwards."""
    whole = noise.gaussian
    monkeypatch.setattr(noise, "gaussian", lambda stream, sigma: whole(stream, sigma / 16))


def per_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every picture, and every view of it, clipped and counted for itself."""
    honest = private_training.drawn

    def each(*those: Any) -> private_training.Drawn:
        found = honest(*those)
        count = len(found.images)
        return private_training.Drawn(found.images, np.arange(count), np.ones(count, np.float32), count)

    monkeypatch.setattr(private_training, "drawn", each)


@pytest.mark.parametrize(
    ("mutant", "unit", "fields"),
    [(halved, "image", {}), (of_the_mean, "identity", {}), (per_picture, "identity", {}),
     (per_picture, "image", {"views": 3})],
)  # fmt: skip
def test_a_broken_step_is_seen_in_one_step(
    mutant: Callable[[pytest.MonkeyPatch], None], unit: str, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = words_of(unit, **fields)
    mutant(monkeypatch)
    scores = canaries.unsampled(Federation.of([*words, *(["train.augment.flip=true"] if fields else [])]), 1000)
    assert mu_of(scores) > 1.0


def everybody_as_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "poisson", lambda rate, count, words: np.arange(count))


def test_a_batch_of_everybody_claimed_as_poisson_is_called_violated(monkeypatch: pytest.MonkeyPatch) -> None:
    everybody_as_sampled(monkeypatch)
    federation = federation_of(noise_multiplier=1.0, sampling_rate=0.001)
    seen = canaries.one_step(federation, 1000, 1)
    proven = private_epsilon(federation)
    assert bounds.one_run_of(seen.data, 1e-5, 1e-3) > proven


def private_epsilon(federation: Federation) -> float:
    budget = federation.private
    assert budget is not None
    one = PoissonSampled(budget.sampling_rate, Gaussian(budget.noise_multiplier or 0.0))
    return PldAccountant("zero-out", "image").compose(one).upper(1e-5)


def un_noised_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """The class centres are clipped with everything else, and get no noise."""
    whole = noise.gaussian

    def without(stream: Any, sigma: torch.Tensor) -> torch.Tensor:
        drawn = whole(stream, sigma)
        return drawn * 0 if sigma.shape[0] == 16 and sigma.shape[1] < 32 else drawn

    monkeypatch.setattr(noise, "gaussian", without)


def audited(folder: Path) -> tuple[int, dict[str, Any]]:
    """The whole command, with few canaries, but as many short runs as it takes."""
    status = cli.main([
        "audit", *words_of(), "--canaries", "20", "--draws", "200", "--repeats", "64", "--json",
        str(folder / "audit.json"),
    ])  # fmt: skip
    return status, json.loads((folder / "audit.json").read_text())


def test_private_steps_are_not_refuted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, report = audited(tmp_path)
    assert status == 0
    assert {bound["unit"] for bound in report["bounds"]} == {"image"}
    assert len(report["bounds"]) == 8
    text = capsys.readouterr().out
    assert "3 rounds of 2 steps of all, noise 2" in text
    assert "NOT PRIVATE" in text  # a test seed


def test_a_head_without_noise_is_called_violated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only what several rounds show: the head stays in the vault, and turns everybody's gradients."""
    un_noised_head(monkeypatch)
    status, report = audited(tmp_path)
    assert status == 1
    assert {bound["what"].split()[0] for bound in report["bounds"] if bound["violated"]} == {"3"}
    assert "VIOLATED: 3 rounds of 2 steps" in capsys.readouterr().out


def test_what_a_ledger_lacks_is_asked_of_each_unit() -> None:
    federation = Federation.of([*words_of(), "train.clients=4", "privacy.client.epsilon=8", "train.cohort.rate=0.5"])
    rows = [Row("run", "run", "spent", federation.round_release, f"round {n}") for n in (1, 2)]
    rows += [Row("run", "run", "spent", federation.private_round(1), "round 1")]
    subject = audit.Subject("run", federation, runs.Run(Path("runs"), "run"), tuple(rows), finished=2)
    assert subject.lacks("client") == []
    assert subject.lacks("image") == ["the ledger holds 1 of the 2 finished rounds"]


def test_the_divisor_is_the_runs_own() -> None:
    staged = canaries.staged(federation_of(expected_batch=9), 2, 1)
    assert private_steps.expected_batch(staged.settings) == 9
    assert repeats.SHAPE.rounds > 1
