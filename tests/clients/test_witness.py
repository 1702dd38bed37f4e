"""An older vault, a second copy and a vault without its witness are refused; a crash at any moment shuts nobody out."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

import fedveil
from fedveil.engine import _flower
from fedveil.federation import instruction
from fedveil.federation.federation import Federation
from fedveil.federation.tensors import get_tensors
from fedveil.privacy.events import NonPrivate
from fedveil.privacy.ledger import Row
from fedveil_clients import app as client_app
from fedveil_clients import node, steps, vault_folder, witness
from fedveil_clients.vault import Vault
from fedveil_clients.witness import Witness

WORDS = (
    "study=quick", "tracking=none", "data.identities=8", "data.images_per_identity=4", "data.evaluation_identities=4",
    "data.evaluation_images=2", "data.pairs=8", "data.public_identities=4", "data.public_images=4",
    "protection=none", "model.width=8", "model.embedding=16", "train.clients=3", "train.rounds=9",
    "train.local.steps=1", "train.batch_size=6",
)  # fmt: skip
LEFT = NonPrivate("image", "updates", "nothing protects")


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(node.FILE, raising=False)


@pytest.fixture(scope="module")
def run():
    return Federation.of(WORDS)


def arrays(values):
    return ArrayRecord({name: Array(np.asarray(value)) for name, value in values.items()})


def asked(run, number=None, words=None, run_id="run"):
    """Ask the node that lies here: in round `number`, or at the roll call; return its answer's records."""
    _flower.identify()
    told = {"config": instruction.to_wire(run.settings), "run_id": run_id, "version": fedveil.__version__}
    content = {"instruction": ConfigRecord(told)}
    if number is not None:
        told = ConfigRecord({**told, "round": number})
        content = {"instruction": told, "tensors": arrays(get_tensors(run.backbone())), "state": arrays({})}
    message = Message(RecordDict(content), dst_node_id=2, message_type="query" if number is None else "train")
    _flower.number(message, "m1")
    own = {"client-id": "c0002", "vault-root": "vault", "floor": "none", **(words or {})}
    client_app._site.cache_clear()  # a node that was started anew
    return client_app.app(message, _flower.client_context(_flower.Settings(3, {}, own), 2)).content


def log():
    return Path("vault/refusals.log").read_text().splitlines()


def refused(content):
    assert list(content) == ["refusal"]
    return str(content.config_records["refusal"]["reason"])


def copy_of(name, to):
    shutil.copytree(name, to)


def brought_back(name, to="vault"):
    shutil.rmtree(to)
    shutil.copytree(name, to)


# --- through the node


def test_a_restored_older_vault_is_refused_in_every_message_and_the_owner_reads_why(run):
    assert "update" in asked(run, 1)
    copy_of("vault", "old")
    assert "update" in asked(run, 2)
    copy_of("vault", "new")
    brought_back("old")
    for number in (None, 2, 3):
        said = refused(asked(run, number))
        assert said == "This node's vault is not known to be its newest; its owner's log says why."
        assert "an older state of itself (1 of 2 answers)" in log()[-1]
    assert "--forgotten" in log()[-1]
    assert Vault(Path("vault")).ledger.rows() == Vault(Path("old")).ledger.rows()
    brought_back("new")
    assert "update" in asked(run, 3)


def test_an_older_ledger_alone_is_refused_too(run):
    assert "update" in asked(run, 1)
    shutil.copy("vault/ledger.sqlite", "old.sqlite")
    assert "update" in asked(Federation.of([*WORDS, "seed=2"]), 1, run_id="other")
    shutil.copy("old.sqlite", "vault/ledger.sqlite")
    refused(asked(run, 2))
    assert "lacks rows" in log()[-1]


def test_of_two_copies_of_a_vault_one_goes_on(run):
    assert "update" in asked(run, 1)
    copy_of("vault", "other")
    both = {"vault-witness": "seen"}
    Path("vault.witness").rename("seen")
    assert "update" in asked(run, 2, both)
    refused(asked(run, 2, {**both, "vault-root": "other"}))
    assert "an older state of itself" in Path("other/refusals.log").read_text()
    assert "update" in asked(run, 3, both)


def test_a_vault_without_its_witness_and_a_witness_without_its_vault_are_refused(run):
    assert "update" in asked(run, 1)
    Path("vault.witness").rename("elsewhere")
    refused(asked(run, 2))
    assert "is missing" in log()[-1]
    assert "--nothing-since" in log()[-1]
    Path("elsewhere").rename("vault.witness")
    shutil.rmtree("vault")
    for number in (None, 2):
        refused(asked(run, number))
        assert not Path("vault").exists()
    Vault(Path("vault")).owner_key()
    refused(asked(run, 2))
    assert "of another vault" in log()[-1]


def test_an_answer_leaves_after_both_have_seen_it(run, monkeypatch):
    """A crash at any write: the honest vault goes on, and the state before the answer that left does not."""
    assert "update" in asked(run, 1)
    writes = witness.runs.write_json
    for number, dies in enumerate((1, 2), start=2):
        left, answers = [dies], []

        def dying(path, value, private=False, left=left):
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
            writes(path, value, private)

        with monkeypatch.context() as patch:
            patch.setattr(witness.runs, "write_json", dying)
            with contextlib.suppress(KeyboardInterrupt):
                answers.append(asked(run, number))
        assert answers == []
        copy_of("vault", f"before {number}")
        assert "update" in asked(run, number)
        copy_of("vault", f"after {number}")
        brought_back(f"before {number}")
        assert refused(asked(run, number))
        brought_back(f"after {number}")


def test_the_first_answer_may_crash_too(run, monkeypatch):
    for dies in (1, 2, 3):
        for name in ("vault", "vault.witness"):
            shutil.rmtree(name, ignore_errors=True)
            Path(name).unlink(missing_ok=True)
        left, writes = [dies], witness.runs.write_json

        def dying(path, value, private=False, left=left, writes=writes):
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
            writes(path, value, private)

        with monkeypatch.context() as patch:
            patch.setattr(witness.runs, "write_json", dying)
            with contextlib.suppress(KeyboardInterrupt):
                asked(run, 1)
                pytest.fail("an answer left before its witness was written")
        assert "update" in asked(run, 1)


def test_a_witness_that_cannot_be_written_is_said_before_anything_is_made(run):
    Path("file").touch()
    for place, reason in (("vault/seen", "is in the vault"), ("file/seen", "cannot be written"), (".", "no file")):
        said = refused(asked(run, words={"vault-witness": place}))
        assert "vault-witness" in said
        assert str(Path.cwd()) not in said
        with pytest.raises(node.NodeError, match=reason):
            Witness(Path(place)).check(Vault(Path("vault")))
    assert not Path("vault").exists()


def test_a_full_disk_at_the_witness_keeps_the_answer_back(run, monkeypatch):
    assert "update" in asked(run, 1)
    writes = witness.runs.write_json

    def full(path, value, private=False):
        if path.name == "vault.witness":
            raise OSError(28, "No space left on device", str(path))
        writes(path, value, private)

    with monkeypatch.context() as patch:
        patch.setattr(witness.runs, "write_json", full)
        assert refused(asked(run, 2)) == "This node's vault-witness cannot be written."
    assert "No space left" in log()[-1]
    assert "update" in asked(run, 2)


def test_a_nodes_file_says_where_its_witness_is_from_its_own_folder(run, monkeypatch, tmp_path):
    """A vault that alone may be written to (a container) needs the word; its folder is made when it is missing."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "node.toml").write_text('vault-root = "vault"\nvault-witness = "seen/of the vault"\n')
    monkeypatch.setenv(node.FILE, str(own / "node.toml"))
    words = node.read(own / "node.toml")
    assert "client" in asked(run, words={**words, "client-id": "c0002"})
    assert "update" in asked(run, 1, words)
    assert (own / "seen" / "of the vault").stat().st_mode & 0o777 == 0o600
    assert (own / "seen").stat().st_mode & 0o777 == 0o700
    assert not (own / "vault.witness").exists()


def test_a_simulation_has_no_witness(run):
    words = {"simulated": True}
    assert "update" in asked(run, 1, words)
    assert not Path("vault.witness").exists()
    assert not Path("vault/sequence.json").exists()


def test_both_files_are_the_owners_alone_and_tell_no_count_of_pictures(run):
    assert "update" in asked(run, 1)
    for path in (Path("vault.witness"), Path("vault/sequence.json")):
        assert path.stat().st_mode & 0o777 == 0o600
    assert set(json.loads(Path("vault.witness").read_text())) == {"vault", "number", "head"}


# --- by itself


@pytest.fixture
def used(tmp_path):
    """Return a vault that has given three answers, its witness, and its state after each of them."""
    vault, seen = Vault(tmp_path / "vault"), Witness(tmp_path / "seen")
    vault.owner_key()
    seen.begin(vault)
    states = []
    for number in range(3):
        vault.ledger.append([Row(f"run{number}", "faces", "spent", LEFT)])
        seen.advance(vault)
        copy_of(vault.root, tmp_path / f"state {number}")
        states.append(tmp_path / f"state {number}")
    return vault, seen, states


def test_only_the_newest_state_is_accepted(used):
    vault, seen, states = used
    for number, state in enumerate(states):
        brought_back(state, vault.root)
        if number < 2:
            with pytest.raises(witness.OlderVault, match=f"older state of itself \\({number + 1} of 3"):
                seen.check(vault)
            with pytest.raises(witness.OlderVault):
                seen.advance(vault)
        else:
            assert seen.check(vault).number == 3


def test_an_older_witness_does_not_shut_its_vault_out(used, tmp_path):
    vault, seen, _ = used
    shutil.copy(seen.file, tmp_path / "older")
    for _ in range(5):
        seen.advance(vault)
    shutil.copy(tmp_path / "older", seen.file)
    assert seen.check(vault).number == 8


def test_a_copy_that_went_on_further_elsewhere_is_no_newer_state(used, tmp_path):
    """Its number is larger, and it has not seen what the first one has."""
    vault, seen, states = used
    shutil.copy(seen.file, tmp_path / "elsewhere")
    other = Vault(states[2])
    for _ in range(4):
        Witness(tmp_path / "elsewhere").advance(other)
    seen.advance(vault)
    with pytest.raises(witness.OlderVault, match="two copies"):
        seen.check(other)
    assert seen.check(vault).number == 4


@pytest.mark.parametrize("text", ["", "{", "[]", '{"vault": 1, "number": 1, "head": "a"}', '{"vault": "a"}'])
def test_a_damaged_witness_is_no_missing_one(used, text):
    vault, seen, _ = used
    seen.file.write_text(text)
    with pytest.raises(fedveil.checks.UserError, match="witness of a vault"):
        seen.check(vault)


def test_a_damaged_count_is_refused(used):
    vault, seen, _ = used
    (vault.root / vault_folder.SEQUENCE).write_text('{"number": 1, "heads": []}')
    with pytest.raises(fedveil.checks.UserError, match="count of a vault's answers"):
        seen.check(vault)


def test_steps_cannot_be_foreseen_and_the_list_stays_short(used, monkeypatch):
    vault, seen, states = used
    monkeypatch.setattr(witness, "_KEPT", 4)
    shutil.copy(seen.file, seen.file.with_name("same"))
    for _ in range(5):
        seen.advance(vault)
    Witness(seen.file.with_name("same")).advance(Vault(states[2]))
    found, other = steps.steps_of(vault), steps.steps_of(Vault(states[2]))
    assert len(set(found.heads)) == len(found.heads) == 4
    assert found.number == 8
    assert other.number == 4
    assert other.heads[-1] not in steps.steps_of(vault).heads
