"""`privacy.noise=grid` from the word to the claim: what is drawn, booked, and said to assume and not to cover."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from fedveil import checks, cli, config
from fedveil.federation import claims
from fedveil.federation.federation import Federation
from fedveil.federation.mechanism import mechanism_id
from fedveil.privacy import statements, totals
from fedveil.privacy.events import ON_GRID, LocalRelease, Release
from fedveil.privacy.ledger import Row
from fedveil.privacy.statements import EXACT, FLOATING, TIMED, Statement
from fedveil_strategies import observers

GRID = "privacy.noise=grid"
CLIENT = ("protection=none", "privacy.client.noise_multiplier=2")
COPIES = ("protection=dctdp", "protection.fit_steps=0", "protection.init=zeros")
KEPT = LocalRelease("laplace", 8.0, max_images_per_identity=3, detail=(("radius", 1.0),))
ON = dataclasses.replace(KEPT, detail=(ON_GRID, ("radius", 1.0)))
SMALL = (
    "tracking=none", "engine=inline", "evaluation.reference=false", "data.identities=6", "data.images_per_identity=3",
    "data.evaluation_identities=6", "data.evaluation_images=3", "data.pairs=20", "data.public_identities=4",
    "data.public_images=4", "model.width=8", "model.embedding=16", "train.clients=3", "train.rounds=2",
    "train.local.steps=1", "train.batch_size=4", "evaluation.draws=1", "evaluation.bootstrap=0", "privacy.test_seed=7",
)  # fmt: skip


def said(one: Statement) -> tuple[bool, bool, bool]:
    return EXACT in one.assumptions, TIMED in one.not_covered, FLOATING in one.not_covered


EXACTLY, REALLY = (True, True, False), (False, False, True)


@pytest.mark.parametrize(("event", "expected"), [(ON, EXACTLY), (KEPT, REALLY)])
def test_a_copys_claim_says_how_its_noise_was_drawn(event: LocalRelease, expected: tuple[bool, ...]) -> None:
    assert {said(one) for one in statements.price(event)} == {expected}
    assert {said(one) for one in statements.together([(event, 1), (event, 2)])} == {expected}


def test_one_real_draw_makes_the_whole_claim_one_of_real_arithmetic() -> None:
    for pair in ([(ON, 1), (KEPT, 1)], [(KEPT, 1), (ON, 1)]):
        for one in statements.together(pair):
            assert said(one)[0::2] == (False, True)
    rows = [Row("r", "run", "spent", event, "", mechanism=name) for event, name in ((ON, "a"), (KEPT, "b"))]
    for one in totals.of_rows(rows):
        assert said(one)[0::2] == (False, True)
    assert {said(one) for one in totals.of_rows(rows[:1])} == {EXACTLY}


def round_of(*words: str) -> tuple[Federation, Release]:
    run = Federation.of([*CLIENT, *words])
    assert isinstance(run.round_release, Release)
    return run, run.round_release


def test_a_client_level_claim_says_how_its_noise_was_drawn() -> None:
    (real, plain), (run, event) = round_of(), round_of(GRID)
    assert {*event.detail} - {*plain.detail} == {ON_GRID}
    assert list(event.detail) == sorted(event.detail)
    assert event.event == plain.event
    for federation, one, expected in ((run, event, EXACTLY), (real, plain, REALLY)):
        (claimed,) = claims.planned(federation, one, grid=1e-2).statements[:1]
        assert (claimed.unit, said(claimed)) == ("client", expected)
        total = totals.client_total([federation.whole_schedule, federation.whole_schedule], 1e-5)
        assert total is not None
        assert said(total) == expected
    mixed = totals.client_total([run.whole_schedule, real.whole_schedule], 1e-5)
    assert mixed is not None
    assert said(mixed) == REALLY


def test_a_copy_on_the_grid_is_another_mechanisms() -> None:
    run, other = Federation.of(COPIES), Federation.of([*COPIES, GRID])
    public = run.split.public
    state = run.protection.fit(public.images(), public.labels, 1)
    assert mechanism_id(run, state) != mechanism_id(other, state)
    plain, same = (Federation.of(["protection=none", *CLIENT[1:], *word]) for word in ([], [GRID]))
    assert mechanism_id(plain, {}) == mechanism_id(same, {}), "where nothing is drawn for a copy, nothing changes"


def test_it_is_no_setting_of_the_protection_and_old_configurations_have_none() -> None:
    with pytest.raises(checks.UserError, match=r"protection\.noise_kind"):
        config.load(["protection=dctdp", "protection.noise_kind=grid"])
    with pytest.raises(checks.UserError, match=r"privacy\.noise"):
        config.load(["protection=dctdp", "privacy.noise=discrete"])
    tree = config.to_tree(config.load(["protection=dctdp"]))
    del tree["privacy"]["noise"]
    assert config.parse(tree).privacy.noise == "real"


def test_sums_of_private_steps_are_rounded_before_the_noise_and_refused() -> None:
    with pytest.raises(checks.UserError, match=r"privacy\.noise=grid does not go with privacy\.image"):
        Federation.of(["protection=dctdp", "privacy.image.noise_multiplier=1", GRID])


def run(*words: str) -> dict[str, object]:
    assert cli.main(["simulate", *SMALL, *words, "--json", "o.json", "--plain"]) == 0
    found: dict[str, object] = json.loads(Path("o.json").read_text())
    return found


def test_a_run_that_was_cut_off_ends_with_the_same_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a test seed: copies, sums and the quantile's count on the grid, whole and cut off after a round."""
    words = (*COPIES, GRID, "privacy.client.noise_multiplier=1", "privacy.client.quantile=0.5")
    monkeypatch.setattr(observers, "draw", lambda *_: [])
    for name in ("whole", "cut", "real"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    whole = run(*words)
    monkeypatch.chdir(tmp_path / "cut")
    checkpoint = observers.Watch.checkpoint

    def cut(self: observers.Watch, report: object) -> None:
        if report.round == 2:  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        checkpoint(self, report)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(observers.Watch, "checkpoint", cut)
        assert cli.main(["simulate", *SMALL, *words, "--plain"]) == 130
    (run_id,) = [path.name for path in Path("runs").iterdir() if path.is_dir()]
    assert cli.main(["simulate", "--resume", run_id, "--json", "o.json", "--plain"]) == 0
    resumed = json.loads(Path("o.json").read_text())
    assert resumed["model_sha256"] == whole["model_sha256"]
    monkeypatch.chdir(tmp_path / "real")
    real = run(*(word for word in words if word != GRID))
    assert real["model_sha256"] != whole["model_sha256"]
    assert "floating" not in json.dumps(whole["statements"])
    assert "floating" in json.dumps(real["statements"])
