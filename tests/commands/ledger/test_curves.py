"""The picture of a ledger: its last values are the statements', its budget is a line, and what is none is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedveil import checks, cli, config
from fedveil.commands.ledger import curves as ledger_curves
from fedveil.commands.ledger import report as ledger_report
from fedveil.configuration.schema import Policy
from fedveil.federation import claims
from fedveil.federation.federation import Federation
from fedveil.pictures import ledger as pictures_ledger
from fedveil.privacy.accounting.pld import PldAccountant
from fedveil.privacy.events import Gaussian, LocalRelease, NonPrivate, PoissonSampled, Release, Repeated
from fedveil.privacy.ledger import Ledger, Row

WORDS = ["tracking=none", "protection=none", "privacy.client.epsilon=4", "privacy.client.delta=1e-5",
         "train.cohort.rate=0.5", "train.rounds=6", "train.clients=20"]  # fmt: skip
EIGHT = LocalRelease("laplace", 8.0)


@pytest.fixture
def federation():
    return Federation.of(WORDS)


def rows_of(federation):
    event = federation.round_release
    noisy = [Row("run", "run", "spent", event, f"round {number}") for number in range(1, 7)]
    return [Row("run", "run", "spent", NonPrivate("image", "the representation", "no noise")), *noisy]


def test_a_runs_curve_is_the_epsilon_after_each_booked_round(federation):
    client, image = ledger_curves.run_curves(rows_of(federation), federation)
    event = federation.round_release
    alone = [PldAccountant().compose(event, count).upper(1e-5) for count in range(1, 7)]
    assert (list(client.at), client.limit) == ([1, 2, 3, 4, 5, 6], 4.0)
    assert client.epsilon == pytest.approx(alone, rel=5e-3)
    assert client.epsilon[-1] == claims.of_run(federation, rows_of(federation)).statements[0].epsilon
    assert client.title == "client level, zero-out, delta = 1e-05"
    assert (list(image.epsilon), image.reason) == ([], "no formal guarantee:\nno noise")


def test_an_owners_curve_is_the_total_over_runs(tmp_path, federation):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    whole = federation.whole_schedule
    for run in ("r1", "r2", "r3"):
        ledger.append([Row(run, "set", "reserved", whole), Row(run, "set", "spent", EIGHT)])
    image, client = ledger_curves.owner_curves(tmp_path, "set", Policy(None, None, 25.0, 12.0))
    assert (list(image.epsilon), image.limit, client.limit) == ([8.0, 16.0, 24.0], 25.0, 12.0)
    said = ledger_report.of_owner(tmp_path, "set", Policy(None, None))["statements"]
    found = {claim["unit"]: claim["epsilon"] for claim in said}
    assert (image.epsilon[-1], client.epsilon[-1]) == (found["image"], found["client"])
    assert sorted(client.epsilon) == list(client.epsilon)


def test_the_command_writes_a_light_png_twice_the_same(tmp_path, federation, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/run")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config.to_json(federation.settings))
    Ledger(folder / "ledger.sqlite").append(rows_of(federation))
    Ledger(Path(".fedveil/vault/ledger.sqlite")).append([Row("run", "set", "spent", EIGHT)])
    for words in (["run"], ["--owner", "set"]):
        assert cli.main(["ledger", *words, "--picture", "new/a.png"]) == 0
        assert cli.main(["ledger", *words, "--picture", "b.png", "--json", "c.json"]) == 0
        assert Path("new/a.png").read_bytes() == Path("b.png").read_bytes()
        with Image.open("b.png") as image:
            assert image.format == "PNG"
            assert (np.asarray(image.convert("L")) > 250).mean() > 0.5
        assert json.loads(Path("c.json").read_text())["statements"]
    assert "picture b.png" in capsys.readouterr().out


def test_thousands_of_rows_are_drawn_at_few_places(federation, monkeypatch):
    asked = []
    upper = PldAccountant.upper
    monkeypatch.setattr(PldAccountant, "upper", lambda self, delta: asked.append(1) or upper(self, delta))
    event = federation.round_release
    (curve,) = ledger_curves.run_curves([Row("run", "run", "spent", event)] * 300, federation)
    assert (len(curve.at), len(asked)) == (60, 59)
    assert curve.at[-1] == 300


def test_nothing_to_draw_is_refused(tmp_path):
    with pytest.raises(checks.UserError, match="curves_drawn"):
        pictures_ledger.spent(tmp_path / "x.png", [], "header", "round", 20.0)


def test_private_steps_of_people_have_a_curve_for_people_and_for_pictures(tmp_path):
    steps = Release("identity", "zero-out", "updates", Repeated(PoissonSampled(0.1, Gaussian(2.0)), 100))
    Ledger(tmp_path / "ledger.sqlite").append([Row(run, "set", "reserved", steps) for run in ("a", "b")])
    image, people = ledger_curves.owner_curves(tmp_path, "set", Policy(None, None))
    report = ledger_report.of_owner(tmp_path, "set", Policy(None, None))
    said = {one["unit"]: one["epsilon"] for one in report["statements"]}
    assert image.epsilon[-1] == pytest.approx(said["image"])
    assert people.epsilon[-1] == pytest.approx(said["identity"])
    assert list(people.at) == [1, 2]
    assert people.epsilon[0] < people.epsilon[1] < image.epsilon[1]
