"""A vault as one file and back: the same noise, nothing forgotten, an older state refused or booked as unknown."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from fedveil import checks, cli
from fedveil.configuration.schema import Policy
from fedveil.federation.federation import Federation
from fedveil.privacy import totals
from fedveil.privacy.events import LocalRelease, NonPrivate
from fedveil.privacy.ledger import Row
from fedveil.privacy.spending import Past
from fedveil_clients import adopting, backup, booking, node, policy, refusals, sealed, sites, steps, unpacking, witness
from fedveil_clients.vault import Vault
from fedveil_clients.witness import Witness

WORDS = (
    "study=quick", "tracking=none", "data.identities=8", "data.images_per_identity=4", "data.evaluation_identities=4",
    "data.evaluation_images=2", "data.pairs=8", "data.public_identities=4", "data.public_images=4",
    "protection.fit_steps=0", "protection.init=zeros", "model.width=8", "model.embedding=16", "train.clients=3",
)  # fmt: skip
SECRET = "correct horse battery"
LEFT = LocalRelease("laplace", 1.0)


@pytest.fixture(autouse=True)
def cheap(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(node.FILE, raising=False)
    monkeypatch.setattr(sealed, "_COST", 4)
    Path("node.toml").write_text('client-id = "c0001"\nvault-root = "vault"\nfloor = "dctdp"\n')
    Path("secret").write_text(f"{SECRET}\n")


@pytest.fixture
def used():
    """Return a vault that has given three answers, with its witness."""
    vault, seen = Vault(Path("vault")), Witness(Path("vault.witness"))
    vault.owner_key()
    seen.begin(vault)
    for number in range(3):
        spend(vault, seen, f"run{number}")
    vault.heads("run0", "c0001").save(1, np.ones((2, 3), np.float32))
    vault.begin("run0", "c0001", 1, "sent")
    vault.accepted("run0", {"configuration": "c" * 64})
    return vault, seen


def spend(vault, seen, run_id, name="faces"):
    vault.ledger.append([Row(run_id, name, "spent", LEFT)])
    seen.advance(vault)


def saved(vault, seen, name="vault.fvb", **more):
    backup.save(vault, seen, Path(name), SECRET, **more)
    return Path(name)


def restored(file, *options):
    return cli.main(["node", "restore", str(file), "node.toml", "--passphrase-file", "secret", *options])


def content(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(Path(root).rglob("*"))
            if path.is_file()}  # fmt: skip


def without(found, *names):
    return {name: data for name, data in found.items() if name not in names}


# --- there and back


def test_a_vault_comes_back_whole_and_closed(used, capsys):
    vault, seen = used
    assert cli.main(["node", "backup", "node.toml", "vault.fvb", "--passphrase-file", "secret"]) == 0
    assert "keep file and passphrase apart" in " ".join(capsys.readouterr().out.split())
    assert Path("vault.fvb").stat().st_mode & 0o777 == 0o600
    before, rows = content("vault"), vault.ledger.rows()
    assert before["owner.key"] not in Path("vault.fvb").read_bytes()
    shutil.rmtree("vault")
    assert restored("vault.fvb") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "answer 3" in said
    assert "no new release" in said
    names = ("backup.json", "ledger.sqlite")
    assert without(content("vault"), *names) == without(before, *names)
    assert vault.ledger.rows() == rows
    assert {path.stat().st_mode & 0o777 for path in Path("vault").rglob("*") if path.is_file()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in [Path("vault"), *Path("vault").rglob("*")] if path.is_dir()} == {
        0o700
    }
    assert sorted(path.name for path in Path().iterdir()) == [
        "node.toml", "secret", "vault", "vault.fvb", "vault.witness"
    ]  # fmt: skip
    assert seen.check(vault).number == 3
    spend(vault, seen, "run3")


def site_of(run, state, run_id):
    words = {"client-id": "c0002", "vault-root": "vault"}
    here = node.here(run, words)
    return sites.open_site(run, run_id, here.client_id, here.node, state)


def test_the_restored_key_draws_the_same_noise_and_nothing_is_spent_again(capsys):
    """The copies are not in the file: the key makes each of them again, bit by bit."""
    run = Federation.of(WORDS)
    public = run.split.public
    state = {k: v.clone() for k, v in run.protection.fit(public.images(), public.labels, run.settings.seed).items()}
    index = np.arange(4)
    first = site_of(run, state, "first").features(index, 0)
    vault, seen = Vault(Path("vault")), Witness(Path("vault.witness"))
    seen.begin(vault)
    seen.advance(vault)
    rows = vault.ledger.rows()
    saved(vault, seen)
    shutil.rmtree("vault")
    assert restored("vault.fvb") == 0
    assert not [*Path("vault").rglob("*.npy")]
    again = site_of(run, state, "first").features(index, 0)
    assert torch.equal(first, again)
    assert [*Path("vault").rglob("*.npy")]
    assert vault.ledger.rows() == rows  # the run goes on
    assert torch.equal(site_of(run, state, "second").features(index, 0), first)
    assert [row.status for row in vault.ledger.rows()[len(rows) :]] == ["reused"]


def test_copies_come_along_when_they_are_asked_for():
    run = Federation.of(WORDS)
    public = run.split.public
    state = run.protection.fit(public.images(), public.labels, run.settings.seed)
    site_of(run, state, "first")
    vault = Vault(Path("vault"))
    drawn = content("vault/copies")
    saved(vault, Witness(None), copies=True)
    shutil.rmtree("vault")
    assert restored("vault.fvb", "--nothing-since") == 0
    found = content("vault/copies")
    assert without(found, "index.sqlite") == without(drawn, "index.sqlite")
    site_of(run, state, "first")
    assert set(content("vault/copies")) == set(drawn)  # nothing was drawn


def test_a_backup_while_a_node_answers_is_one_consistent_state(used):
    """Each of them restores to a chain that holds, with the ledger not behind the count."""
    vault, seen = used
    stop = threading.Event()

    def answering():
        number = 10
        while not stop.is_set():
            spend(vault, seen, f"run{number}")
            vault.heads("run0", "c0001").save(number, np.ones((2, 3), np.float32))
            number += 1

    thread = threading.Thread(target=answering)
    thread.start()
    try:
        for number in range(4):
            saved(vault, seen, f"{number}.fvb")
    finally:
        stop.set()
        thread.join()
    for number in range(4):
        with unpacking.unpacked(Path(f"{number}.fvb"), Path(f"v{number}"), SECRET) as found:
            unpacked = Vault(found["place"])
            stands = steps.steps_of(unpacked)
            assert stands.number == found["number"] <= len(unpacked.ledger.rows())
            with unpacked.ledger.read() as book:
                assert book.holds(stands.ends)


def test_no_answer_leaves_while_a_backup_is_taken(used, monkeypatch):
    """Its ledger and its count of answers are of one moment: an answer waits until both are in the file."""
    vault, seen = used
    copied, answering = backup._database, []

    def slow(path, what):
        answering.append(threading.Thread(target=spend, args=(vault, seen, "meanwhile")))
        answering[0].start()
        answering[0].join(0.3)
        assert answering[0].is_alive()
        return copied(path, what)

    monkeypatch.setattr(backup, "_database", slow)
    saved(vault, seen)
    answering[0].join()
    assert seen.check(vault).number == 4
    with unpacking.unpacked(Path("vault.fvb"), Path("v"), SECRET) as found:
        assert found["number"] == 3


# --- what is refused


def test_an_existing_vault_or_file_is_never_replaced(used, capsys):
    vault, seen = used
    saved(vault, seen)
    before = content("vault")
    assert restored("vault.fvb") == 2
    assert "never replaced" in capsys.readouterr().err
    assert content("vault") == before
    with pytest.raises(checks.UserError, match="already"):
        saved(vault, seen)
    with pytest.raises(checks.UserError, match="in the vault"):
        saved(vault, seen, "vault/inside.fvb")
    with pytest.raises(checks.UserError, match="no vault"):
        saved(Vault(Path("nowhere")), seen, "b.fvb")
    assert not Path("b.fvb").exists()


def test_a_place_that_is_mounted_is_refused_before_anything_is_read(used, monkeypatch, capsys):
    vault, seen = used
    saved(vault, seen)
    shutil.rmtree("vault")
    Path("vault").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os.path, "ismount", lambda path: Path(path).name == "vault")
        assert restored("vault.fvb") == 2
    assert "mount point" in capsys.readouterr().err
    assert not any(Path("vault").iterdir())
    assert restored("vault.fvb") == 0  # an empty folder gives way


def test_a_log_of_refusals_where_the_vault_was_does_not_keep_it_out(used):
    """A node that has lost its vault writes there that it refuses; the folder may be all that it can write to."""
    vault, seen = used
    Path("vault/refusals.log").write_text("2026-01-01T00:00:00+00:00 run a: before\n")
    saved(vault, seen)
    shutil.rmtree("vault")
    Path("vault").mkdir()
    refusals.record({"vault-root": "vault"}, "b", "of another vault")
    assert restored("vault.fvb") == 0
    assert [line[1:] for line in refusals.read(Path("vault/refusals.log"))] == [
        ("a", "before"), ("b", "of another vault")
    ]  # fmt: skip
    assert Path("vault/refusals.log").stat().st_mode & 0o777 == 0o600
    assert seen.check(vault).number == 3


def test_a_full_disk_leaves_no_part_of_a_backup(used, monkeypatch):
    vault, seen = used

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sealed.Sealing, "close", full)
    before = sorted(Path().iterdir())
    with pytest.raises(OSError, match=r"vault\.fvb"):
        saved(vault, seen)
    assert sorted(Path().iterdir()) == before
    assert not Path("vault/backup.json").exists()


@pytest.mark.parametrize("change", ["flip", "cut", "cut all", "head", "twice", "other", "empty", "picture"])
def test_a_damaged_cut_or_foreign_file_and_a_wrong_passphrase_leave_nothing(used, capsys, change):
    vault, seen = used
    data = bytearray(saved(vault, seen).read_bytes())
    shutil.rmtree("vault")
    if change == "flip":
        data[len(data) // 2] ^= 1
    elif change == "cut":
        del data[-100:]
    elif change == "cut all":
        data = data[: data.index(b"\n") + 1]
    elif change == "head":
        data = data.replace(b'"n": 4', b'"n": 8')
    elif change == "twice":
        data += data[data.index(b"\n") + 1 :]
    elif change == "other":
        Path("secret").write_text("another passphrase")
    else:
        data = bytearray(b"" if change == "empty" else b"\x89PNG")
    Path("vault.fvb").write_bytes(data)
    before = sorted(Path().iterdir())
    assert restored("vault.fvb") == 2
    assert "vault.fvb" in capsys.readouterr().err
    assert sorted(Path().iterdir()) == before


def test_an_absurd_cost_is_not_paid(used):
    line = json.dumps({"kdf": "scrypt", "n": 1 << 30, "r": 8, "p": 1, "salt": "00" * 16})
    with pytest.raises(checks.UserError, match="absurd"):
        sealed.Opening(io.BytesIO(b"fedveil sealed 1 " + line.encode() + b"\n"), SECRET, Path("f"))


def sealed_archive(members):
    """A file whose writer knew the passphrase and meant harm."""
    out = io.BytesIO()
    sealing = sealed.Sealing(out, SECRET)
    with tarfile.open(fileobj=sealing, mode="w|") as archive:
        for about, data in members:
            archive.addfile(about, io.BytesIO(data))
    sealing.close()
    Path("evil.fvb").write_bytes(out.getvalue())


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "heads/../../evil", "evil", "heads//x", "copies/./x"])
def test_what_a_file_names_stays_in_the_vault(name, capsys):
    about = tarfile.TarInfo(name)
    about.size = 1
    sealed_archive([(about, b"x")])
    assert restored("evil.fvb") == 2
    assert "no part of a vault" in capsys.readouterr().err
    assert sorted(path.name for path in Path().iterdir()) == ["evil.fvb", "node.toml", "secret"]


def test_a_link_in_a_file_is_not_made(capsys):
    about = tarfile.TarInfo("heads/link")
    about.type, about.linkname = tarfile.SYMTYPE, "/etc"
    sealed_archive([(about, b"")])
    assert restored("evil.fvb") == 2
    assert not Path("vault").exists()


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_pieces_of_every_size_come_back_and_none_may_be_missing(size):
    data, out = os.urandom(size), io.BytesIO()
    sealing = sealed.Sealing(out, SECRET)
    sealing.write(data)
    sealing.close()
    assert sealed.Opening(io.BytesIO(out.getvalue()), SECRET, Path("f")).read() == data
    whole = out.getvalue()
    start, piece = whole.index(b"\n") + 1, (1 << 20) + 16
    pieces = [whole[at : at + piece] for at in range(start, len(whole), piece)]
    for wrong in ([*pieces[:-1]], [*pieces, pieces[-1]], pieces[1:], [*reversed(pieces)] if len(pieces) > 1 else []):
        if wrong == pieces:
            continue
        with pytest.raises(checks.UserError):
            sealed.Opening(io.BytesIO(whole[:start] + b"".join(wrong)), SECRET, Path("f")).read()


def test_the_passphrase_comes_from_a_file_a_descriptor_or_a_terminal_alone(used, capsys, monkeypatch):
    command = ["node", "backup", "node.toml"]
    assert cli.main([*command, "a.fvb"]) == 2
    assert "--passphrase-file" in capsys.readouterr().err
    Path("short").write_text("short\n")
    assert cli.main([*command, "a.fvb", "--passphrase-file", "short"]) == 2
    assert "at least 12" in capsys.readouterr().err
    assert cli.main([*command, "a.fvb", "--passphrase-file", "missing"]) == 2
    for length, status in ((1025, 2), (1024, 0)):
        Path("long").write_text(f"{'x' * length}\r\n")
        assert cli.main([*command, f"{length}.fvb", "--passphrase-file", "long"]) == status
    sealed.Opening(io.BytesIO(Path("1024.fvb").read_bytes()), "x" * 1024, Path("f")).read()
    Path("1024.fvb").unlink()
    reading, writing = os.pipe()
    os.write(writing, f"{SECRET}\n".encode())
    os.close(writing)
    assert cli.main([*command, "a.fvb", "--passphrase-fd", str(reading)]) == 0
    os.close(reading)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    said = iter([SECRET, "another one", SECRET, SECRET])
    monkeypatch.setattr("getpass.getpass", lambda _: next(said))
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
    assert cli.main([*command, "b.fvb"]) == 2
    assert cli.main([*command, "b.fvb"]) == 0
    assert [path.name for path in sorted(Path().glob("*.fvb"))] == ["a.fvb", "b.fvb"]


# --- an older state


def test_an_older_backup_is_refused_and_nothing_is_left(used, capsys):
    vault, seen = used
    saved(vault, seen, "old.fvb")
    spend(vault, seen, "later")
    saved(vault, seen, "new.fvb")
    shutil.rmtree("vault")
    assert restored("old.fvb") == 2
    said = capsys.readouterr().err
    assert "older state of itself (3 of 4 answers)" in said
    assert not Path("vault").exists()
    assert "older state of itself" in Path("refusals.log").read_text()
    assert restored("old.fvb", "--nothing-since") == 2
    assert "cannot be true" in " ".join(capsys.readouterr().err.split())
    assert not Path("vault").exists()
    assert restored("new.fvb") == 0


def statements_of(vault, name):
    with vault.ledger.read() as book:
        history = Past(book.rows(), book.recorded()).history(name, {})
    return history, totals.of_history(history, totals.Deltas())


def test_going_on_with_an_older_state_books_the_loss_for_every_account(used, capsys):
    vault, seen = used
    vault.ledger.append([Row("other", "more faces", "spent", LEFT)])
    saved(vault, seen, "old.fvb")
    spend(vault, seen, "later")
    shutil.rmtree("vault")
    assert restored("old.fvb", "--forgotten") == 0
    assert "booked as unknown" in " ".join(capsys.readouterr().out.split())
    adopting.ensure(vault, "faces of a new name")
    adopting.ensure(vault, "faces of a new name")
    for name in ("faces", "more faces", "faces of a new name"):
        history, found = statements_of(vault, name)
        assert {(one.unit, one.epsilon) for one in found} == {("image", None), ("client", None)}
        for limits in ({"max_total_epsilon": 1e6}, {"max_client_epsilon": 1e6}):
            with pytest.raises(policy.PolicyRefusal):
                policy.check_runs(Policy(None, None, **limits), history, history)
        assert sum(isinstance(row.event, NonPrivate) for row in vault.ledger.rows() if row.subject == name) == 2
    with pytest.raises(checks.UserError, match="has ended at this owner"):
        vault.not_ended("run0")
    vault.not_ended("new")
    assert seen.check(vault).number == 5  # newer than what the lost state had
    spend(vault, seen, "next")


def test_the_limits_of_a_node_refuse_after_a_loss_and_only_they(used):
    vault, seen = used
    Path("vault.witness").unlink()
    adopting.adopt(vault, seen, forgotten=True)
    run = Federation.of(["tracking=none", "train.clients=3", "protection.total_epsilon=1"])
    for limits, name in (({"max_total_epsilon": 1e6}, "a"), ({}, "b")):
        own = policy.Node(name, policy=Policy(None, None, **limits) if limits else None)
        adopting.ensure(vault, name)
        joining = booking.Joining("c0001", own, LEFT, b"m", [])
        if limits:
            with pytest.raises(policy.PolicyRefusal, match="no finite amount"):
                booking.accept(run, "new", vault, joining)
        else:
            booking.accept(run, "new", vault, joining).on_disk()
    assert math.isinf(statements_of(vault, "b")[0].worst_picture().epsilon())


def test_without_a_witness_the_owners_word_is_needed(used, capsys):
    vault, seen = used
    saved(vault, seen)
    shutil.rmtree("vault")
    Path("vault.witness").unlink()
    assert restored("vault.fvb") == 2
    assert "--nothing-since" in " ".join(capsys.readouterr().err.split())
    assert not Path("vault").exists()
    assert restored("vault.fvb", "--nothing-since") == 0
    assert "on your word" in " ".join(capsys.readouterr().out.split())
    assert seen.check(vault).number == 4
    assert not any(isinstance(row.event, NonPrivate) for row in vault.ledger.rows())
    assert cli.main(["node", "adopt", "node.toml", "--nothing-since"]) == 2
    assert "nothing to adopt" in capsys.readouterr().err


def test_the_witness_that_a_vault_had_knows_better_wherever_the_next_one_is(used, capsys):
    vault, seen = used
    saved(vault, seen)
    shutil.copytree("vault", "old")
    spend(vault, seen, "later")
    shutil.rmtree("vault")
    Path("node.toml").write_text('vault-root = "vault"\nvault-witness = "elsewhere"\n')
    assert restored("vault.fvb", "--nothing-since") == 2
    assert "has seen later ones" in " ".join(capsys.readouterr().err.split())
    assert not Path("vault").exists()
    Path("old").rename("vault")
    assert cli.main(["node", "adopt", "node.toml", "--nothing-since"]) == 2
    assert "vault.witness" in capsys.readouterr().err
    assert not Path("elsewhere").exists()
    assert cli.main(["node", "adopt", "node.toml", "--forgotten"]) == 0
    assert Witness(Path("elsewhere")).check(vault).number == 4


@pytest.mark.parametrize("word", ["--nothing-since", "--forgotten"])
def test_a_backup_from_before_the_first_answer_needs_the_word_too(capsys, word):
    """Its count says nothing of what left afterwards: the same round would be answered a second time, unbooked."""
    vault, seen = Vault(Path("vault")), Witness(Path("vault.witness"))
    vault.owner_key()
    saved(vault, seen)
    seen.begin(vault)
    spend(vault, seen, "run")
    shutil.rmtree("vault")
    Path("vault.witness").unlink()
    assert restored("vault.fvb") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "witness" in said
    assert word in said
    assert not Path("vault").exists()
    assert "Nothing says" in Path("refusals.log").read_text()
    assert restored("vault.fvb", word) == 0
    assert seen.check(vault).number == 1
    assert Path("vault/forgotten.json").exists() == (word == "--forgotten")


def test_the_word_of_the_owner_leaves_other_copies_behind(used, tmp_path):
    """Of two machines that both had the vault, the one that did not adopt it is refused where they share a witness."""
    vault, seen = used
    shutil.copytree("vault", "copy")
    Path("vault.witness").unlink()
    adopting.adopt(vault, seen, forgotten=False)
    with pytest.raises(witness.OlderVault):
        seen.check(Vault(Path("copy")))


def test_another_vaults_witness_is_never_overruled(used, capsys):
    vault, seen = used
    saved(vault, seen)
    shutil.rmtree("vault")
    other = Vault(Path("other"))
    other.owner_key()
    witness.runs.write_json(seen.file, {"vault": other.identity(), "number": 7, "head": "a" * 64}, private=True)
    for word in ("--forgotten", "--nothing-since"):
        assert restored("vault.fvb", word) == 2
        assert "another vault" in " ".join(capsys.readouterr().err.split())
        assert not Path("vault").exists()


def test_an_interrupted_adoption_is_refused_until_it_is_done(used, monkeypatch):
    vault, seen = used
    shutil.copytree("vault", "old")
    spend(vault, seen, "later")
    shutil.rmtree("vault")
    Path("old").rename("vault")
    with monkeypatch.context() as patch:
        patch.setattr(Witness, "step", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            adopting.adopt(vault, seen, forgotten=True)
    with pytest.raises(witness.OlderVault):
        seen.check(vault)
    adopting.adopt(vault, seen, forgotten=True)
    assert seen.check(vault).number == 5
    assert sum(isinstance(row.event, NonPrivate) for row in vault.ledger.rows()) == 2
