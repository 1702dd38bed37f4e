"""Every door says the same of a run: result.json, ledger, summary, tracker, sweeps, audits, galleries."""

from __future__ import annotations

import itertools
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedveil import checks, cli, config, runs, tracking
from fedveil.commands.audit import audit
from fedveil.commands.sweep import report as sweep_report
from fedveil.data import provenance, synthetic_set
from fedveil.data.sources.procedural import draw_faces
from fedveil.federation import synthetic
from fedveil.federation.federation import Federation
from fedveil.privacy import statements
from fedveil.privacy.ledger import Ledger
from fedveil.protections import dctdp
from fedveil_strategies import observers

SMALL = [
    "evaluation.reference=false", "data.identities=8", "data.images_per_identity=3", "data.evaluation_identities=4",
    "data.evaluation_images=2", "data.pairs=8", "data.public_identities=4", "data.public_images=2", "model.width=8",
    "model.embedding=8", "train.clients=4", "train.rounds=2", "train.local.steps=1", "train.batch_size=4",
    "evaluation.draws=1", "evaluation.bootstrap=0", "engine=inline", "partition.max_images_per_identity=3",
]  # fmt: skip
DCTDP = ["protection=dctdp", "protection.fit_steps=0"]
PROTECTIONS = {
    "none": ["protection=none"],
    "kept": [*DCTDP, "protection.total_epsilon=8"],
    "gaussian": [*DCTDP, "protection.noise=gaussian", "protection.total_epsilon=8"],
    "fresh": [*DCTDP, "protection.total_epsilon=1", "protection.memoise=false"],
    "phase": ["protection=duetface", "protection.client_rounds=1", "protection.fit_steps=1"],
}
LEVELS = {
    "no client level": [],
    "noise": ["privacy.client.epsilon=4", "train.cohort.rate=0.5"],
    "clip alone": ["privacy.client.epsilon=inf", "train.cohort.rate=0.5"],
}
SEEDS = {"real noise": [], "test seed": ["privacy.test_seed=3"]}
STARTS = {"cold": [], "undeclared start": ["train.warm_start=START"], "declared": ["train.warm_start=START",
          "train.warm_start_is_public=true"]}  # fmt: skip


class Told(tracking.Tracker):
    """Remembers what the tracker was told."""

    def __init__(self) -> None:
        self.tags: dict[str, str] = {}
        self.metrics: dict[str, float] = {}

    def start(self, info: tracking.RunInfo) -> None:
        self.tags |= info.tags

    def log_round(self, round: int, metrics: Any) -> None:  # noqa: A002 - the tracker's word
        self.metrics |= metrics

    def log_tags(self, tags: Any) -> None:
        self.tags |= tags


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(observers, "draw", lambda *_: [])
    tracker = Told()
    monkeypatch.setattr(tracking, "open_tracker", lambda *_: tracker)
    return tracker


def simulate(*words: str) -> dict[str, Any]:
    assert cli.main(["simulate", *SMALL, *words, "--json", "o.json", "--plain"]) == 0
    found: dict[str, Any] = json.loads(Path("o.json").read_text())
    return found


def start() -> str:
    return str(simulate("protection=none", "tracking=none")["run_id"])


def doors(result: dict[str, Any], told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    """Hold every door against result.json."""
    run_id, claimed = result["run_id"], result["statements"]
    assert json.loads(Path("runs", run_id, "result.json").read_text())["statements"] == claimed
    assert cli.main(["ledger", run_id, "--json", "l.json"]) == 0
    ledger = json.loads(Path("l.json").read_text())
    assert (ledger["statements"], ledger["private"]) == (claimed, result["private"])
    said = [" ".join(statements.claim(statement_of(one)).split()) for one in claimed]
    capsys.readouterr()
    assert cli.main(["ledger", run_id]) == 0
    assert cli.main(["summary", run_id]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert all(shown.count(text) == 2 for text in said)
    for unit in {one["unit"] for one in claimed}:
        mine = [one["epsilon"] for one in claimed if one["unit"] == unit]
        largest = None if None in mine else max(mine)
        one = next(one for one in claimed if (one["unit"], one["epsilon"]) == (unit, largest))
        assert told.tags[f"epsilon_{unit}"] == statements.claim(statement_of(one))
        assert told.tags[f"epsilon_{unit}.delta"] == ("none" if one["delta"] is None else f"{one['delta']:g}")
        assert told.tags[f"epsilon_{unit}.relation"] == one["relation"]
        assert told.tags[f"epsilon_{unit}.view"] == one["view"]
        numbers = [told.metrics[f"epsilon_{unit}"]] if f"epsilon_{unit}" in told.metrics else []
        assert numbers == ([] if None in mine else [max(mine)])
        worst = sweep_report.statement_of(result, unit)
        assert worst is not None
        assert worst["epsilon"] == (None if None in mine else max(mine))
    assert told.tags["fedveil.privacy"] == ("private" if result["private"] else "NOT PRIVATE")
    named = {f"epsilon_{unit}" for unit in statements.UNITS}
    assert {name for name in told.metrics if name.startswith("epsilon")} <= named
    note = told.tags["mlflow.note.content"]
    assert [text for text in (statements.claim(statement_of(one)) for one in claimed) if text not in note] == []
    audited(run_id, claimed)


def statement_of(data: dict[str, Any]) -> statements.Statement:
    fields = {**data, "assumptions": tuple(data["assumptions"]), "not_covered": tuple(data["not_covered"])}
    return statements.Statement(**fields)


def audited(run_id: str, claimed: list[dict[str, Any]]) -> None:
    """The claim that an audit attacks is the run's, and what the run claims nothing about an audit does not either."""
    settings = config.from_json(Path("runs", run_id, "config.json").read_text())
    noisy = settings.privacy.client is not None and settings.privacy.client.noise_multiplier is not None
    if not noisy and settings.protection.name != "dctdp":
        with pytest.raises(checks.UserError, match="Nothing to audit"):
            audit.audit(audit.subject([run_id]), 20, 200)
        return
    found = audit.audit(audit.subject([run_id]), 20, 200)
    units = {bound["unit"] for bound in found["bounds"]}
    assert units == {*(["client"] if noisy else []), *(["image"] if settings.protection.name == "dctdp" else [])}
    for bound in found["bounds"]:
        own = [one["epsilon"] for one in claimed if one["unit"] == bound["unit"]]
        assert bound["claimed"] == (None if None in own else max(own))
        assert bool(bound["void"]) == (None in own)
    text = audit.text(found)
    assert ("claimed: nothing" in text) == any(bound["claimed"] is None for bound in found["bounds"])
    if settings.privacy.test_seed is not None:
        assert "is claimed" not in audit.verdict(found) or "nothing is claimed" in audit.verdict(found)


def half() -> list[tuple[str, ...]]:
    """Return every other cell of the cross product, as on a chessboard: every three values of four meet."""
    axes = [list(axis) for axis in (PROTECTIONS, LEVELS, SEEDS, STARTS)]
    cells = [cell for cell in itertools.product(*axes) if cell[0] != "phase" or cell[3] == "cold"]  # a start of its own
    return [cell for cell in cells if sum(axis.index(at) for axis, at in zip(axes, cell, strict=True)) % 2 == 0]


@pytest.mark.parametrize(("protection", "level", "seed", "begin"), half())
def test_every_door_says_the_same(
    protection: str, level: str, seed: str, begin: str, told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*PROTECTIONS[protection], *LEVELS[level], *SEEDS[seed]]
    warm = start() if STARTS[begin] else ""
    words += [word.replace("START", warm) for word in STARTS[begin]]
    result = simulate(*words)
    doors(result, told, capsys)
    found = {one["unit"]: one["epsilon"] for one in result["statements"]}
    formal = protection in ("kept", "gaussian", "fresh")
    if seed == "test seed" or (begin == "undeclared start" and not formal):
        assert set(found.values()) == {None}
    elif begin == "undeclared start":
        assert all(one["epsilon"] is None for one in result["statements"] if "model" in one["view"])
        assert not result["private"]
    else:
        assert (found.get("client") is not None) == (level == "noise")
        assert (found["image"] is not None) == formal
    source = "operating system" if any(value is not None for value in found.values()) else "none"
    assert result["noise_source"] == ("test seed" if seed == "test seed" else source)


@pytest.mark.parametrize("protection", ["kept", "fresh", "none"])
@pytest.mark.parametrize("level", ["no client level", "noise"])
def test_a_run_that_was_cut_off_claims_what_it_released_and_pays_for_what_it_repeats(
    protection: str, level: str, told: Told, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*PROTECTIONS[protection], *LEVELS[level]]
    checkpoint = observers.Watch.checkpoint

    def cut(self: observers.Watch, report: Any) -> None:
        if report.round == 2:
            raise KeyboardInterrupt
        checkpoint(self, report)

    with monkeypatch.context() as patch:
        patch.setattr(observers.Watch, "checkpoint", cut)
        assert cli.main(["simulate", *SMALL, *words, "--plain"]) == 130
    (run_id,) = [path.name for path in Path("runs").iterdir() if path.is_dir()]
    assert cli.main(["ledger", run_id, "--json", "l.json"]) == 0
    partial = json.loads(Path("l.json").read_text())["statements"]
    assert cli.main(["simulate", "--resume", run_id, "--json", "o.json", "--plain"]) == 0
    result = json.loads(Path("o.json").read_text())
    doors(result, told, capsys)
    before, after = ({one["unit"]: one["epsilon"] for one in found} for found in (partial, result["statements"]))
    federation = Federation(config.from_json(Path("runs", run_id, "config.json").read_text()))
    if level == "noise":  # two rounds were released before the cut, and no more than that were reserved
        assert before["client"] == after["client"] <= 4
        assert len(result["rounds"]) == 1
    if protection == "fresh":  # every attempt drew afresh
        assert before["image"] == federation.releases_per_image
        assert after["image"] == 2 * before["image"]
    if protection == "kept":
        assert (before["image"], after["image"]) == (8.0, 8.0)


@pytest.mark.parametrize("changed", ["radius", "shape"])
def test_a_run_that_goes_on_draws_under_the_state_that_it_began_with(
    changed: str, told: Told, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Public faces that changed meanwhile, or other bits of a library, would be another mechanism and a second draw."""

    def cut(self: observers.Watch, report: Any) -> None:
        raise KeyboardInterrupt

    fit = dctdp.DCTDP.fit

    def other(self: dctdp.DCTDP, *given: Any, **named: Any) -> Any:
        found = fit(self, *given, **named)
        name = "radius" if changed == "radius" else "variance"
        return {**found, name: found[name] * 1.5}

    with monkeypatch.context() as patch:
        patch.setattr(observers.Watch, "checkpoint", cut)
        assert cli.main(["simulate", *SMALL, *PROTECTIONS["kept"], "--plain"]) == 130
    (run_id,) = [path.name for path in Path("runs").iterdir() if path.is_dir()]
    monkeypatch.setattr(dctdp.DCTDP, "fit", other)
    assert cli.main(["simulate", "--resume", run_id, "--json", "o.json", "--plain"]) == 0
    result = json.loads(Path("o.json").read_text())
    doors(result, told, capsys)
    assert {one["unit"]: one["epsilon"] for one in result["statements"]} == {"image": 8.0, "identity": 24.0}
    with sqlite3.connect(".fedveil/vault/copies/index.sqlite") as index:
        (drawn,) = index.execute("SELECT COUNT(*) FROM copy").fetchone()
    assert drawn == 24  # 8 people of 3 images, once each
    (mine,) = {row.mechanism for row in Ledger(Path("runs", run_id, "ledger.sqlite")).rows(run_id)}
    assert len(mine) == 64


def test_a_run_whose_state_is_lost_pays_for_both_mechanisms(
    told: Told, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As interrupted runs of earlier versions were: without a checkpoint before the first round."""
    fit = dctdp.DCTDP.fit

    def cut(self: observers.Watch, report: Any) -> None:
        raise KeyboardInterrupt

    def other(self: dctdp.DCTDP, *given: Any, **named: Any) -> Any:
        found = fit(self, *given, **named)
        return {**found, "variance": found["variance"] * (1 + 1e-6)}

    with monkeypatch.context() as patch:
        patch.setattr(observers.Watch, "checkpoint", cut)
        assert cli.main(["simulate", *SMALL, *PROTECTIONS["kept"], "--plain"]) == 130
    (run_id,) = [path.name for path in Path("runs").iterdir() if path.is_dir()]
    Path("runs", run_id, "checkpoint.npz").unlink()
    monkeypatch.setattr(dctdp.DCTDP, "fit", other)
    resume = ["simulate", "--resume", run_id, "--json", "o.json", "--plain"]
    assert cli.main(resume) == 2  # the owners accepted the run with another state
    assert "another configuration, state or other tensors" in capsys.readouterr().err
    vault = Path(".fedveil/vault")  # of an earlier version, too
    shutil.rmtree(vault / "accepted")
    for last in vault.glob("heads/*/*/last"):
        last.unlink()
    assert cli.main(resume) == 0
    result = json.loads(Path("o.json").read_text())
    doors(result, told, capsys)
    assert next(one["epsilon"] for one in result["statements"] if one["unit"] == "image") == 16.0


NOISY = statements.Statement(
    "client", "zero-out", "every released global model", "noise", 3.0, 1e-8, "formal", True, ("trusted",)
)
SYNTHETIC = {
    "data": ["data=synthetic", "data.path=set.npz", "data.pairs=8", "protection=none"],
    "start": ["train.warm_start=synthetic", "train.warm_steps=1", "train.synthetic=set.npz", *PROTECTIONS["kept"],
              *LEVELS["noise"], "privacy.client.delta=1e-6"],  # the sum of deltas has to be small, too
    "bank": ["train.identity_bank=synthetic", "train.bank_identities=2", "train.synthetic=set.npz",
             *PROTECTIONS["kept"]],
}  # fmt: skip


@pytest.mark.parametrize(
    ("use", "mode", "client"),
    [("data", "public", "absent"), ("data", "federated", 3.0), ("data", "shared", "absent"), ("start", "public", 4.0),
     ("start", "federated", 7.0), ("start", "shared", None), ("bank", "federated", "absent"),
     ("bank", "shared", "absent")],
)  # fmt: skip
def test_every_door_says_what_synthetic_faces_were_made_from_when_they_are_gone(
    use: str, mode: provenance.Mode, client: float | str | None, told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    faces = draw_faces(3, 50, 6, 3, 32)
    made = provenance.Provenance(mode, "a" * 64, "ten clinics", (NOISY.to_dict(),) if mode == "federated" else ())
    synthetic_set.write(Path("set.npz"), faces.images(), faces.labels, made)
    synthetic._faces.cache_clear()
    words = [word for word in SMALL if use != "data" or not word.startswith("data.")]
    assert cli.main(["simulate", *words, *SYNTHETIC[use], "--json", "o.json", "--plain"]) == 0
    result = json.loads(Path("o.json").read_text())
    Path("set.npz").unlink()
    doors(result, told, capsys)
    found = {one["unit"]: one["epsilon"] for one in result["statements"]}
    assert found.get("client", "absent") == (pytest.approx(client, rel=0.02) if isinstance(client, float) else client)
    if mode == "shared":
        assert set(found.values()) == {None}
    elif use != "data":  # an image is a part of a client who is replaced: twice 3
        assert found["image"] == (8.0 if mode == "public" else 14.0)
    assert result["private"] == (mode == "federated" or (use, mode) == ("start", "public"))


def test_a_run_goes_on_without_the_set_that_it_started_from(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its row stands in the ledger since the run began."""

    def cut(self: observers.Watch, report: Any) -> None:
        raise KeyboardInterrupt

    faces = draw_faces(3, 50, 4, 3, 32)
    made = provenance.Provenance("federated", "a" * 64, "ten clinics", (NOISY.to_dict(),))
    synthetic_set.write(Path("set.npz"), faces.images(), faces.labels, made)
    synthetic._faces.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(observers.Watch, "checkpoint", cut)
        assert cli.main(["simulate", *SMALL, *SYNTHETIC["start"], "--plain"]) == 130
    Path("set.npz").unlink()
    (run_id,) = [path.name for path in Path("runs").iterdir() if path.is_dir()]
    assert cli.main(["simulate", "--resume", run_id, "--json", "o.json", "--plain"]) == 0
    (client,) = [one for one in json.loads(Path("o.json").read_text())["statements"] if one["unit"] == "client"]
    assert 3.0 < client["epsilon"] <= 7.0


def test_a_gallery_claims_what_its_run_does(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    result = simulate(*PROTECTIONS["phase"])
    Path("faces").mkdir()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save("faces/a.png")
    capsys.readouterr()
    assert cli.main(["enrol", str(result["run_id"]), "faces", "--owner", "me"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    (image,) = [one for one in result["statements"] if one["unit"] == "image"]
    assert " ".join(statements.claim(statement_of(image)).split()) in shown


def test_a_start_that_the_configuration_denies_stands_in_the_ledger(told: Told) -> None:
    result = simulate(*PROTECTIONS["kept"], f"train.warm_start={start()}")
    run = runs.Run(Path("runs"), str(result["run_id"]))
    tree = json.loads(run.config.read_text())
    tree["train"]["warm_start_is_public"] = True
    run.config.write_text(json.dumps(tree))
    assert cli.main(["ledger", run.run_id, "--json", "l.json"]) == 0
    assert json.loads(Path("l.json").read_text())["statements"] == result["statements"]
