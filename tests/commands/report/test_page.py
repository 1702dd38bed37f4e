"""The page: nothing from outside is more than text, nothing is loaded, everything is said, and a browser draws it."""

from __future__ import annotations

import hashlib
import html.parser
import json
import re
import shutil
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedveil import cli, tracking
from fedveil.commands import report
from fedveil.commands.report import gathered, page, plots, rows
from fedveil.storage import disk

Fake = Callable[..., dict[str, Any]]
Store = Any  # of conftest.py
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>{{7*7}}"
LOADS = {"src", "href", "srcset", "data", "action", "poster", "background", "formaction", "xlink:href"}


class Read(html.parser.HTMLParser):
    """What a browser would make of a page: its elements, their attributes, scripts, and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def written(frontier: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    report.write(gathered.gather(frontier.parent, frontier.name), folder)
    return folder


@pytest.fixture(scope="module")
def read(written: Path) -> Read:
    return Read((written / "report.html").read_text())


def test_the_page_loads_nothing(read: Read) -> None:
    for tag, attributes in read.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form"), tag
        for name, value in attributes.items():
            assert not name.startswith("on"), f"{tag} {name}"
            if name in LOADS:
                assert value.startswith(("#", "data:image/png;base64,")), f"{tag} {name}={value[:60]}"
    (policy,) = [one["content"] for one in read.of("meta") if "http-equiv" in one]
    assert policy.startswith("default-src 'none'; img-src data: blob:;")
    ours = page._read("page.css") + page._read("page.js") + page._read("page.html")
    assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttpRequest|eval\(", ours)


def test_only_the_two_scripts_run(read: Read) -> None:
    (policy,) = [one["content"] for one in read.of("meta") if "http-equiv" in one]
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    kinds = [one.get("type") for one in read.of("script")]
    assert kinds == ["application/json", None, None]
    hashes = {b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in read.scripts[1:]}
    assert hashes == allowed
    assert "unsafe-inline" not in policy.partition("script-src")[2]
    assert len(json.loads(read.scripts[0])) == 5


def test_what_comes_from_outside_is_text(store: Store, fake: Fake, tmp_path: Path) -> None:
    found = fake("linear", {"linked": 0.2}, notes=[EVIL], what=EVIL, verdict=EVIL, settings={EVIL: EVIL},
                 judge={"name": EVIL})  # fmt: skip
    found["measures"][0]["said"] = EVIL
    found["people"] = {EVIL: found["people"]["victims"]}
    store.cell({"protection": "none", "seed": "1", "data.root": EVIL, "data": "folder"}, accuracy=0.8,
               findings=[found, {**found, "attack": "x<b>y"}])  # fmt: skip
    store.cell({"protection": "none", "seed": EVIL}, "failed", EVIL)
    store.cells[0]["values"]["note"] = EVIL
    sweep = gathered.gather(store.root, store.sweep(words=[f"data.root={EVIL}"]))
    report.write(sweep, tmp_path)
    text = (tmp_path / "report.html").read_text()
    made = Read(text)
    assert len(made.of("script")) == 3
    assert "<img src=x" not in text
    assert text.count(EVIL) == 0
    assert made.text.count("<script>alert(1)</script>") >= 8
    assert "{{7*7}}" in made.text
    assert not [one for one in made.of("img") if one.get("src") == "x"]
    for figure in json.loads(made.scripts[0]).values():
        labels = [*(t for trace in figure["data"] for t in trace.get("text", [])), *(t["name"] for t in figure["data"])]
        for label in labels:
            assert set(re.findall(r"<[^>]*>?", label)) <= {"<br>"}, label


def test_figures_cannot_end_the_element_that_holds_them() -> None:
    held = page.in_script({"name": f"{EVIL}<!--&amp;"})
    assert not set("<>&") & set(held)
    assert json.loads(held) == {"name": f"{EVIL}<!--&amp;"}


def test_a_spreadsheet_takes_text_for_text(store: Store, fake: Fake, tmp_path: Path) -> None:
    store.run("one", ["protection=none"], 0.8, [fake("linear", {"linked": 0.2}, verdict='=HYPERLINK("x")')])
    report.write(gathered.gather(store.root, "one"), tmp_path)
    for name in ("methods.csv", "attacks.csv"):
        assert "'=HYPERLINK" in (tmp_path / name).read_text()


def test_every_setting_attack_and_run_is_on_the_page(read: Read, frontier: Path) -> None:
    found = gathered.gather(frontier.parent, frontier.name)
    for row in rows.rows(found):
        assert row.name in read.text
    for seen in found.runs:
        assert seen.run.run_id in read.text
    for word in ("no such folder", "18 of 19 runs have finished", "not run", "not measured", "fedveil sweep",
                 "fedveil report sweep-fake", "tossing a coin", "Above 20"):  # fmt: skip
        assert word in read.text, word
    titles = [tag for tag, _ in read.elements if re.fullmatch("h[1-6]", tag)]
    assert titles[0] == "h1"
    assert titles.count("h1") == 1
    assert all(image["alt"] for image in read.of("img"))
    assert all(one["aria-label"] for one in read.of("div") if one.get("role") == "img")
    identifiers = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(set(identifiers)) == len(identifiers)
    assert {one["href"][1:] for one in read.of("a")} <= set(identifiers)


def test_equal_runs_give_an_equal_page(written: Path, frontier: Path, tmp_path: Path) -> None:
    again = report.write(gathered.gather(frontier.parent, frontier.name), tmp_path)
    for path in again:
        assert path.read_bytes() == (written / path.name).read_bytes()
    assert 4_500_000 < (written / "report.html").stat().st_size < 8_000_000


def test_a_run_nobody_attacked_says_how_to(store: Store, tmp_path: Path) -> None:
    run = store.run("one", ["protection=dct"], 0.8)
    (run.folder / "budget_shape.png").write_bytes(b"<svg onload=alert(1)>")
    Image.new("RGB", (8, 8)).save(run.folder / "roc.png")
    files = report.write(gathered.gather(store.root, "one"), tmp_path)
    assert [path.name for path in files] == ["report.html", "methods.csv", "attacks.csv"]
    made = Read(files[0].read_text())
    assert "attack one attack=" in made.text
    assert "fedveil simulate study=" not in made.text
    assert "nothing to plot" in made.text
    assert len(made.of("img")) == 1
    assert b64decode(made.of("img")[0]["src"].partition(",")[2]) == (run.folder / "roc.png").read_bytes()
    assert files[0].stat().st_size < 200_000  # no plots, no plotting library


def test_durations_of_client_level_runs_are_nowhere(store: Store, fake: Fake, tmp_path: Path) -> None:
    words = ["protection=none", "privacy.client.epsilon=8", "privacy.client.delta=1e-6", "privacy.client.clip=0.5",
             "train.clients=40"]  # fmt: skip
    store.run("secret", words, 0.8, [fake("linear", {"linked": 0.2}, seconds=4321.5)], wall_seconds=1234.5)
    store.run("open", ["protection=none"], 0.8, [fake("linear", {"linked": 0.2}, seconds=4321.5)], wall_seconds=1234.5)
    for name, shown in (("secret", False), ("open", True)):
        report.write(gathered.gather(store.root, name), tmp_path / name)
        text = (tmp_path / name / "report.html").read_text().partition('id="figures"')[0]
        assert ("20 min" in text) is ("72 min" in text) is shown
        assert ("4321.5" in (tmp_path / name / "attacks.csv").read_text()) is shown


def test_the_command_writes_beside_the_run_and_says_the_result(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    store.run("one", ["protection=dctdp", "protection.total_epsilon=8", "tracking=none"], 0.5)
    assert cli.main(["report", "one", f"runs.root={store.root}"]) == 0
    shown = capsys.readouterr().out
    assert "which is no better than guessing" in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 80 + len(str(store.root))
    assert {path.name for path in (store.root / "one/report").iterdir()} == {
        "report.html", "frontier.png", "methods.csv", "attacks.csv",
    }  # fmt: skip
    assert cli.main(["report", "onne", f"runs.root={store.root}"]) == 2
    assert "Did you mean 'one'" in capsys.readouterr().err


def test_the_files_are_told_to_whom_the_run_was_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, Any]] = []

    class Recording(tracking.Tracker):
        def start(self, info: tracking.RunInfo) -> None:
            told.append(("start", (info.run_id, info.hide_times, info.rounds)))

        def log_artifact(self, path: Path, folder: str = "") -> None:
            told.append((folder, path.name))

        def finish(self, status: str = "FINISHED") -> None:
            told.append(("finish", status))

    chosen: list[str] = []
    monkeypatch.setattr(tracking, "open_tracker", lambda settings, root: chosen.append(settings.name) or Recording())
    client = {"privacy.client.epsilon": "8", "privacy.client.delta": "1e-6", "privacy.client.clip": "0.5"}
    store.cell({"protection": "none", "tracking": "none", "train.clients": "40", **client}, accuracy=0.8)
    store.cell({"seed": "2"}, "failed", "no such folder")
    sweep = store.sweep()
    assert cli.main(["report", sweep, f"runs.root={store.root}"]) == 0
    assert chosen == ["none"]
    files = [("report", name) for name in ("report.html", "methods.csv", "attacks.csv")]
    assert told == [("start", (sweep, True, 2)), *files, ("finish", "FAILED")]
    began = (store.root / "sweep-fake-00/config.json").stat().st_mtime
    assert {path.stat().st_mtime for path in (store.root / sweep / "report").iterdir()} == {began}
    told.clear()
    assert cli.main(["report", sweep, f"runs.root={store.root}", "--out", str(store.root / "page")]) == 0
    assert told == []


def test_nothing_half_written_is_left(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.run("one", ["protection=dctdp"], 0.5)

    def full(path: Path, *_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(disk, "write_atomic", full)
    with pytest.raises(OSError, match="No space left"):
        report.write(gathered.gather(store.root, "one"), tmp_path / "report")
    assert not list(tmp_path.glob("report/*"))


def test_plotly_is_only_imported_where_it_draws() -> None:
    code = "import sys, fedveil.commands.report; print('plotly' in sys.modules, 'matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_draws_it_without_a_complaint(written: Path, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    common = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
              "--virtual-time-budget=10000", "--window-size=1280,2400", "--enable-logging=stderr"]  # fmt: skip
    shot, address = tmp_path / "page.png", (written / "report.html").as_uri()
    done = subprocess.run([*common, f"--screenshot={shot}", address], capture_output=True, text=True, timeout=300)
    assert not re.findall(r"CONSOLE.*(?:Refused|violates|Uncaught|Error).*", done.stderr)
    with Image.open(shot) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 100
    for place in range(7):  # every method's colour is to be seen
        colour = tuple(bytes.fromhex(plots.swatch(place)["colour"][1:]))
        assert (pixels == colour).all(1).sum() > 100
    drawn = subprocess.run([*common, "--dump-dom", address], capture_output=True, text=True, timeout=300).stdout
    assert drawn.count('class="main-svg"') >= 10
    assert drawn.count('class="point"') >= 50
    figures = Read(drawn).scripts[0]
    texts = [text for trace in json.loads(figures)["image"]["data"] for text in trace.get("text", [])]
    assert any("accuracy: 51.5 ± 0.7 % (2 seeds)" in text for text in texts)
