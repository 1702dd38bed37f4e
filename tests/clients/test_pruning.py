"""Pruning takes class centres and copies of ended runs, never what refuses a second answer, and no noise is new."""

from __future__ import annotations

import datetime
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

import fedveil
from fedveil import checks, cli
from fedveil.engine import _flower
from fedveil.federation import instruction
from fedveil.federation.federation import Federation
from fedveil.federation.tensors import get_tensors
from fedveil_clients import app as client_app
from fedveil_clients import asked, node, pruning, sites
from fedveil_clients.vault import Vault

WORDS = (
    "study=quick", "tracking=none", "data.identities=8", "data.images_per_identity=4", "data.evaluation_identities=4",
    "data.evaluation_images=2", "data.pairs=8", "data.public_identities=4", "data.public_images=4",
    "protection.fit_steps=0", "protection.init=zeros", "model.width=8", "model.embedding=16", "train.clients=3",
    "train.rounds=2", "train.local.steps=1", "train.batch_size=6",
)  # fmt: skip
OTHER = (*WORDS, "protection.total_epsilon=5")


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(node.FILE, raising=False)
    Path("node.toml").write_text('client-id = "c0002"\nvault-root = "vault"\nfloor = "dctdp"\n')


def fitted(run):
    public = run.split.public
    return {k: v.numpy() for k, v in run.protection.fit(public.images(), public.labels, run.settings.seed).items()}


RUNS = {words: (Federation.of(words), fitted(Federation.of(words))) for words in (WORDS, OTHER)}


def arrays(values):
    return ArrayRecord({name: Array(np.asarray(value)) for name, value in values.items()})


def ask(number, run_id="run", words=WORDS):
    _flower.identify()
    run, state = RUNS[words]
    told = {"config": instruction.to_wire(run.settings), "run_id": run_id, "version": fedveil.__version__}
    content = {"instruction": ConfigRecord(told)}
    if number is not None:
        told = ConfigRecord({**told, "round": number})
        content = {"instruction": told, "tensors": arrays(get_tensors(run.backbone())), "state": arrays(state)}
    message = Message(RecordDict(content), dst_node_id=2, message_type="query" if number is None else "train")
    _flower.number(message, "m1")
    own = {"client-id": "c0002", "vault-root": "vault", "floor": "dctdp"}
    client_app._site.cache_clear()
    return client_app.app(message, _flower.client_context(_flower.Settings(3, {}, own), 2)).content


def refused(content):
    return str(content.config_records["refusal"]["reason"])


def pruned(*options):
    return cli.main(["node", "prune", "node.toml", "--yes", *options])


def files(kind):
    return sorted(path.relative_to("vault").as_posix() for path in Path("vault").rglob(kind))


def features(words, run_id):
    run, state = RUNS[words]
    here = node.here(run, {"client-id": "c0002", "vault-root": "vault"})
    tensors = {name: torch.from_numpy(np.asarray(value)) for name, value in state.items()}
    return sites.open_site(run, run_id, here.client_id, here.node, tensors).features(np.arange(4), 0)


def test_a_run_whose_rounds_were_all_asked_is_over_and_refused_from_then_on(capsys):
    for number in (1, 2):
        assert "update" in ask(number)
    vault = Vault(Path("vault"))
    rows, last = vault.ledger.rows(), Path("vault/heads/run/c0002/last").read_bytes()
    assert pruned() == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "ended: run (asked in all of its 2 rounds)" in out
    assert files("*.npy") == files("*.npz") == []
    assert vault.ledger.rows() == rows
    assert Path("vault/heads/run/c0002/last").read_bytes() == last
    for number in (None, 1, 2):
        assert "Run run has ended at this owner" in refused(ask(number))
    assert files("*.npy") == files("*.npz") == []
    assert vault.ledger.rows() == rows


def test_copies_are_drawn_again_bit_by_bit_and_nothing_is_spent():
    for number in (1, 2):
        assert "update" in ask(number)
    before = features(WORDS, "run")
    rows = Vault(Path("vault")).ledger.rows()
    assert pruned() == 0
    assert torch.equal(features(WORDS, "another"), before)
    assert [row.status for row in Vault(Path("vault")).ledger.rows()[len(rows) :]] == ["reused"]


def test_what_a_run_that_goes_on_reads_stays():
    for number in (1, 2):
        assert "update" in ask(number)
    assert "update" in ask(1, "going-on", OTHER)
    both = files("*.npy")
    assert pruned() == 0
    (kept,) = files("*.npy")
    assert kept in both
    assert files("*.npz") == ["heads/going-on/c0002/r000001.npz"]
    drawn = Path("vault", kept).stat().st_mtime_ns
    assert "update" in ask(2, "going-on", OTHER)
    assert files("*.npy") == [kept]
    assert Path("vault", kept).stat().st_mtime_ns == drawn


def test_two_runs_of_one_mechanism_share_their_copies():
    for number in (1, 2):
        assert "update" in ask(number)
    assert "update" in ask(1, "shares")
    copies = files("*.npy")
    assert pruned() == 0
    assert files("*.npy") == copies
    assert "update" in ask(2, "shares")


def test_a_run_in_the_middle_is_kept_unless_it_is_old_or_named(capsys):
    assert "update" in ask(1)
    assert pruned() == 0
    assert pruned("--older-than", "90d") == 0
    assert "kept: run" in capsys.readouterr().out
    assert files("*.npz")
    vault, past = Vault(Path("vault")), time.time() - 100 * 86400
    for path in [*Path("vault/heads/run").rglob("*"), *Path("vault/accepted/run").rglob("*")]:
        os.utime(path, (past, past))
    for path in (Path("vault/heads/run"), Path("vault/accepted/run")):
        os.utime(path, (past, past))
    quarter = datetime.timedelta(days=90)
    assert pruning.plan(vault, quarter).kept == ("run",)  # its record says when it was asked
    Path("vault/asked/run.json").unlink()
    assert [one.run_id for one in pruning.plan(vault, quarter).runs] == ["run"]
    assert pruning.plan(vault, datetime.timedelta(days=200)).kept == ("run",)
    assert pruned("--run", "run") == 0
    assert files("*.npz") == []
    assert "has ended" in refused(ask(2))


def test_a_question_in_a_runs_name_cannot_end_it(capsys):
    """A roll call with fewer rounds would have the run look finished, and pruning take what it goes on from."""
    assert "update" in ask(1)
    shorter = (*WORDS, "train.rounds=1")
    RUNS[shorter] = Federation.of(shorter), RUNS[WORDS][1]
    assert "client" in ask(None, words=shorter)
    (record,) = asked.runs_of(Vault(Path("vault")))
    assert (record.scheduled, record.configuration) == (2, instruction.digest(RUNS[WORDS][0]))
    assert pruned() == 0
    assert "kept: run" in capsys.readouterr().out
    assert "update" in ask(2)


def test_a_dry_run_and_a_no_change_nothing(capsys, monkeypatch):
    for number in (1, 2):
        assert "update" in ask(number)
    before = sorted(Path("vault").rglob("*"))
    assert cli.main(["node", "prune", "node.toml", "--dry-run"]) == 0
    assert "MB would be free" in " ".join(capsys.readouterr().out.split())
    assert cli.main(["node", "prune", "node.toml"]) == 2
    assert "--yes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert cli.main(["node", "prune", "node.toml"]) == 1
    assert sorted(Path("vault").rglob("*")) == before
    assert "update" in ask(2)


def test_an_interrupted_pruning_is_refused_and_done_again(monkeypatch):
    for number in (1, 2):
        assert "update" in ask(number)
    vault = Vault(Path("vault"))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pruning.prune(vault, pruning.plan(vault))
    assert "has ended" in refused(ask(2))
    pruning.prune(vault, pruning.plan(vault))
    assert files("*.npy") == files("*.npz") == []


@pytest.mark.parametrize("words", [["--older-than", "soon"], ["--older-than", "1y"], ["--run", "runn"]])
def test_a_mistyped_age_or_run_removes_nothing(words, capsys):
    assert "update" in ask(1)
    assert pruned(*words) == 2
    assert words[1] in capsys.readouterr().err or "older-than" in words[0]
    assert files("*.npz")


def test_no_vault_is_no_place_to_prune():
    with pytest.raises(checks.UserError, match="no vault"):
        pruning.plan(Vault(Path("vault")))
