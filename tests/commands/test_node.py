"""`fedveil node check`: what a node would say, by the code that says it; nothing is written."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from fedveil import cli
from fedveil.data.sources.procedural import draw_faces
from fedveil_clients import adopting
from fedveil_clients.vault import Vault
from fedveil_clients.witness import Witness

QUICK = ["data=folder", "data.size=32", "data.evaluation=procedural", "train.clients=2", "tracking=none",
         "protection.fit_steps=0", "protection.init=zeros", "protection.total_epsilon=8", "model.width=8",
         "model.embedding=16", "train.rounds=1", "train.local.steps=1", "evaluation.draws=1",
         "evaluation.bootstrap=0", "evaluation.reference=false", "data.pairs=20"]  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FEDVEIL_NODE", raising=False)
    faces = draw_faces(1, 0, 4, 3, 32)
    for number, pixels in enumerate(faces.images()):
        path = Path("faces", faces.names[faces.labels[number]], f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.transpose(1, 2, 0)).save(path)
    Path("faces", "p0000", "broken.png").write_bytes(b"no picture")
    Path("node.toml").write_text(
        'client-id = "c0001"\ndata-root = "faces"\nvault-root = "vault"\nfloor = "dctdp"\nmax-epsilon = 8\n'
        "max-total-epsilon = 20\n"
    )
    return tmp_path


def snapshot():
    """Every file's name, mode, time and content."""
    found = {}
    for path in sorted(Path(".").rglob("*")):
        state = path.lstat()
        data = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path)] = (state.st_mode, state.st_mtime_ns, data)
    return found


def checked(capsys, *words):
    before = snapshot()
    status = cli.main(["node", "check", "node.toml", *words])
    shown = capsys.readouterr()
    assert snapshot() == before
    assert max(map(len, shown.out.splitlines()), default=0) <= 80
    return status, shown.out, shown.err


def test_it_says_what_is_there_what_would_leave_and_the_verdict(place, capsys):
    status, out, _ = checked(capsys, *QUICK)
    words = " ".join(out.split())
    assert status == 0
    assert "verdict: accepted" in words
    assert "4 people and 12 pictures would be used" in words
    assert "broken.png" in words
    assert "methods: dctdp" in words
    assert "epsilon of at most 20 at delta 1e-05 for one image over all runs" in words
    assert "image: epsilon = 8 at delta = 0 (replace-one), against anyone who sees the noisy copies" in words
    assert "identity: epsilon = 160" in words
    assert "is not there" in words
    assert "nothing is spent so far" in words


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["protection.total_epsilon=9"], "at most 8"),
        (["privacy.test_seed=1"], "test_seed"),
        (["partition.max_identities=1"], "one person"),
    ],
)
def test_it_refuses_as_the_node_would_and_says_why(place, capsys, words, reason):
    status, out, _ = checked(capsys, *QUICK, *words)
    assert status == 1
    assert reason in " ".join(out.split()).partition("verdict: refused: ")[2]


def test_a_bundle_and_a_runs_configuration_are_read(place, capsys):
    assert cli.main(["bundle", "app", *QUICK]) == 0
    assert checked(capsys, "--config", "app")[0] == 0
    assert cli.main(["simulate", *QUICK, "data.root=faces", "--plain"]) == 0
    capsys.readouterr()
    (config,) = Path("runs").glob("*/config.json")
    assert checked(capsys, "--config", str(config))[0] == 0
    for wrong in ("faces", "node.toml", "missing"):
        status, _, err = checked(capsys, "--config", wrong)
        assert (status, "--config" in err) == (2, True)
    assert checked(capsys, "--config", "app", "seed=2")[0] == 2


def test_what_is_spent_already_counts_and_what_would_be_left_is_said(place, capsys):
    """The vault has taken part in one run at 8; a second mechanism at 8 fits into 20, a third does not."""
    from fedveil.federation import instruction
    from fedveil.federation.federation import Federation
    from fedveil_clients import node
    from fedveil_clients.sites import open_site

    def joined(run_id, *words):
        run = instruction.from_wire(instruction.to_wire(Federation.of([*QUICK, "data.root=faces", *words]).settings))
        here = node.here(run, node.read(Path("node.toml")))
        public = here.home.split.public
        state = run.protection.fit(public.images(), public.labels, 1)
        open_site(run, run_id, here.client_id, here.node, state)

    joined("first")
    status, out, _ = checked(capsys, *QUICK)
    spent, _, after = " ".join(out.split()).partition("spent so far:")[2].partition("after this run")
    assert status == 0
    assert "epsilon = 8 at" in spent
    assert "epsilon = 16 at" in after
    assert "identity " in out
    joined("second", "protection.cap=50")
    status, out, _ = checked(capsys, *QUICK)
    assert status == 1
    assert "over all runs; 16 is spent and this run would make it 24" in " ".join(out.split())


def test_a_vault_that_others_can_use_is_named(place, capsys):
    os.mkdir("vault", 0o755)
    os.chmod("vault", 0o755)
    _, out, _ = checked(capsys, *QUICK)
    assert "others can use" in " ".join(out.split())
    assert "mode 755, without a key" in out


def test_a_client_level_schedule_is_what_would_be_reserved(place, capsys):
    Path("node.toml").write_text('client-id = "c0001"\ndata-root = "faces"\nvault-root = "vault"\n'
                                 "max-client-epsilon = 4\n")  # fmt: skip
    words = [*QUICK, "train.clients=10", "privacy.client.delta=1e-5"]
    status, out, _ = checked(capsys, *words, "privacy.client.epsilon=3")
    assert status == 0
    assert "reserve at client level" in out
    assert "- client: epsilon = " in out
    status, out, _ = checked(capsys, *words, "privacy.client.epsilon=5")
    assert status == 1
    assert "client-level epsilon of at most 4" in " ".join(out.split())


def test_a_mistyped_word_is_refused_with_the_nearest(place, capsys):
    Path("node.toml").write_text("max-epsilonn = 8\n")
    status, _, err = checked(capsys, *QUICK)
    assert status == 2
    assert "Did you mean 'max-epsilon'" in err


@pytest.mark.parametrize("name", ["ledger.sqlite", "owner.key"])
@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: Path(path).write_bytes(b"SQLite format 3")])
def test_a_broken_vault_is_refused_by_its_own_name_as_the_run_refuses_it(place, monkeypatch, capsys, name, make):
    monkeypatch.setattr("fedveil_clients.vault.time.sleep", lambda _: None)
    Vault(place / "vault").owner_key()
    Path("vault", name).unlink(missing_ok=True)
    make(f"vault/{name}")
    status, out, _ = checked(capsys, *QUICK)
    words = "".join(out.split())
    assert status == 1
    assert f"verdict:refused:{place}/vault/{name}" in words
    assert "fedveil-check-" not in words


def test_a_vault_that_a_node_would_not_answer_with_is_no_yes(place, capsys):
    """An older state is refused in every message, and a loss that was booked as unknown stands for new accounts too."""
    vault, seen = Vault(Path("vault")), Witness(Path("vault.witness"))
    vault.owner_key()
    seen.begin(vault)
    seen.advance(vault)
    assert checked(capsys, *QUICK)[0] == 0
    shutil.copytree("vault", "old")
    seen.advance(vault)
    shutil.rmtree("vault")
    Path("old").rename("vault")
    status, out, _ = checked(capsys, *QUICK)
    assert status == 1
    assert "an older state of itself (1 of 2 answers)" in " ".join(out.split())
    adopting.adopt(vault, seen, forgotten=True)
    status, out, _ = checked(capsys, *QUICK)
    assert status == 1
    assert "no finite amount" in " ".join(out.split())
