"""The audit of whole runs and single releases: true claims stand, broken mechanisms are called by their name."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedveil import checks, cli, config, runs
from fedveil.commands.audit import audit, local
from fedveil.federation import planning
from fedveil.federation.federation import Federation
from fedveil.privacy import audit as bounds
from fedveil.privacy import events, noise
from fedveil.privacy.accounting import _pairs
from fedveil.privacy.accounting import base as accountants
from fedveil.privacy.ledger import Ledger, Row
from fedveil.protections.dctdp import DCTDP
from fedveil.records import Update
from fedveil_strategies import canaries, private

WORDS = ["protection=none", "train.clients=400", "train.rounds=6", "train.cohort.rate=0.25", "privacy.client.clip=0.5",
         "privacy.client.delta=1e-5", "privacy.test_seed=11"]  # fmt: skip
FIXED = ["train.cohort.kind=fixed", "train.cohort.size=50"]


@pytest.fixture
def fresh_plans() -> Iterator[None]:
    """A mutant must plan for itself, and leave nothing behind."""
    planning._calibrated.cache_clear()
    yield
    planning._calibrated.cache_clear()


def words_with(*words: str) -> list[str]:
    """A fixed cohort has no rate."""
    return [word for word in WORDS if not (FIXED[0] in words and word.startswith("train.cohort.rate="))] + [*words]


def found(*words: str, canary_clients: int = 400, draws: int = 20_000) -> dict[str, Any]:
    """Audit with noise and coins of a test seed: the same every time."""
    return audit.audit(audit.subject(words_with(*words)), canary_clients, draws)


def check_true(*words: str) -> dict[str, Any]:
    """No bound may exceed its claim, and the sharpest bound on the whole run comes near it."""
    report = found(*words)
    assert not report["violated"], audit.text(report)
    whole = [bound for bound in report["bounds"] if "canary" in bound["what"]]
    assert max(bound["audited"] for bound in whole) > 0.6 * whole[0]["proven"], audit.text(report)
    return report


@pytest.mark.parametrize(
    "words",
    [
        ["privacy.client.epsilon=1"],
        ["privacy.client.epsilon=8"],
        ["privacy.client.epsilon=4", *FIXED],
        ["privacy.client.epsilon=4", "train.cohort.rate=1.0"],
        ["privacy.client.epsilon=8", "privacy.client.quantile=0.5"],
        ["privacy.client.epsilon=4", "privacy.client.bands=2"],
        ["privacy.client.epsilon=4", "privacy.client.bands=4"],
        ["privacy.client.epsilon=4", "privacy.client.bands=3", *FIXED],
    ],
)
def test_true_claims_stand_and_are_tight(words: list[str]) -> None:
    check_true(*words)


def test_the_words_of_the_verdict() -> None:
    report = found("privacy.client.epsilon=4", canary_clients=50, draws=1000)
    text = audit.text(report)
    assert text.splitlines()[-1].startswith("nothing is claimed, so nothing is refuted")
    assert "claimed: nothing (NOT PRIVATE" in text
    secret = {**report, "bounds": [{**one, "claimed": 4.0, "void": ""} for one in report["bounds"]]}
    assert audit.text(secret).splitlines()[-1].startswith("no violation found")
    assert "which is not a proof" in audit.text(secret)
    assert "NOT PRIVATE: fixed noise" in text
    assert max(len(line) for line in text.splitlines()[1:]) <= 110
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def halved(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = noise.gaussian
    monkeypatch.setattr(private.noise, "gaussian", lambda stream, sigma: whole(stream, sigma / 2))


def divided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of k clients adds z C / k instead of the sum getting z C."""
    whole, members = noise.gaussian, 20

    def per_client(stream: Any, sigma: torch.Tensor) -> torch.Tensor:
        return torch.stack([whole(stream, sigma / members) for _ in range(members)]).sum(0)

    monkeypatch.setattr(private.noise, "gaussian", per_client)


def unclipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private.clipping, "factor", lambda norm, bound: 1.0)


def counted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = private.bounded_sums

    def twice(answers: Any, *rest: Any) -> Any:
        return whole([one for one in answers for _ in range(2 if isinstance(one, Update) else 1)], *rest)

    monkeypatch.setattr(private, "bounded_sums", twice)


@pytest.mark.parametrize("mutant", [halved, divided, unclipped, counted_twice])
@pytest.mark.parametrize("cohort", [[], FIXED, ["privacy.client.bands=3"]])
def test_a_broken_mechanism_is_called_violated(
    mutant: Callable[[pytest.MonkeyPatch], None], cohort: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["privacy.client.epsilon=4", *cohort]
    mutant(monkeypatch)
    report = found(*words)
    assert {bound["what"].split()[0] for bound in report["bounds"] if bound["violated"]} == {"6", "one"}
    assert audit.verdict(report).startswith("VIOLATED: ")


@pytest.mark.usefixtures("fresh_plans")
def test_replace_one_with_sigma_not_halved_is_called_violated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accountants, "_fixed", lambda atom, relation: _pairs.Shift(1 / atom.event.noise_multiplier))
    with pytest.raises(AssertionError, match="VIOLATED"):
        check_true("privacy.client.epsilon=4", *FIXED)


@pytest.mark.usefixtures("fresh_plans")
def test_a_fixed_cohort_claimed_as_poisson_is_called_violated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "relation_of", lambda cohort: "zero-out")
    monkeypatch.setattr(
        planning, "_sampled", lambda cohort, clients, z: events.PoissonSampled(50 / 400, events.Gaussian(z))
    )
    with pytest.raises(AssertionError, match="VIOLATED"):
        check_true("privacy.client.epsilon=4", *FIXED)


@pytest.mark.usefixtures("fresh_plans")
def test_a_fixed_cohort_claimed_as_amplified_is_called_violated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        planning, "_sampled",
        lambda cohort, clients, z: events.FixedSize(cohort.size, clients, events.Gaussian(z), stateless=True),
    )  # fmt: skip
    with pytest.raises(AssertionError, match="VIOLATED"):
        check_true("privacy.client.epsilon=4", *FIXED)


def test_canaries_are_extreme_legal_updates_on_coordinates_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without noise the adversary's notes are the secret coins themselves: 1 in the sum, 0 outside it."""
    monkeypatch.setattr(private.noise, "gaussian", lambda stream, sigma: torch.zeros_like(sigma))
    federation = Federation.of([*WORDS, "privacy.client.epsilon=4"])
    seen = canaries.replay(federation, 100, 3)
    assert np.allclose(seen.releases.present, 1.0, atol=1e-5)
    assert np.array_equal(np.unique(seen.releases.absent), [0.0])
    assert seen.releases.present.size + seen.releases.absent.size == 600
    assert 40 <= seen.run.present.size <= 60
    rate = seen.releases.present.size / (6 * seen.run.present.size)
    assert rate == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 300))
    sums = canaries.one_release(federation, 500)
    assert np.allclose(sums.present, 1.0, atol=1e-5)
    assert not sums.absent.any()
    opposite = canaries.one_release(Federation.of(words_with(*FIXED, "privacy.client.epsilon=4")), 500)
    assert np.allclose(opposite.present, 1.0, atol=1e-5)
    assert np.allclose(opposite.absent, -1.0, atol=1e-5)


def test_canaries_under_banded_noise_are_whitened_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without noise a canary shows 1 in the turns of its group that it joined, and 0 in the others."""
    monkeypatch.setattr(private.noise, "gaussian", lambda stream, sigma: torch.zeros_like(sigma))
    federation = Federation.of([*WORDS, "privacy.client.epsilon=4", "privacy.client.bands=3"])
    seen = canaries.replay(federation, 99, 3)
    assert np.allclose(seen.releases.present, 1.0, atol=1e-5)
    assert np.allclose(seen.releases.absent, 0.0, atol=1e-5)
    assert seen.releases.present.size + seen.releases.absent.size == 2 * 99
    assert seen.releases.present.size / (2 * seen.run.present.size) == pytest.approx(0.75, abs=0.15)


def finished_run(folder: Path, booked: int, finished: int) -> str:
    """A run folder as a coordinator leaves it, without training."""
    federation = Federation.of([*WORDS, "privacy.client.epsilon=4"])
    run = runs.Run(folder, "made-by-hand")
    runs.write_json(run.config, config.to_tree(federation.settings))
    row = Row(run.run_id, "run", "spent", federation.round_release, "round")
    Ledger(run.ledger).append([row] * booked)
    runs.write_atomic(run.checkpoint, runs.pack({}, {"round": finished, "history": []}))
    return run.run_id


def test_a_run_is_audited_against_its_ledger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = finished_run(tmp_path, booked=6, finished=6)
    words = ["audit", run_id, f"runs.root={tmp_path}", "--canaries", "100", "--draws", "2000"]
    assert cli.main([*words, "--json", str(tmp_path / "audit.json")]) == 0
    report = json.loads((tmp_path / "audit.json").read_text())
    assert report["subject"] == run_id
    assert report["bounds"][0]["proven"] == pytest.approx(4.0, rel=1e-2)
    assert {one["claimed"] for one in report["bounds"]} == {None}  # its noise is fixed
    assert {"claimed", "audited", "method", "trials", "seconds"} <= set(report["bounds"][0])
    assert "6 rounds with 100 canary clients" in capsys.readouterr().out


def test_an_edited_ledger_is_not_audited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = finished_run(tmp_path, booked=6, finished=6)
    with sqlite3.connect(runs.Run(tmp_path, run_id).ledger) as ledger:
        ledger.execute("DROP TRIGGER no_update")
        ledger.execute("UPDATE row SET note='another round' WHERE id=2")
    assert cli.main(["audit", run_id, f"runs.root={tmp_path}", "--canaries", "50", "--draws", "1000"]) == 2
    assert "it was edited" in capsys.readouterr().err


def test_a_dropped_event_is_called_violated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_id = finished_run(tmp_path, booked=5, finished=6)
    assert cli.main(["audit", run_id, f"runs.root={tmp_path}", "--canaries", "50", "--draws", "1000"]) == 1
    assert "VIOLATED: the ledger holds 5 of the 6 finished rounds." in capsys.readouterr().out


def test_nothing_claimed_is_refused_and_so_are_too_few_trials() -> None:
    with pytest.raises(checks.UserError, match="Nothing to audit"):
        audit.audit(audit.subject(["protection=none"]))
    with pytest.raises(checks.UserError, match="canaries=3"):
        audit.audit(audit.subject(["protection=none"]), canaries=3)


def fitted(**settings: Any) -> tuple[DCTDP, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    smooth = torch.nn.functional.interpolate(torch.rand(24, 3, 4, 4, generator=generator), (16, 16), mode="bilinear")
    protection = DCTDP(fit_steps=0, **settings)
    return protection, protection.fit((smooth * 255).to(torch.uint8).numpy(), np.arange(24), 1)


def copies(law: str, budget: float) -> tuple[float, float]:
    """Return (claimed, audited) of one noisy copy: mu for Gaussian noise, epsilon for Laplace noise."""
    protection, state = fitted(total_epsilon=budget, noise=law)
    scores = local.releases(protection, state, (16, 16), 2500, test_seed=5)
    claimed = protection.event((16, 16), state).diameter
    if law == "gaussian":
        return claimed, bounds.by_halves(scores, bounds.gaussian_mu)[0]
    return claimed, bounds.by_halves(scores, lambda counts: bounds.clopper_pearson(counts, 0.0))[0]


@pytest.mark.parametrize(("law", "budget", "share"), [("laplace", 4.0, 0.4), ("gaussian", 5.0, 0.85)])
def test_noisy_copies_keep_their_claim(law: str, budget: float, share: float) -> None:
    claimed, lower = copies(law, budget)
    assert share * claimed < lower <= claimed


@pytest.mark.parametrize(("law", "less"), [("laplace", 4), ("gaussian", 2)])
def test_too_little_noise_in_copies_is_seen(law: str, less: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half for Gaussian noise; for Laplace noise, whose bound assumes no curve, a quarter."""
    full = getattr(noise, law)
    monkeypatch.setattr(noise, law, lambda stream, scale: full(stream, scale / less))
    claimed, lower = copies(law, 4.0)
    assert lower > claimed
