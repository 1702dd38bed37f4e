"""What a report's rows, tables and plots say follows from the folders of the runs alone."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedveil import checks
from fedveil.attacks import base
from fedveil.attacks.base import LEAKS
from fedveil.commands.report import gathered, panels, plots, reproduce, rows, tables, words
from fedveil.pictures import style

Fake = Callable[..., dict[str, Any]]
Store = Any  # of conftest.py


def read(frontier: Path) -> tuple[gathered.Gathered, list[rows.Row]]:
    found = gathered.gather(frontier.parent, frontier.name)
    return found, rows.rows(found)


def naive(frontier: Path) -> dict[tuple[str, str | None], list[tuple[dict[str, Any], list[dict[str, Any]]]]]:
    """Read the files again, by another road: {(protection, budget): [(result, findings)]}."""
    found: dict[tuple[str, str | None], list[tuple[dict[str, Any], list[dict[str, Any]]]]] = {}
    for cell in json.loads((frontier / "sweep.json").read_text())["cells"]:
        folder = frontier.parent / cell["run_id"]
        if not (folder / "result.json").exists():
            continue
        key = (cell["values"]["protection"], cell["values"].get("protection.total_epsilon"))
        attacks = [json.loads(path.read_text()) for path in sorted(folder.glob("attacks/*.json"))]
        found.setdefault(key, []).append((json.loads((folder / "result.json").read_text()), attacks))
    return found


def test_every_row_equals_a_loop_over_the_files(frontier: Path) -> None:
    _, made = read(frontier)
    expected = naive(frontier)
    assert len(made) == len(expected) == 9
    for row in made:
        budget = row.budget.removeprefix("total_epsilon ") or None
        runs = expected[row.method, budget]
        accuracies = [result["final"]["accuracy"] for result, _ in runs]
        assert row.group.mean == pytest.approx(sum(accuracies) / len(accuracies))
        assert row.group.sd == pytest.approx(statistics.stdev(accuracies))
        epsilons = [one["epsilon"] for result, _ in runs for one in result["statements"] if one["unit"] == "image"]
        assert row.statements["image"]["epsilon"] == (None if None in epsilons else max(epsilons))
        for name in LEAKS:
            values = [
                one["value"] for _, attacks in runs for found in attacks for one in found["measures"]
                if one["name"] == name and one["value"] is not None
            ]  # fmt: skip
            leak = row.leaks[name]
            assert (None if leak is None else leak.value) == (max(values) if values else None)
            if leak is not None:
                agreed = base.strongest([found for _, attacks in runs for found in attacks], name)
                assert agreed is not None
                assert (leak.value, leak.finding["attack"]) == (agreed["value"], agreed["attack"])
                assert leak.finding in leak.seen.findings


def test_one_seed_without_a_guarantee_leaves_the_setting_without(store: Store) -> None:
    for seed, claims in (("1", []), ("2", [{"unit": "client", "relation": "none", "view": "the model", "epsilon": None,
                                            "delta": None, "mechanism": "", "guarantee": "none", "meaningful": False,
                                            "assumptions": [], "not_covered": []}])):  # fmt: skip
        formal = {"unit": "client", "relation": "zero-out", "view": "the model", "epsilon": 4.0, "delta": 1e-6,
                  "mechanism": "", "guarantee": "formal", "meaningful": True, "assumptions": [],
                  "not_covered": []}  # fmt: skip
        store.cell({"protection": "none", "seed": seed}, accuracy=0.8, claims=claims or [formal])
    (row,) = rows.rows(gathered.gather(store.root, store.sweep()))
    assert row.statements["client"]["epsilon"] is None
    assert row.meaningful == []


def test_what_was_not_run_is_never_zero(frontier: Path) -> None:
    found, made = read(frontier)
    by_name = {row.name: row for row in made}
    unattacked, attacked = by_name["dctdp, total_epsilon 200"], by_name["dctdp, total_epsilon 8"]
    assert unattacked.leaks == dict.fromkeys(LEAKS)
    assert [unattacked.lacking("linked"), attacked.lacking("replayed")] == ["not run", "not measured"]
    assert "linked: not run" in words.row_lines(unattacked)
    assert "replayed: not measured" in words.row_lines(attacked)
    lines = {(one["method"], one["budget"]): one for one in csv.DictReader(tables.methods(made).decode().splitlines())}
    line = lines["dctdp", "total_epsilon 200"]
    assert [line["linked"], line["linked_attack"], line["attacks"]] == ["", "not run", ""]
    assert lines["dctdp", "total_epsilon 8"]["replayed_attack"] == "not measured"
    assert lines["none", ""]["image_epsilon"] == "inf"
    drawn = {panel.key: panel for panel in panels.panels(made)}
    assert len(drawn["linked"].spots) == len(made) - 1
    assert len(drawn["replayed"].spots) == 6
    traces = plots.figures([*drawn.values()], made)["linked"]["data"]
    assert not any("total_epsilon 200" in str(trace["text"]) for trace in traces)
    assert any("total_epsilon 1000" in str(trace["text"]) for trace in traces)
    assert sum("attack=" in line for line in reproduce.missing(found)) == len(made)


def test_each_method_has_its_own_colour_and_marker_wherever_it_is_drawn(frontier: Path) -> None:
    _, made = read(frontier)
    places = rows.methods(made)
    assert len(places) == 7
    looks = {name: style.series(place) for name, place in places.items()}
    assert len({colour for colour, _ in looks.values()}) == len({marker for _, marker in looks.values()}) == 7
    for figure in plots.figures(panels.panels(made), made).values():
        for trace in figure["data"]:
            name = next(row.method for row in made if row.place == trace["meta"]["method"])
            colour, marker = looks[name]
            if trace["meta"]["kind"] == "line":
                assert trace["line"]["color"] == colour
            else:
                assert trace["marker"]["color"] == colour
                assert trace["marker"]["symbol"].removesuffix("-open") == plots.SYMBOLS[marker]
    assert len({plots.swatch(place)["points"] for place in range(9)}) == 9


def test_figures_are_what_plotly_takes_and_every_point_can_be_hovered(frontier: Path) -> None:
    from plotly import graph_objects

    _, made = read(frontier)
    drawn = panels.panels(made)
    assert [panel.key for panel in drawn] == ["image", "identity", "linked", "replayed", "ssim"]
    for panel in drawn:
        figure = plots.figures([panel], made)[panel.key]
        graph_objects.Figure(figure)  # refuses a name or a value that it does not know
        for trace in figure["data"]:
            if trace["meta"]["kind"] != "line":
                assert len(trace["x"]) == len(trace["y"]) == len(trace["text"]) > 0
                assert all("accuracy: " in text and "replayed: " in text for text in trace["text"])


def test_infinity_stands_right_of_every_epsilon_and_no_line_goes_there(frontier: Path) -> None:
    _, made = read(frontier)
    (panel, *_) = panels.panels(made)
    finite = [spot.x for spot in panel.spots if spot.x is not None]
    bare = [panel.at(spot) for spot in panel.spots if spot.x is None]
    assert min(bare) > max(finite)
    assert len(set(bare)) == len(bare) == 6
    lines = [trace for trace in plots.figures([panel], made)["image"]["data"] if trace["meta"]["kind"] == "line"]
    assert [line["x"] for line in lines] == [sorted(finite)]


def test_the_first_sentence_states_the_result(store: Store) -> None:
    store.cell({"protection": "none", "seed": "1"}, accuracy=0.86)
    store.cell({"protection": "dctdp", "protection.total_epsilon": "8", "seed": "1"}, accuracy=0.5)
    found = gathered.gather(store.root, store.sweep())
    first, second, last = words.headline(rows.rows(found))
    assert first == (
        "At an image epsilon of 8 at delta 0, dctdp recognises 50.0 % of unseen pairs correctly, which is no better "
        "than guessing."
    )
    assert second == "Without any protection the same recipe reaches 86.0 %."
    assert "unknown" in last


def test_nothing_meaningful_is_said_first_too(store: Store, fake: Fake) -> None:
    store.cell({"protection": "dctdp", "protection.total_epsilon": "1000", "seed": "1"}, accuracy=0.8,
               findings=[fake("linear", {"linked": 0.19})])  # fmt: skip
    first, second = words.headline(rows.rows(gathered.gather(store.root, store.sweep())))
    assert "with no meaningful guarantee: every epsilon is above 20" in first
    assert "(linear) finds 19.0 % of the people behind dctdp, total_epsilon 1000 again" in second
    assert "no information at all would give 1.0 %" in second


def test_sentences_of_the_ledger_are_those_of_the_terminal(frontier: Path) -> None:
    from fedveil import readback
    from fedveil.commands import summary

    found, _ = read(frontier)
    for seen in found.finished:
        assert seen.result is not None
        printed = summary.ledger([readback.statement_of(one) for one in seen.result["statements"]])
        said = " ".join(words.ledger(seen)).replace("- ", "")
        assert said.split() == printed.replace("- ", "").split()


def test_budgets_of_one_private_training_are_one_method(store: Store) -> None:
    base_words = {"privacy.client.delta": "1e-6", "privacy.client.clip": "0.5", "train.clients": "40"}
    for epsilon in ("4", "8"):
        store.cell({"protection": "none", "privacy.client.epsilon": epsilon, "seed": "1", **base_words}, accuracy=0.7)
    store.cell({"protection": "none", "seed": "1", "train.clients": "40"}, accuracy=0.8)
    found = gathered.gather(store.root, store.sweep())
    made = rows.rows(found)
    assert [row.place for row in made] == [0, 0, 1]
    assert made[0].budget == "client epsilon 4"
    assert made[0].method.endswith("client-level training")
    assert found.hides_times
    assert b"65" not in tables.attacks(made, found.hides_times)


@pytest.mark.parametrize(
    "words_",
    [
        ["protection=none"], ["protection.total_epsilon=8", "seed=7", "train.local.epochs=2"],
        ["data.root=a, b", "data=folder", "protection=minusface"], ["privacy.client.epsilon=8",
        "privacy.client.delta=1e-6", "privacy.client.clip=0.5", "protection=none", "train.clients=40"],
        ["protection.mode=coefficient", "train.schedule.kind=steps", "train.schedule.milestones=[0.2,0.4]"],
    ],
)  # fmt: skip
def test_the_words_of_a_run_come_to_its_configuration(words_: list[str]) -> None:
    from fedveil import config
    from fedveil.federation import planning

    settings = planning.planned(config.load(words_))
    found = reproduce.words_of(settings)
    assert found is not None
    assert config.digest(planning.planned(config.load(found))) == config.digest(settings)
    assert len(found) <= len(words_) + 2


def test_damaged_and_foreign_findings_are_left_out_and_said(store: Store, fake: Fake, measure: Fake) -> None:
    run = store.run("one", ["protection=none"], 0.8, [fake("linear", {"linked": 0.2})])
    kept = {path.stem for path in run.folder.glob("attacks/*.json")}
    (run.folder / "attacks/cut-1.json").write_text('{"attack": "lin')
    for damage in (
        {"run_id": "another"}, {"measures": [measure("linked", 1.5, low=None)]}, {"verdict": 3},
        {"measures": [measure("linked", 0.5, low=0.7, high=0.9), measure("linked", 0.1)]},
        {"measures": [measure("linked", 0.5, low=0.9, high=0.1)]}, {"people": {"victims": {"people": "all"}}},
        {"measures": [measure("linked", None, low=0.1, high=0.2)]}, {"seconds": None},
    ):  # fmt: skip
        store.attack(run, {**fake("linear", {"linked": 0.99}), **damage})
    found = gathered.gather(store.root, "one")
    assert {one["file"] for one in found.runs[0].findings} == kept
    assert len(found.left_out) == 9
    assert all("left out: " in line and "again" in line for line in found.left_out)


def test_what_is_not_there_is_refused_with_the_remedy(store: Store, fake: Fake) -> None:
    store.run("finished-1", ["protection=none"], 0.8)
    with pytest.raises(checks.UserError, match="Did you mean 'finished-1'"):
        gathered.gather(store.root, "finished-2")
    store.run("begun", ["protection=none"], 0.8).result.unlink()
    with pytest.raises(checks.UserError, match="simulate --resume begun"):
        gathered.gather(store.root, "begun")
    store.cell({"seed": "1"}, "failed", "no such folder")
    with pytest.raises(checks.UserError, match=r"Nothing of sweep-fake has finished.*fedveil sweep.*--name fake"):
        gathered.gather(store.root, store.sweep())
    (store.root / "sweep-fake/sweep.json").write_text('{"cells": 1}')
    with pytest.raises(checks.UserError, match=r"sweep.json is not a readable list"):
        gathered.gather(store.root, "sweep-fake")


def test_runs_that_are_not_whole_are_listed_as_such(store: Store) -> None:
    store.cell({"protection": "none", "seed": "1"}, accuracy=0.8)
    for number in (2, 3, 4):
        store.cell({"protection": "none", "seed": str(number)}, accuracy=0.9)
    (store.root / "sweep-fake-01/result.json").write_text("{}")
    (store.root / "sweep-fake-02/ledger.sqlite").unlink()
    (store.root / "sweep-fake-03/result.json").unlink()
    store.cell({"protection": "none", "seed": "5"}, "failed", "the disk is full")
    found = gathered.gather(store.root, store.sweep())
    assert [seen.state for seen in found.runs] == ["finished", "damaged", "finished", "unfinished", "failed"]
    assert "ledger.sqlite is missing" in found.runs[2].reason
    assert (found.runs[2].head, found.runs[4].reason) == ("", "the disk is full")
    (row,) = rows.rows(found)
    assert row.group.accuracies == (0.8, 0.9)
