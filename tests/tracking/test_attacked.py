"""An attack is a child run of what it attacks, told once, at once or later; the run carries the strongest's numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedveil import config, readback, runs
from fedveil.federation.federation import Federation
from fedveil.tracking import _mlflow, _remote, attacked, mirror

mlflow = pytest.importorskip("mlflow")
pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own deprecations


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tell MLflow in this process, where a test can make it fail."""
    monkeypatch.setattr(_remote, "Remote", _mlflow.MlflowTracker)


def finding(run: runs.Run, attack: str, linked: float, **more: Any) -> Path:
    """Write what an attack found, and a picture beside it."""
    empty = dict.fromkeys(("low", "high", "floor", "ceiling", "mean_face"))
    measures = [
        {**empty, "name": "linked", "value": linked, "said": "victims who are linked", "unit": "share",
         "low": linked / 2, "high": min(1.0, 2 * linked), "floor": 0.01, "ceiling": 0.98},
        {**empty, "name": "ssim", "value": 0.5, "said": "likeness", "unit": ""},
        {**empty, "name": "replayed", "value": None, "said": "accepted", "unit": "share"},
    ]  # fmt: skip
    path = run.folder / "attacks" / f"{attack}-0a1b2c3d.json"
    path.parent.mkdir(exist_ok=True)
    path.with_suffix(".png").write_bytes(b"png")
    runs.write_json(path, {
        "run_id": run.run_id, "attack": attack, "level": "static", "settings": {"images": 10}, "protection": "dctdp",
        "what": "The attacker holds what leaves.", "verdict": f"He links {linked:g} of them.", "measures": measures,
        "people": {}, "judge": {"kind": "own network"}, "curves": {}, "notes": ["Drawn faces."], "seconds": 1.0,
        "seconds_per_image": None, "peak_memory_mb": 1.0, **more,
    })  # fmt: skip
    return path


def federation_of(run: runs.Run) -> Federation:
    return Federation(readback.settings_of(run))


def store(run: runs.Run) -> Any:
    return mlflow.MlflowClient(tracking_uri=f"sqlite:///{run.root / 'mlflow.db'}")


def shown(run: runs.Run) -> dict[str, Any]:
    """Return the runs of the store by name, without what a second telling may change."""
    client = store(run)
    found = client.search_runs([client.get_experiment_by_name("fedveil").experiment_id])
    assert len({one.info.run_name for one in found}) == len(found)
    return {one.info.run_name: one for one in found}


def comparable(run: runs.Run) -> dict[str, Any]:
    client = store(run)
    return {
        name: (one.info.status, one.info.end_time, one.data.metrics, one.data.params, one.data.tags,
               {key: len(client.get_metric_history(one.info.run_id, key)) for key in one.data.metrics})
        for name, one in shown(run).items()
    }  # fmt: skip


def test_attacks_are_children_told_once_and_the_run_carries_the_strongest(run: runs.Run) -> None:
    assert mirror.catch_up(federation_of(run), run) != ""
    parent = "dctdp eps 8 (image) seed 1"
    before = shown(run)[parent]
    finding(run, "linear", 0.25)
    finding(run, "decoder", 0.5)
    assert mirror.catch_up(federation_of(run), run) != ""
    found = shown(run)
    assert {*found} == {parent, f"attack: linear on {parent}", f"attack: decoder on {parent}"}
    attacked, child = found[parent], found[f"attack: linear on {parent}"]
    assert attacked.data.metrics["linked"] == 0.5
    assert attacked.data.metrics["ssim"] == 0.5
    assert "replayed" not in attacked.data.metrics  # never measured, so not zero
    assert (attacked.info.status, attacked.info.end_time) == ("FINISHED", before.info.end_time)
    assert "He links 0.5 of them." in attacked.data.tags["mlflow.note.content"]
    assert "image: epsilon = 8 at delta = 0" in attacked.data.tags["mlflow.note.content"]
    assert child.data.tags["mlflow.parentRunId"] == attacked.info.run_id
    assert child.data.metrics == {"linked": 0.25, "linked_low": 0.125, "linked_high": 0.5, "ssim": 0.5}
    assert child.data.tags["fedveil.level"] == "static"
    assert child.data.tags["fedveil.judge"] == "own network"
    assert "98.0 % of clean pictures" in child.data.tags["mlflow.note.content"]
    stored = {item.path for item in store(run).list_artifacts(child.info.run_id)}
    assert stored == {"linear-0a1b2c3d.json", "linear-0a1b2c3d.png"}
    once = comparable(run)
    assert mirror.catch_up(federation_of(run), run) == ""
    (run.folder / "tracking.json").unlink()  # the store is asked, and has everything
    assert mirror.catch_up(federation_of(run), run) != ""
    again = comparable(run)
    assert {name: one[2:] for name, one in again.items()} == {name: one[2:] for name, one in once.items()}


def test_an_attack_that_could_not_be_told_is_told_later_and_one_that_was_run_again_is_told_again(
    run: runs.Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mirror.catch_up(federation_of(run), run) != ""
    finding(run, "linear", 0.25)
    (run.folder / "attacks" / "half-00000000.json").write_text('{"half": ')

    def failing(*_: Any) -> None:
        raise ConnectionError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(_mlflow.MlflowTracker, "log_artifact", failing)
        assert mirror.catch_up(federation_of(run), run) == ""
    said = capsys.readouterr().err
    assert "no answer" in said
    assert "left out" in said
    assert mirror.catch_up(federation_of(run), run) != ""
    parent = "dctdp eps 8 (image) seed 1"
    assert shown(run)[parent].data.metrics["linked"] == 0.25
    finding(run, "linear", 0.125)
    lacking = mirror.missing(run.root, mirror.store_of(federation_of(run).settings))
    assert [one.run_id for _, one in lacking] == [run.run_id]
    assert mirror.catch_up(federation_of(run), run) != ""
    assert shown(run)[parent].data.metrics["linked"] == 0.125
    assert shown(run)[f"attack: linear on {parent}"].data.metrics["linked"] == 0.125
    assert len(shown(run)) == 2


def test_an_attack_on_a_client_level_run_tells_no_time_either(run: runs.Run) -> None:
    finding(run, "linear", 0.25)
    settings = config.load(["protection=none", "privacy.client.epsilon=8"], on=readback.settings_of(run))
    (found,) = attacked.findings(run)
    told = [attacked._child(settings, run, found), attacked._parent(settings, run, "")]
    assert [(info.hide_times, info.started, info.ended) for info in told] == [(True, None, None)] * 2
    assert told[0].parent == run.run_id  # whose start is the attack's


def test_a_run_that_was_told_under_earlier_names_is_told_again(run: runs.Run) -> None:
    assert mirror.catch_up(federation_of(run), run) != ""
    path = run.folder / "tracking.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "format"}))
    assert mirror.catch_up(federation_of(run), run) != ""
    assert mirror.catch_up(federation_of(run), run) == ""
    assert len(shown(run)) == 1
