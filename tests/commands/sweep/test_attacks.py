"""Attacks in a sweep: chosen by words and studies, run on every run, never twice, and not counted without a finding."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from fedveil import checks, runs
from fedveil.attacks import _kept
from fedveil.attacks._chosen import Chosen
from fedveil.attacks.base import Finding, Measure, Progress, silent
from fedveil.commands.sweep import attacks, leakage, live, report, sweep
from fedveil.commands.sweep.sweep import Outcome
from fedveil.configuration import files
from fedveil.configuration.schema import Config

TINY = (
    "data.identities=6", "data.images_per_identity=3", "data.evaluation_identities=10", "data.evaluation_images=3",
    "data.public_identities=6", "data.public_images=2", "data.pairs=40", "train.clients=2", "train.local.steps=1",
    "train.batch_size=4", "evaluation.draws=1", "evaluation.bootstrap=0", "train.rounds=1", "model.width=8",
    "protection=none", "tracking=none",
)  # fmt: skip


def finding(name: str, **values: float | None) -> Finding:
    measures = tuple(Measure(key, value, "a number", floor=0.01, ceiling=0.9) for key, value in values.items())
    return Finding(name, "static", {}, "none", "It guesses.", "It guessed.", measures)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A study that names attacks."""
    for path in files.folder().rglob("*.yaml"):
        place = tmp_path / "configs" / path.relative_to(files.folder())
        place.parent.mkdir(exist_ok=True, parents=True)
        place.write_bytes(path.read_bytes())
    monkeypatch.setattr(files, "folder", lambda: tmp_path / "configs")
    (tmp_path / "configs" / "study" / "own.yaml").write_text(
        "grid: {seed: [1, 2]}\nattacks: {replay: {victims: 40}, linear: {victims: 50, images: 300}}\n"
    )
    return "own"


def settings(chosen: Sequence[Chosen]) -> list[tuple[str, int, int]]:
    return [(one.name, one.attack.victims, one.attack.images) for one in chosen]


def test_words_replace_what_a_study_says_of_attacks(study: str) -> None:
    assert settings(attacks.of([], study)) == [("replay", 40, 2500), ("linear", 50, 300)]
    assert settings(attacks.of(["attack=linear"], study)) == [("linear", 50, 300)]
    assert settings(attacks.of(["attack.victims=99"], study)) == [("replay", 99, 2500), ("linear", 99, 300)]
    assert attacks.of(["attack=none"], study) == ()
    assert attacks.of([], None) == ()
    assert settings(attacks.of(["attack=replay,replay"], None)) == [("replay", 200, 2500)]


def test_what_crosses_to_a_worker_is_the_same_attack(study: str) -> None:
    chosen = attacks.of(["attack.far=0.05"], study)
    assert attacks.of_job(attacks.job(chosen)) == [*chosen]


@pytest.mark.parametrize("words", [["attack=repaly"], ["attack=replay", "attack.victms=3"], ["attack.victims=3"]])
def test_a_wrong_attack_is_refused_before_anything_runs(words: list[str]) -> None:
    with pytest.raises(checks.UserError):
        sweep.prepare(["seed=1,2", *words])


def test_attacks_change_no_id(tmp_path: Path) -> None:
    words = [f"runs.root={tmp_path}", "seed=1,2", "protection=none"]
    plain, attacked = sweep.prepare(words), sweep.prepare([*words, "attack=replay"])
    assert plain.sweep_id == attacked.sweep_id
    assert [*map(plain.run_id, plain.grid.cells)] == [*map(attacked.run_id, attacked.grid.cells)]


def test_a_missing_and_a_damaged_finding_are_no_finding(tmp_path: Path) -> None:
    run = runs.Run(tmp_path, "run")
    chosen = attacks.of(["attack=replay,linear"], None)
    assert attacks.found(run, chosen) == ({}, ["replay", "linear"])
    for one in chosen:
        _kept.write(run, one.name, one.attack, finding(one.name, linked=0.5))
    there, missing = attacks.found(run, chosen)
    assert ([one["attack"] for one in there.values()], missing) == (["replay", "linear"], [])
    _kept.path_of(run, "linear", chosen[1].attack).write_text("{}")
    assert attacks.found(run, chosen)[1] == ["linear"]
    assert attacks.found(run, attacks.of(["attack=replay", "attack.victims=41"], None))[1] == ["replay"]


def test_the_strongest_attack_counts_measure_by_measure() -> None:
    found = [
        finding("linear", linked=0.2, rank1=0.9, ssim=None),
        finding("replay", linked=0.7, rank1=0.1, replayed=0.0, ssim=None),
    ]
    plain = [one.to_dict() for one in found]
    assert leakage.of(plain) == {"linked": 0.7, "rank1": 0.9, "replayed": 0.0, "ssim": None}
    assert leakage.of(reversed(plain)) == leakage.of(plain)
    assert set(leakage.of([]).values()) == {None}


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Attacks that cost nothing: each call is a line here, and `linear` fails on seed 2 while `broken` exists."""

    def attack(
        own: Config, run_id: str, chosen: Sequence[Chosen], progress: Progress = silent, again: bool = False
    ) -> Iterator[dict[str, Any]]:
        run = runs.Run(Path(own.runs.root), run_id)
        for one in chosen:
            if (path := _kept.path_of(run, one.name, one.attack)).is_file():
                yield _kept.read(path)
                continue
            with (tmp_path / "calls").open("a") as stream:
                stream.write(f"{own.seed} {one.name}\n")
            progress("training", 1, 2)
            if one.name == "linear" and own.seed == 2 and (tmp_path / "broken").exists():
                raise checks.UserError("no such judge")
            yield _kept.write(run, one.name, one.attack, finding(one.name, linked=0.1 * own.seed, ssim=0.5))

    monkeypatch.setattr(attacks, "attack", attack)
    return tmp_path / "calls"


def test_a_cell_is_finished_with_its_attacks_and_what_failed_alone_is_tried_again(calls: Path, tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    words = [*TINY, "seed=1,2", f"runs.root={tmp_path / 'runs'}", f"vault.root={tmp_path / 'vault'}"]
    made = sweep.prepare([*words, "attack=linear,replay"])
    first, second = sweep.run(made, 2, lambda outcomes: None)
    assert sorted(calls.read_text().splitlines()) == ["1 linear", "1 replay", "2 linear", "2 replay"]
    assert (first.state, len(first.findings), first.reason) == ("finished", 2, "")
    assert (second.state, len(second.findings), second.reason) == ("failed", 1, "attack linear: no such judge")
    assert second.result is not None  # the run is there, and stays
    tree = json.loads((made.folder / "sweep.json").read_text())
    assert [one["name"] for one in tree["attacks"]] == ["linear", "replay"]
    assert [(one["state"], len(one["findings"])) for one in tree["cells"]] == [("finished", 2), ("failed", 1)]
    result = made.run_of(second.cell).result.stat().st_mtime_ns

    (tmp_path / "broken").unlink()
    calls.unlink()
    outcomes = sweep.run(made, 2, lambda outcomes: None)
    assert calls.read_text().split("\n")[:-1] == ["2 linear"]
    assert [(one.state, one.earlier, len(one.findings)) for one in outcomes] == [
        ("finished", True, 2), ("finished", False, 2),
    ]  # fmt: skip
    assert made.run_of(second.cell).result.stat().st_mtime_ns == result
    report.write(made, outcomes)
    rows = list(csv.DictReader((made.folder / "runs.csv").read_text().splitlines()))
    assert [(row["linked"], row["ssim"], row["rank1"]) for row in rows] == [("0.1", "0.5", ""), ("0.2", "0.5", "")]
    (row,) = csv.DictReader((made.folder / "frontier.csv").read_text().splitlines())
    assert float(row["linked"]) == pytest.approx(0.15)
    table = leakage.table(outcomes)
    assert max(map(len, table.splitlines())) <= 80
    assert "15.0 %" in table
    assert "90.0 %" in table.splitlines()[-3]  # clean pictures

    none = sweep.run(sweep.prepare(words), 2, lambda outcomes: None)
    assert [(one.earlier, one.findings) for one in none] == [(True, {}), (True, {})]


def test_a_worker_that_leaves_no_finding_has_failed_whatever_it_says(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attacks, "run_all", lambda *given: [])
    words = [*TINY, "seed=1,2", f"runs.root={tmp_path / 'runs'}", f"vault.root={tmp_path / 'vault'}", "attack=replay"]
    outcomes = sweep.run(sweep.prepare(words), 2, lambda outcomes: None)
    assert [one.state for one in outcomes] == ["failed", "failed"]
    assert "left no finding" in outcomes[0].reason


def test_what_is_shown_names_the_attack(capsys: pytest.CaptureFixture[str]) -> None:
    cell = sweep.prepare(["seed=1,2"]).grid.cells[0]
    view = live.Live(plain=True)
    view.show([Outcome(cell, "r", "running", 3)])
    for share in (10, 20):
        view.show([Outcome(cell, "r", "running", 3, attack=("linear", share))])
    done = Outcome(cell, "r", "finished", 3, {"final": {"accuracy": 0.7}},
                   findings={"a": finding("linear", linked=0.25).to_dict()})  # fmt: skip
    view.show([done])
    begun, ended = capsys.readouterr().out.splitlines()
    assert begun.strip() == "seed=1: attack linear"
    assert ended.strip().startswith("[1/1] seed=1: accuracy 70.0 %")
    assert ended.endswith("linked 25.0 %")
