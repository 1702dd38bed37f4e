"""The view that MLflow's UI opens on, as MLflow's own code reads it, and as a browser shows it."""

from __future__ import annotations

import base64
import contextlib
import html
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedveil import readback, runs
from fedveil.federation.federation import Federation
from fedveil.tracking import RunInfo, _mlflow, _remote, mirror, overview, pages, view
from fedveil.tracking.stores import Store

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
RUN = "dctdp eps 8 (image) seed 1"


def read(value: str) -> dict[str, Any]:
    """Return a view's state as MLflow's page reads it: an envelope, and deflated JSON in it."""
    envelope = json.loads(value)
    assert {*envelope} == {"name", "createdAt", "state"}
    kind, _, packed = envelope["state"].partition(";")
    assert kind == "deflate"
    found: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(packed)))
    return found


def axes(state: dict[str, Any]) -> list[tuple[str, str]]:
    charts = (chart for chart in state["compareRunCharts"] if chart["type"] == "SCATTER")
    return [(chart["xaxis"]["key"], chart["yaxis"]["key"]) for chart in charts]


def test_accuracy_is_drawn_against_every_number_that_some_run_has_and_no_other() -> None:
    for size in range(len(view.NUMBERS) + 1):
        for known in itertools.combinations(view.NUMBERS, size):
            drawn = axes(read(view.tag(known)))
            assert [x for x, y in drawn if y == "accuracy"] == [*known]
            assert {name for pair in drawn for name in pair} <= {"accuracy", *known}


def test_every_chart_is_in_a_section_and_every_column_is_ordered() -> None:
    state = read(view.tag())
    sections = {section["uuid"] for section in state["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} <= sections
    assert len({chart["uuid"] for chart in state["compareRunCharts"]}) == len(state["compareRunCharts"])
    assert {*state["selectedColumns"]} <= {*state["columnOrder"]} == {*state["columnWidths"]}
    assert state["groupBy"]["groupByKeys"] == [{"mode": "tag", "groupByData": "fedveil.method"}]


def test_the_servers_own_check_lets_the_opened_address_and_this_machines_in_and_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checked = pytest.importorskip("mlflow.server.security_utils")
    for name in ("MLFLOW_SERVER_ALLOWED_HOSTS", "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"):
        monkeypatch.delenv(name, raising=False)
    host = view.address(pages.host_of("127.0.0.1"), 5003, "1").split("/")[2]
    given = pages.environment("127.0.0.1", 5003)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    allowed = checked.get_allowed_hosts_from_env() or checked.get_default_allowed_hosts()
    inside = (host, "127.0.0.1:5003", "localhost:5003", "[::1]:5003")
    assert all(checked.is_allowed_host_header(allowed, one) for one in inside)
    outside = ("evil.example", "evil.example:5003", "fedveil.localhost.evil.example:5003")
    assert not any(checked.is_allowed_host_header(allowed, one) for one in outside)
    origins = checked.get_allowed_origins_from_env()
    assert not checked.should_block_cors_request(f"http://{host}", "POST", origins)
    assert checked.should_block_cors_request("http://evil.example", "POST", origins)
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", "mine.example")
    if given:
        assert pages.environment("127.0.0.1", 5003)["MLFLOW_SERVER_ALLOWED_HOSTS"].startswith("mine.example,")
    assert pages.environment("192.168.1.7", 5003) == {}


@pytest.mark.filterwarnings("ignore")  # MLflow's own deprecations
def test_a_persons_description_stays_and_ours_is_renewed(blank: Path, tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    shutil.copy(blank, path)
    store = Store(f"sqlite:///{path}", "here", artifacts=(tmp_path / "artifacts").as_uri())
    tracker = _mlflow.MlflowTracker(store)
    tags = {view.KIND: "run", view.GROUP: "none", "epsilon_image": "image: no formal guarantee."}
    tracker.start(RunInfo("r1", "fedveil", "none seed 1", tags=tags))
    tracker.log_round(1, {"accuracy": 0.75, "linked": 0.5})
    tracker.finish()
    mlflow = pytest.importorskip("mlflow")
    client = mlflow.MlflowClient(tracking_uri=store.uri)
    experiment = client.get_experiment_by_name("fedveil")
    assert axes(read(experiment.tags[view.TAG])) == [("linked", "accuracy")]
    said = experiment.tags[overview.NOTE]
    assert "**none**: accuracy 75.0 %, one run. image: no formal guarantee." in said
    client.set_experiment_tag(experiment.experiment_id, overview.NOTE, "my own words")
    client.set_experiment_tag(experiment.experiment_id, view.TAG, "damaged")
    assert _mlflow.renewed(store, "fedveil") == experiment.experiment_id
    tags = client.get_experiment(experiment.experiment_id).tags
    assert tags[overview.NOTE] == "my own words"
    assert axes(read(tags[view.TAG])) == [("linked", "accuracy")]


def dumped(address: str, profile: Path, *wanted: str) -> str:
    """Return a page's text once it shows all that is wanted, or what it shows after two minutes."""
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", "--window-size=1600,1400",
        f"--user-data-dir={profile}", "--virtual-time-budget=60000", "--dump-dom", address,
    ]  # fmt: skip
    shown, until = "", time.monotonic() + 120
    while time.monotonic() < until:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        shown = html.unescape(re.sub(r"\s+", " ", done.stdout))
        if all(text in shown for text in wanted):
            return shown
    return shown


@pytest.fixture
def served(run: runs.Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve the pages of a store with one attacked run; yield the address that `fedveil ui` prints."""
    attacked = {"attack": "linear", "level": "static", "verdict": "He links a quarter."}
    values = dict.fromkeys(("low", "high", "floor", "ceiling", "mean_face"))
    measures = [{**values, "name": name, "value": 0.25, "said": "", "unit": "share"} for name in ("linked", "rank1")]
    finding = {"run_id": run.run_id, "settings": {}, "protection": "dctdp", "what": "What leaves.", "people": {},
               "judge": {}, "curves": {}, "notes": [], "seconds": 1.0, "seconds_per_image": None,
               "peak_memory_mb": 1.0, "measures": measures, **attacked}  # fmt: skip
    (run.folder / "attacks").mkdir()
    runs.write_json(run.folder / "attacks" / "linear-0a1b2c3d.json", finding)
    with monkeypatch.context() as patch:
        patch.setattr(_remote, "Remote", _mlflow.MlflowTracker)
        assert mirror.catch_up(Federation(readback.settings_of(run)), run)
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "fedveil.cli", "ui", f"runs.root={run.root}", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        try:
            yield next(line.strip() for line in process.stdout if line.startswith("http://"))
        finally:
            os.killpg(process.pid, signal.SIGTERM)
    with contextlib.closing(socket.socket()) as gone:
        assert gone.connect_ex(("127.0.0.1", port)) != 0  # the server ended with its command


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # MLflow's own deprecations
@pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="no Chromium on this machine")
def test_a_browser_shows_charts_list_and_descriptions(served: str, run: runs.Run, tmp_path: Path) -> None:
    charts = ("epsilon_image vs. accuracy", "linked vs. accuracy", "epsilon_image vs. linked", "Over the rounds", RUN)
    shown = dumped(served, tmp_path / "profile", *charts)
    assert [text for text in charts if text not in shown] == []
    assert "epsilon_client vs. accuracy" not in shown  # nothing of that axis was measured
    assert overview.EXPERIMENT in shown
    assert "Error loading shared view state" not in shown
    assert "Ask questions about errors" not in shown  # the assistant's panel
    assert "attack: linear" not in shown
    accuracy = f"{readback.result_of(run)['final']['accuracy']:.3g}"
    listed = (RUN, "Group: dctdp eps 8 (image)", "epsilon_image", "epsilon_identity", "linked", "rank1", accuracy)
    shown = dumped(served.replace("&compareRunsMode=CHART", ""), tmp_path / "profile", *listed)
    assert [text for text in listed if text not in shown] == []
    mlflow = pytest.importorskip("mlflow")
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{run.root / 'mlflow.db'}")
    (found,) = client.search_runs(["1"], f"tags.`fedveil.run_id` = '{run.run_id}'")
    said = ("Final accuracy", "image: epsilon = 8 at delta = 0 (replace-one)", "He links a quarter.", RUN)
    page = f"{served.partition('?')[0]}/{found.info.run_id}?workflowType=machine_learning"
    shown = dumped(page, tmp_path / "profile", *said)
    assert [text for text in said if text not in shown] == []
