"""`fedveil node page`: what was asked, accepted, refused, spent and left is what the node did; nothing is written."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

import fedveil
from fedveil import cli
from fedveil.engine import _flower
from fedveil.federation import instruction
from fedveil.federation.federation import Federation
from fedveil.federation.tensors import get_tensors
from fedveil_clients import app as client_app
from fedveil_clients import asked as memory
from fedveil_clients import node
from fedveil_clients.vault import Vault

WORDS = (
    "study=quick", "tracking=none", "data.identities=8", "data.images_per_identity=4", "data.evaluation_identities=4",
    "data.evaluation_images=2", "data.pairs=8", "data.public_identities=4", "data.public_images=4",
    "protection.fit_steps=0", "protection.init=zeros", "protection.total_epsilon=8", "model.width=8",
    "model.embedding=16", "train.clients=3", "train.rounds=4", "train.local.steps=1", "train.batch_size=6",
)  # fmt: skip
EVIL = "<script>alert(1)</script>\x1b[2J\u202e"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("node.toml").write_text(
        'client-id = "c0002"\nvault-root = "vault"\nfloor = "dctdp"\nmax-epsilon = 8\nmax-total-epsilon = 20\n'
        'data-set = "hospital"\n'
    )
    monkeypatch.setenv(node.FILE, str(tmp_path / "node.toml"))


@pytest.fixture(scope="module")
def run():
    return Federation.of(WORDS)


@pytest.fixture(scope="module")
def state(run):
    public = run.split.public
    return {k: v.numpy() for k, v in run.protection.fit(public.images(), public.labels, run.settings.seed).items()}


def arrays(values):
    return ArrayRecord({name: Array(np.asarray(value)) for name, value in values.items()})


def ask(run, state, number=None, run_id="run", words=None, **changes):
    _flower.identify()
    told = {"config": instruction.to_wire(run.settings), "run_id": run_id, "version": fedveil.__version__, **changes}
    content = {"instruction": ConfigRecord(told)}
    if number is not None:
        told = ConfigRecord({**told, "round": number})
        content = {"instruction": told, "tensors": arrays(get_tensors(run.backbone())), "state": arrays(state)}
    message = Message(RecordDict(content), dst_node_id=2, message_type="query" if number is None else "train")
    _flower.number(message, "m1")
    return client_app.app(message, _flower.client_context(_flower.Settings(3, {}, words or {}), 2)).content


def snapshot():
    return {path: (path.lstat().st_mtime_ns, path.read_bytes()) for path in Path().rglob("*") if path.is_file()}


def shown(capsys, *options):
    before = snapshot()
    assert cli.main(["node", "page", "node.toml", *options]) == 0
    assert {path: data for path, data in snapshot().items() if path in before} == before
    out = capsys.readouterr().out
    return out, " ".join(out.split())


def test_an_owner_without_a_vault_reads_its_refusals_and_its_words(run, state, capsys):
    bare = Federation.of([*(word for word in WORDS if not word.startswith("protection.")), "protection=none"])
    ask(bare, {}, run_id="bare")
    out, words = shown(capsys)
    assert not Path("vault").exists()
    assert "bare: refused" in words
    assert "the owner's floor accepts ['dctdp'], this run has 'none'" in words
    assert "is not there" in words
    assert "nothing is spent" in words
    assert "floor: dctdp" in words
    assert max(map(len, out.splitlines())) <= 80 or "/" in max(out.splitlines(), key=len)


def test_what_was_asked_accepted_refused_spent_and_left(run, state, capsys):
    assert "client" in ask(run, state)
    for number in (1, 3):
        assert "update" in ask(run, state, number)
    assert "refusal" in ask(run, state, 2)
    assert "refusal" in ask(Federation.of([*WORDS, "protection.total_epsilon=9"]), state, run_id="dear")
    assert "refusal" in ask(run, state, run_id="old", version=EVIL)
    assert "refusal" in ask(run, state, run_id="../..")
    assert "client" in ask(run, state, run_id="later")
    out, words = shown(capsys, "--json", "page.json", "--html", "page.html")
    found = json.loads(Path("page.json").read_text())
    runs = {one["run_id"]: one for one in found["runs"]}
    assert {name: one["state"] for name, one in runs.items()} == {
        "run": "accepted", "dear": "refused", "old": "refused", "later": "asked"
    }  # fmt: skip
    first = runs["run"]
    assert (first["rounds_asked"], first["rounds_scheduled"]) == (2, 4)
    assert first["configuration"] == instruction.digest(run)
    assert first["first"] <= first["last"]
    assert runs["dear"]["configuration"] not in ("", first["configuration"])
    assert [line["reason"] for line in first["refusals"]] == [
        "Round 2 of run run was asked after round 3; rounds go forward."
    ]  # fmt: skip
    assert "asked in 2 of 4 rounds" in words
    assert len(found["unnamed_refusals"]) == 1
    (account,) = found["accounts"]
    assert account["data_set"] == "hospital"
    (limit,) = account["limits"]
    assert (limit["spent"], limit["left"], limit["delta"], limit["unit"]) == (8.0, 12.0, 1e-5, "image")
    assert "8 of 20 is used, 12 is left" in words
    assert "image: epsilon = 8 at delta = 0 (replace-one), against anyone who sees the noisy copies" in words
    assert found["vault"]["answers"] == 2
    assert "no backup of the vault was ever made" in words
    assert "\x1b" not in out
    for name in ("page.json", "page.html"):
        assert Path(name).stat().st_mode & 0o777 == 0o600


class Page(HTMLParser):
    """Collects what a browser would load or run."""

    def __init__(self):
        super().__init__()
        self.tags, self.loads = set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href") and not value.startswith("#")]


def test_the_page_loads_nothing_and_what_a_coordinator_wrote_is_text(run, state, capsys):
    ask(run, state)
    ask(run, state, run_id="evil", version=EVIL)
    shown(capsys, "--html", "page.html")
    text = Path("page.html").read_text()
    page = Page()
    page.feed(text)
    assert "script" not in page.tags
    assert page.loads == []
    assert "default-src 'none'" in html.unescape(text)
    assert "&lt;script&gt;" in text
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_the_words_that_protect_little_are_warnings(capsys):
    Path("node.toml").write_text('client-id = "c0002"\nvault-root = "vault"\nallow-test-seed = true\n')
    Vault(Path("vault")).owner_key()
    Path("vault").chmod(0o755)
    _, words = shown(capsys)
    for warning in ("no floor and no limit", "fixed noise is accepted", "others can use 1 of", "no backup"):
        assert warning in words


def test_a_node_without_a_vault_in_its_words_is_told_the_word(capsys):
    Path("node.toml").write_text('client-id = "c0002"\n')
    assert cli.main(["node", "page", "node.toml"]) == 2
    assert "vault-root" in capsys.readouterr().err


def test_a_broken_or_older_vault_is_the_first_thing_that_is_said(run, state, capsys):
    assert "update" in ask(run, state, 1)
    Path("vault.witness").unlink()
    _, words = shown(capsys)
    assert re.search(r"warnings ! The vault \S+ has given 1 answers and its witness \S+ is missing", words)
    Path("vault/ledger.sqlite").write_bytes(b"SQLite format 3")
    _, words = shown(capsys)
    assert "nothing can be said of what is spent" in words


def test_who_asks_under_ever_new_names_fills_no_disk_and_an_accepted_run_stays(run, state, monkeypatch):
    monkeypatch.setattr(memory, "MOST", 5)
    assert "update" in ask(run, state, 1, run_id="kept")
    for number in range(12):
        ask(run, state, run_id=f"r{number}", version="9")
    found = memory.runs_of(Vault(Path("vault")))
    assert len(found) <= 6
    assert "kept" in {one.run_id for one in found}
    assert {path.stat().st_mode & 0o777 for path in Path("vault/asked").iterdir()} == {0o600}


def test_a_flood_of_names_does_not_bury_what_was_accepted(run, state, capsys):
    assert "update" in ask(run, state, 1)
    with Path("vault/refusals.log").open("a") as log:
        log.writelines(f"2026-01-{1 + n // 100:02}T00:00:00+00:00 run n{n:04}: no\n" for n in range(900))
    _, words = shown(capsys, "--html", "page.html", "--json", "page.json")
    found = json.loads(Path("page.json").read_text())
    assert [one["run_id"] for one in found["runs"]] == [*(f"n{n:04}" for n in range(700, 900)), "run"]
    assert found["runs_left_out"] == 700
    assert "runs that were asked: 901" in words
    assert "700 more that were never accepted" in words
    assert "700 more that were never accepted" in Path("page.html").read_text()


def test_a_damaged_record_of_a_run_costs_no_answer(run, state, capsys):
    assert "update" in ask(run, state, 1)
    Path("vault/asked/run.json").write_text("{")
    assert "update" in ask(run, state, 2)
    Path("vault/asked/run.json").write_text("[]")
    shown(capsys)


def test_a_simulation_keeps_no_record(run, state):
    words = {"client-id": "c0002", "vault-root": "vault", "simulated": True}
    assert "update" in ask(run, state, 1, words=words)
    assert "refusal" in ask(run, state, 1, words=words, version="9")
    assert not Path("vault/asked").exists()
