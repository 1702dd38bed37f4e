"""Private training in ledgers and claims: every round that is asked is a row, and its price the accountant's."""

from __future__ import annotations

import json

import pytest

from fedveil import cli, readback, runs
from fedveil.federation import claims
from fedveil.federation.federation import Federation
from fedveil.privacy.accounting.pld import FINAL_GRID, PldAccountant
from fedveil.privacy.events import Gaussian, NonPrivate, PoissonSampled, Release, Repeated
from fedveil.privacy.ledger import Ledger
from fedveil_strategies import coordinator, observers, private_rounds

SMALL = (
    "evaluation.reference=false", "data.identities=8", "data.images_per_identity=4", "data.evaluation_identities=6",
    "data.evaluation_images=3", "data.pairs=20", "data.public_identities=4", "data.public_images=4",
    "model.width=8", "model.embedding=16", "train.clients=2", "train.rounds=3", "train.local.steps=2",
    "train.batch_size=6", "evaluation.draws=1", "evaluation.bootstrap=0", "tracking=none", "protection=none",
    "engine=inline", "privacy.image.rows=16",
)  # fmt: skip
EIGHT = ("privacy.image.epsilon=8", "privacy.image.sampling_rate=0.4")


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(observers, "draw", lambda *_: [])


def ran(tmp_path, *words):
    assert cli.main(["simulate", *SMALL, *words, "--json", "found.json"]) == 0
    return json.loads((tmp_path / "found.json").read_text())


def own(rows):
    return [row for row in rows if isinstance(row.event, Release)]


def test_a_run_books_its_rounds_and_claims_what_they_cost(tmp_path):
    result = ran(tmp_path, *EIGHT)
    run = runs.open_run(tmp_path / "runs", result["run_id"])
    rows = Ledger(run.ledger).rows(run.run_id)
    assert [row.note for row in rows] == ["round 1", "round 2", "round 3"]
    settings = readback.settings_of(run)
    z = settings.privacy.image.noise_multiplier
    one = Repeated(PoissonSampled(0.4, Gaussian(z)), 2)
    assert all(row.event.event == one for row in rows)
    exact = PldAccountant("zero-out", "image", grid=FINAL_GRID).compose(one, 3).upper(1e-5)
    (said,) = result["statements"]
    assert (said["unit"], said["relation"], said["epsilon"]) == ("image", "zero-out", pytest.approx(exact))
    assert 7.9 < exact <= 8
    assert result["private"] is True
    assert result["noise_source"] == "operating system"
    owner = own(Ledger(tmp_path / ".fedveil" / "vault" / "ledger.sqlite").rows())
    assert [row.status for row in owner] == ["reserved"] * len(owner)
    assert all(row.event.event == Repeated(one, 3) for row in owner)
    assert len(owner) == 2  # one a client


def test_an_interrupted_round_is_one_more_on_both_sides(tmp_path, monkeypatch):
    inner, times = observers.Watch.checkpoint, []

    def stopped(watch, report):
        times.append(report.round)
        if times == [1, 2]:
            raise KeyboardInterrupt
        inner(watch, report)

    monkeypatch.setattr(observers.Watch, "checkpoint", stopped)
    assert cli.main(["simulate", *SMALL, *EIGHT]) == 130
    (folder,) = (tmp_path / "runs").glob("*-none-*")
    assert cli.main(["simulate", "--resume", folder.name, "--json", "found.json"]) == 0
    run = runs.open_run(tmp_path / "runs", folder.name)
    rows = Ledger(run.ledger).rows(run.run_id)
    assert [row.note for row in rows] == ["round 1", "round 2", "round 2", "round 3"]
    result = json.loads((tmp_path / "found.json").read_text())
    assert result["statements"][0]["epsilon"] > 8  # it was planned for three rounds and made four
    owner = Ledger(tmp_path / ".fedveil" / "vault" / "ledger.sqlite").rows()
    assert sorted(row.note for row in owner if row.status == "spent") == ["round 2 again"] * 2


def test_under_a_test_seed_a_round_again_is_the_same_row(tmp_path):
    federation = Federation.of([*SMALL, *EIGHT, "privacy.test_seed=3"])
    book = private_rounds.PrivateRounds(federation, Ledger(tmp_path / "ledger.sqlite"), "run")
    for number in (1, 2, 2):
        book.ask(number)
    rows = Ledger(tmp_path / "ledger.sqlite").rows("run")
    assert len(rows) == 2
    assert all("NOT PRIVATE" in row.note for row in rows)
    assert claims.of_run(federation, rows).statements[0].epsilon is None


def test_the_claim_is_of_rounds_that_were_asked_whoever_joined(tmp_path):
    """A client that joins every round pays for all of them, whatever share of clients is drawn."""
    federation = Federation.of([*SMALL, *EIGHT, "train.cohort.rate=0.5"])
    book = private_rounds.PrivateRounds(federation, Ledger(tmp_path / "ledger.sqlite"), "run")
    for number in (1, 2, 3):
        book.ask(number)
    (said,) = claims.of_run(federation, Ledger(tmp_path / "ledger.sqlite").rows("run")).statements
    assert 7.9 < said.epsilon <= 8
    assert federation.private_schedule.event.count == 3


def test_clipping_without_noise_claims_nothing(tmp_path):
    result = ran(tmp_path, "privacy.image.epsilon=inf")
    (said,) = result["statements"]
    assert said["epsilon"] is None
    assert result["private"] is False
    owner = Ledger(tmp_path / ".fedveil" / "vault" / "ledger.sqlite").rows()
    assert {type(row.event) for row in owner} == {NonPrivate}


def test_units_stand_side_by_side(tmp_path):
    words = ["privacy.client.epsilon=4", "train.clients=4", "train.cohort.rate=0.5", "privacy.identity.epsilon=8"]
    small = [word for word in SMALL if "image.rows" not in word]
    federation = Federation.of([*small, "privacy.identity.rows=16", *words, "protection=dctdp"])
    found = claims.planned(federation, federation.planned_event).statements
    assert [(one.unit, one.relation) for one in found] == [
        ("client", "zero-out"), ("image", "zero-out"), ("image", "replace-one"), ("identity", "zero-out"),
        ("identity", "replace-one"),
    ]  # fmt: skip
    private = next(one for one in found if (one.unit, one.relation) == ("identity", "zero-out"))
    assert 7.9 < private.epsilon <= 8
    picture = next(one for one in found if (one.unit, one.relation) == ("image", "zero-out"))
    assert picture.epsilon > 1.05 * private.epsilon  # a person without one picture is another person


def test_engines_agree_under_a_test_seed(tmp_path):
    words = [*EIGHT, "privacy.test_seed=7", "train.augment.flip=true", "privacy.image.views=2"]
    hashes = {ran(tmp_path, *words, engine)["model_sha256"] for engine in ("engine=inline", "engine=pool")}
    hashes.add(ran(tmp_path, *words, "engine=inline", "engine.wire=true")["model_sha256"])
    assert len(hashes) == 1


def test_a_round_is_booked_before_anybody_is_asked(tmp_path):
    """A row that waits for answers is missing where they came and the coordinator did not live to count them."""
    session = coordinator.open_session(Federation.of([*SMALL, *EIGHT]), "", "quiet")
    there = []

    def transport(number, cohort, tensors, state):
        there.extend(row.note for row in Ledger(session.run.ledger).rows(session.run_id))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        coordinator.coordinate(session, transport)
    assert there == ["round 1"]


@pytest.mark.parametrize("unit", ["image", "identity"])
def test_an_undeclared_start_takes_the_claim(unit):
    small = [word for word in SMALL if "image.rows" not in word]
    words = [*small, f"privacy.{unit}.epsilon=8", "train.warm_start=somebody.safetensors"]
    for more, claimed in ((["train.warm_start_is_public=true"], True), ([], False)):
        federation = Federation.of([*words, *more])
        found = claims.planned(federation, federation.planned_event).statements
        assert any(one.unit == unit for one in found)
        assert any(one.epsilon is not None for one in found) is claimed
