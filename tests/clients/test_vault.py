"""The vault: permissions, the owner's key, and versions of the head that fit the coordinator's checkpoints."""

from __future__ import annotations

import os
import re
import shutil
import threading

import numpy as np
import pytest

from fedveil import checks, cli, runs
from fedveil.federation.instruction import BadInstruction
from fedveil_clients import vault as vaults
from fedveil_clients import vault_folder
from fedveil_clients.vault import Vault

TINY = (
    "data.identities=6", "data.images_per_identity=3", "data.evaluation_identities=10", "data.evaluation_images=3",
    "data.public_identities=6", "data.public_images=2", "data.pairs=40", "train.clients=2", "train.rounds=2",
    "train.local.steps=1", "train.batch_size=4", "evaluation.draws=1", "evaluation.bootstrap=0",
    "evaluation.reference=false", "protection.fit_steps=0", "tracking=none",
)  # fmt: skip


def mode(path):
    return path.stat().st_mode & 0o777


@pytest.fixture
def open_umask():
    old = os.umask(0o000)
    yield
    os.umask(old)


def test_folder_and_key_are_the_owners_alone(tmp_path, open_umask):
    vault = Vault(tmp_path / "deep" / "vault")
    key = vault.owner_key()
    assert len(key) == 32
    assert mode(vault.root) == 0o700
    assert mode(vault.root / "owner.key") == 0o600
    vault.heads("r", "c1").save(1, np.zeros((2, 3), np.float32))
    assert mode(vault.root / "heads" / "r" / "c1") == 0o700
    assert mode(next((vault.root / "heads" / "r" / "c1").iterdir())) == 0o600


def test_a_round_whose_end_is_there_began_before_whoever_lost_the_record(tmp_path):
    vault = Vault(tmp_path / "vault")
    assert not vault.begin("run", "c1", 2, "hash")
    vault.heads("run", "c1").save(2, np.zeros((2, 3), np.float32))
    (vault.root / "heads" / "run" / "c1" / "last").unlink()
    assert vault.begin("run", "c1", 2, "hash")
    assert not vault.begin("run", "c1", 3, "hash")


@pytest.mark.parametrize("umask", [0o000, 0o022])
@pytest.mark.parametrize("engine", ["inline", "pool"])
def test_after_a_run_everything_in_the_vault_is_its_owners_alone(tmp_path, monkeypatch, capsys, umask, engine):
    monkeypatch.chdir(tmp_path)
    old = os.umask(umask)
    try:
        assert cli.main(["simulate", *TINY, f"engine={engine}"]) == 0
    finally:
        os.umask(old)
    vault = tmp_path / ".fedveil" / "vault"
    found = {path: mode(path) for path in [vault, *vault.rglob("*")]}
    assert {path.suffix for path in found} >= {".key", ".sqlite", ".npy", ".npz"}
    assert {value for path, value in found.items() if path.is_file()} == {0o600}
    assert {value for path, value in found.items() if path.is_dir()} == {0o700}
    assert "closed to others" not in capsys.readouterr().err  # nothing was open for a moment


def test_an_existing_vault_is_closed_and_it_is_said_once(tmp_path, monkeypatch, capsys):
    (tmp_path / "vault" / "heads").mkdir(parents=True, mode=0o755)
    for name in ("owner.key", "ledger.sqlite", "heads/r1.npz"):
        (tmp_path / "vault" / name).write_bytes(b"x")
        (tmp_path / "vault" / name).chmod(0o644)
    (tmp_path / "outside").write_bytes(b"x")
    (tmp_path / "outside").chmod(0o644)
    (tmp_path / "vault" / "link").symlink_to(tmp_path / "outside")
    Vault(tmp_path / "vault").create()
    Vault(tmp_path / "vault").create()
    assert mode(tmp_path / "vault") == mode(tmp_path / "vault/heads") == 0o700
    assert mode(tmp_path / "vault/ledger.sqlite") == mode(tmp_path / "vault/heads/r1.npz") == 0o600
    assert mode(tmp_path / "outside") == 0o644
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert f"{tmp_path / 'vault'} and 4 more" in shown


def snapshot(folder):
    return {path: (path.lstat().st_mode, path.lstat().st_mtime_ns) for path in [folder, *folder.rglob("*")]}


def half_a_vault(root, *left):
    """Make a vault, as a run leaves it, and keep some of it."""
    vault = Vault(root)
    vault.owner_key()
    with vault.ledger.write():
        pass
    for name in ("copies/a.npy", "heads/run/c1/r1.npz", "accepted/run/configuration"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    for path in root.iterdir():
        if path.name not in left:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


ODD = {
    "photos": ("holds cat.png", lambda root: (root / "copies").mkdir(parents=True) or (root / "cat.png").touch()),
    "a file": ("is no folder", lambda root: root.write_bytes(b"x")),
    "a dead link": ("is no folder", lambda root: root.symlink_to(root.with_name("nowhere"))),
    "a folder as ledger": ("ledger.sqlite is no file", lambda root: (root / "ledger.sqlite").mkdir(parents=True)),
    "a key that is a pipe": ("owner.key is no file", lambda root: root.mkdir() or os.mkfifo(root / "owner.key")),
    "copies that are a file": ("copies is no folder", lambda root: root.mkdir() or (root / "copies").touch()),
    "only its ledger": ("owner.key is missing", lambda root: half_a_vault(root, "ledger.sqlite")),
    "all but its key": (
        "owner.key is missing", lambda root: half_a_vault(root, "ledger.sqlite", "copies", "heads", "accepted")
    ),
    "copies without a ledger": ("ledger.sqlite is missing", lambda root: half_a_vault(root, "owner.key", "copies")),
    "centres without a ledger": ("ledger.sqlite is missing", lambda root: half_a_vault(root, "owner.key", "heads")),
}


@pytest.mark.parametrize("what", ODD)
def test_a_folder_that_is_no_vault_or_half_of_one_is_refused_and_left_alone(tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    reason, make = ODD[what]
    make(tmp_path / "place")
    monkeypatch.setattr(vaults, "_WALKED", set())
    before = snapshot(tmp_path)
    vault, simulation = Vault(tmp_path / "place"), {"vault-root": str(tmp_path / "place")}
    for ask in (vault.owner_key, vault.known_identity, lambda: vault_folder.usable(simulation)):
        with pytest.raises(checks.UserError, match=re.escape(reason)):
            ask()
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("door", [["simulate"], ["sweep", "seed=1,2"]])
def test_a_run_over_a_folder_of_something_else_is_refused_before_it_begins(tmp_path, monkeypatch, capsys, door):
    monkeypatch.chdir(tmp_path)
    ODD["photos"][1](tmp_path / "photos")
    before = snapshot(tmp_path)
    assert cli.main([*door, *TINY, "vault.root=photos"]) == 2
    assert "holds cat.png" in capsys.readouterr().err
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("left", ["owner.key", "owner.key ledger.sqlite", "owner.key ledger.sqlite heads"])
def test_what_a_vault_may_lose_it_may_be_without(tmp_path, left):
    half_a_vault(tmp_path / "vault", *left.split())
    (tmp_path / "vault" / ".owner.key.x").touch()
    (tmp_path / "vault" / "note.txt").touch()
    assert len(Vault(tmp_path / "vault").owner_key()) == 32


@pytest.mark.parametrize(
    ("vault", "faces"), [("faces", "faces"), ("faces/vault", "faces"), ("a", "a/faces"), ("x", "./x/")]
)
def test_a_vault_and_the_faces_are_apart(tmp_path, monkeypatch, capsys, vault, faces):
    monkeypatch.chdir(tmp_path)
    (tmp_path / faces).mkdir(parents=True)
    before = snapshot(tmp_path)
    words = ["data=folder", f"data.root={faces}", "data.evaluation=procedural", f"vault.root={vault}", "tracking=none"]
    assert cli.main(["simulate", *words]) == 2
    assert "keep them apart" in capsys.readouterr().err
    (tmp_path.parent / "node.toml").write_text(
        f'client-id = "c0001"\nvault-root = "{tmp_path / vault}"\ndata-root = "{tmp_path / faces}"\n'
    )
    assert cli.main(["node", "check", "../node.toml", *words[:-2]]) == 2
    assert "keep them apart" in capsys.readouterr().err
    assert snapshot(tmp_path) == before


def test_an_open_vault_of_another_user_is_refused(tmp_path, monkeypatch):
    (tmp_path / "vault").mkdir(mode=0o755)
    monkeypatch.setattr(vault_folder.os, "geteuid", lambda: (tmp_path / "vault").stat().st_uid + 1)
    with pytest.raises(checks.UserError, match=r"belongs to another user .*chmod -R go= "):
        Vault(tmp_path / "vault").create()
    assert mode(tmp_path / "vault") == 0o755


def test_a_key_is_whole_or_not_there(tmp_path, monkeypatch):
    """A part of a key would be refused for ever, and its owner would think that the vault is lost."""

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs.os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        Vault(tmp_path / "vault").owner_key()
    assert caught.value.filename == str(tmp_path / "vault" / "owner.key")
    assert list((tmp_path / "vault").iterdir()) == []
    monkeypatch.undo()
    assert len(Vault(tmp_path / "vault").owner_key()) == 32


DAMAGED_HEADS = {
    "empty": b"",
    "text": b"no archive \xff",
    "half": runs.pack({"centres": np.zeros((8, 9), np.float32)}, {})[:200],
    "other": runs.pack({"weights": np.zeros((2, 3), np.float32)}, {}),
    "type": runs.pack({"centres": np.zeros((2, 3), np.int64)}, {}),
    "shape": runs.pack({"centres": np.zeros(3, np.float32)}, {}),
    "not finite": runs.pack({"centres": np.full((2, 3), np.nan, np.float32)}, {}),
    "description": runs.pack({"centres": np.zeros((2, 3), np.float32)}, ["no block"]),
}


@pytest.mark.parametrize("how", DAMAGED_HEADS)
def test_damaged_class_centres_are_named_with_the_remedy(tmp_path, how):
    heads = Vault(tmp_path).heads("run", "c1")
    heads.save(1, centres(1))
    (heads.folder / "r000001.npz").write_bytes(DAMAGED_HEADS[how])
    said = r"r000001\.npz is not a readable file of class centres: .*Restore the vault"
    with pytest.raises(checks.UserError, match=said):
        heads.before(2)


def test_the_key_is_stable_and_another_vault_has_another(tmp_path):
    assert Vault(tmp_path / "a").owner_key() == Vault(tmp_path / "a").owner_key()
    assert Vault(tmp_path / "a").owner_key() != Vault(tmp_path / "b").owner_key()


@pytest.mark.parametrize("content", [b"", b"short", bytes(33)])
def test_a_corrupt_key_is_refused_with_its_path_and_never_replaced(tmp_path, monkeypatch, content):
    monkeypatch.setattr("fedveil_clients.vault.time.sleep", lambda _: None)
    (tmp_path / "owner.key").write_bytes(content)
    with pytest.raises(checks.UserError, match=r"owner\.key"):
        Vault(tmp_path).owner_key()
    assert (tmp_path / "owner.key").read_bytes() == content


def centres(value):
    return np.full((2, 3), value, np.float32)


def versions(heads):
    return sorted(path.name for path in heads.folder.iterdir())


def test_a_round_reads_the_newest_version_before_it(tmp_path):
    heads = Vault(tmp_path).heads("run", "c1")
    assert heads.before(1) is None
    for joined in (1, 3, 7):
        heads.save(joined, centres(joined))
    assert heads.before(7)[0, 0] == 3
    assert heads.before(8)[0, 0] == 7
    assert heads.before(100)[0, 0] == 7
    assert versions(heads) == ["r000003.npz", "r000007.npz"]


def test_a_round_run_again_reads_what_it_read_before(tmp_path):
    heads = Vault(tmp_path).heads("run", "c1")
    heads.save(1, centres(1))
    heads.save(2, centres(2))  # the coordinator died before it had checkpointed round 2
    assert heads.before(2)[0, 0] == 1
    heads.save(2, centres(2.5))
    assert heads.before(2)[0, 0] == 1
    assert heads.before(3)[0, 0] == 2.5


def test_a_run_is_accepted_with_one_value_of_each_kind_and_never_with_another(tmp_path):
    vault = Vault(tmp_path)
    vault.same_run("run", {"configuration": "a"})
    assert not (tmp_path / "accepted").exists()  # asking makes nothing
    vault.accepted("run", {"configuration": "a", "state in stage 0": "b"})
    vault.accepted("run", {"configuration": "a", "state in stage 1": "c"})
    vault.accepted("other", {"configuration": "b"})
    for other in ({"configuration": "b"}, {"configuration": "a", "state in stage 0": "c"}):
        for ask in (vault.same_run, vault.accepted):
            with pytest.raises(BadInstruction, match="Run run was accepted with another"):
                ask("run", other)
    vault.same_run("run", {"configuration": "a", "state in stage 0": "b", "state in stage 1": "c"})
    (tmp_path / "accepted" / "other" / "configuration").write_bytes(b"")
    with pytest.raises(checks.UserError, match=r"other/configuration is damaged: it holds no hash\. Restore the vault"):
        vault.same_run("other", {"configuration": "b"})
    assert {mode(path) for path in (tmp_path / "accepted").rglob("*") if path.is_file()} == {0o600}
    assert {mode(path) for path in (tmp_path / "accepted").rglob("*") if path.is_dir()} == {0o700}


def test_of_two_questions_at_once_the_second_sees_the_first(tmp_path):
    vault, said = Vault(tmp_path), []

    def second():
        try:
            vault.begin("run", "c1", 1, "other tensors")
        except BadInstruction as error:
            said.append(str(error))

    folder = tmp_path / "heads" / "run" / "c1"
    folder.mkdir(parents=True)
    with vault_folder.alone(folder):
        worker = threading.Thread(target=second)
        worker.start()
        worker.join(0.2)
        assert worker.is_alive()  # it waits, whatever it has looked at
        (folder / "last").write_text("1 these tensors\n")
    worker.join(30)
    assert "again with another configuration, state or other tensors" in said[0]


def test_runs_and_clients_have_heads_of_their_own(tmp_path):
    vault = Vault(tmp_path)
    vault.heads("run", "c1").save(1, centres(1))
    assert vault.heads("run", "c2").before(2) is None
    assert vault.heads("other", "c1").before(2) is None


def test_an_interrupted_save_leaves_the_old_version(tmp_path, monkeypatch):
    heads = Vault(tmp_path).heads("run", "c1")
    heads.save(1, centres(1))

    def crash(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs.os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        heads.save(2, centres(2))
    monkeypatch.undo()
    assert heads.before(3)[0, 0] == 1
    assert versions(heads) == ["r000001.npz"]
