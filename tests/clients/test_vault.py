"""The vault: permissions, the owner's key, and versions of the head that fit the coordinator's checkpoints."""

from __future__ import annotations

import os

import numpy as np
import pytest

from fedveil import checks, runs
from fedveil_clients.vault import Vault


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


def test_an_existing_folder_is_closed(tmp_path):
    (tmp_path / "vault").mkdir(mode=0o755)
    Vault(tmp_path / "vault").create()
    assert mode(tmp_path / "vault") == 0o700


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
