"""A deployment in which everything goes wrong that can: nothing is lost, and everything is named where it belongs.

One SuperLink with TLS and four SuperNodes with registered keys, each on a link of its own. The owners' noise is drawn
once and kept, so over all that happens here every run whose updates all arrive is one model, to the last bit, and so
are runs that miss the same updates, whatever they miss them by.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemons import until
from deployed import FORGOTTEN
from disturbed import PATIENCE, ROOM, ROUNDS, Chaos, filled, resized

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds Flower's processes in Linux's /proc"),
]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chaos]:
    """The deployment."""
    chaos = Chaos(tmp_path_factory.mktemp("chaos"))
    with chaos:
        started = "Starting Flower SuperExec"  # once it has imported what a client needs
        until(lambda: all(started in owner.log for owner in chaos.owners.values()), PATIENCE, "importing")
        yield chaos


@pytest.fixture(autouse=True)
def whole(here: Chaos) -> Iterator[None]:
    """Leave every test's mischief behind."""
    yield
    here.release(*here.owners)
    for name in here.owners:
        here.mischief(name)
        here.links[name].state = "whole"
    for folder in here.disks:
        resized(folder, ROOM)


@pytest.fixture(scope="module")
def full(here: Chaos) -> str:
    """The model of a run in which c0001's disk is full in rounds 1 and 2, and c0002's machine fails in round 1."""
    resized(here.folder("c0001") / "vault", 100)  # its ledger finds room, its noisy copies do not
    here.mischief("c0002", train=["raise"])
    here.hold(1, "c0003")
    run = here.go("full")
    until(lambda: here.refused("c0001").count("No space") == 1, PATIENCE, "a full disk")
    assert here.spent("c0001") == [("full", "spent")]  # on disk before the noisy copies, which found no room
    assert not list((here.folder("c0001") / "vault" / "copies").glob("*.npy"))
    here.hold(2, "c0003")
    until(lambda: here.refused("c0001").count("No space") == 2, PATIENCE, "a full disk")
    resized(here.folder("c0001") / "vault", ROOM)
    here.release("c0003")
    assert here.wait(run)["status"] == "finished:completed"
    here.mischief("c0002")
    here.late = max(20.0, 3 * max(entry["seconds"] for entry in here.result("full")["rounds"]))
    return here.model_sha("full")


@pytest.fixture(scope="module")
def calm(here: Chaos, full: str) -> str:
    """The model of a run that nothing happens to."""
    assert here.wait(here.go("calm"))["status"] == "finished:completed"
    assert here.log("calm") == ""
    return here.model_sha("calm")


def nothing_lost(here: Chaos) -> None:
    """Every owner has drawn once, in the first run, and has the copies of then; later runs read them again."""
    for name in here.owners:
        first, *others = here.spent(name)
        assert first == ("full", "spent")
        assert {status for _, status in others} <= {"reused"}
        assert len({run for run, _ in others}) == len(others), "a run was booked twice"
        here.kept.setdefault(name, here.copies(name))
        assert here.copies(name) == here.kept[name], "noise was drawn again"


def test_a_full_disk_is_its_owners_matter_and_nothing_is_drawn_twice(here: Chaos, full: str) -> None:
    silent = "the client could not take part; its owner's log says why"
    assert here.log("full").splitlines() == [
        f"round 1 client c0001: {silent}",
        "round 1 client c0002: <class 'RuntimeError'>:<'the owner's machine is out of order'>",
        f"round 2 client c0001: {silent}",
    ]
    assert here.refused("c0001").count("No space left on device: ") == 2
    assert "out of order" in here.owners["c0002"].log
    nothing_lost(here)


def test_killed_or_cut_off_a_node_is_missed_by_name_and_takes_part_again_with_its_noise(here: Chaos, full: str) -> None:
    here.hold(1, *here.owners)
    run = here.go("gone", 900)
    here.held(1, *here.owners)
    here.kill("c0001")
    here.links["c0002"].state = "cut"
    since = time.monotonic()
    here.start("c0001", wait=False)
    until(lambda: not here.running("c0001"), PATIENCE, "an early start")
    assert "Failed to activate SuperNode" in here.owners["c0001"].log
    here.release("c0001", "c0002")
    time.sleep(max(0.0, since + FORGOTTEN + 15 - time.monotonic()))
    here.start("c0001")
    here.links["c0002"].state = "whole"
    until(lambda: here.online() == len(here.owners), PATIENCE, "coming back")
    asked = here.asked("c0001")
    here.hold(2, "c0003", "c0004")
    until(lambda: here.asked("c0001") > asked, PATIENCE, "a roll call")
    here.release("c0003", "c0004")
    assert here.wait(run)["status"] == "finished:completed"
    log = here.log("gone").splitlines()
    for line, start in zip(
        log,
        (
            "round 1 client c0001: Error: Node Unavailable",
            "round 1 client c0002: Error: Node Unavailable",
            "round 2 client c0001: not connected",
            "client c0001 (node ",
        ),
        strict=True,
    ):
        assert line.startswith(start)
    assert log[-1].endswith("takes part from now on")
    assert "retrying in" in here.owners["c0002"].log
    assert here.model_sha("gone") == full
    nothing_lost(here)


def test_a_lie_is_named_and_changes_no_more_than_silence_would(here: Chaos, full: str) -> None:
    here.mischief("c0001", train=["", "elsewhere", "noise"])
    here.mischief("c0002", train=["nan", "shape", "vault"])
    here.hold(1, "c0001")
    run = here.go("lies", here.late)
    here.held(1, "c0001")
    until(lambda: here.log("lies").count("round 1") == 2, 2 * here.late, "the end of round 1")
    here.release("c0001")  # what it answers to round 1, too late, is no lie
    assert here.wait(run)["status"] == "finished:completed"
    lies = here.log("lies").splitlines()
    for line, (number, name, reason) in zip(
        lies,
        (
            (1, "c0001", f"no answer within {here.late:g} s (engine.round_timeout)"),
            (1, "c0002", "holds values that are not finite"),
            (2, "c0001", "an answer to run and round ('another', 7) in round 2"),
            (2, "c0002", "an update that cannot be read"),
            (3, "c0001", "lies lies"),
            (3, "c0002", "its vault is another one than at the roll call"),
        ),
        strict=True,
    ):
        assert line.startswith(f"round {number} client {name}: ")
        assert reason in line
        assert line.isprintable()
        assert len(line) < 400
    sent = here.owners["c0001"].log.partition(f"[RUN {run}, ROUND 1]")[2]
    assert sent.count("Sending: train message") == sent.count("Sent successfully") == ROUNDS
    here.mischief("c0001", query="version")
    here.mischief("c0002", query="another")
    assert here.wait(here.go("absent"))["status"] == "finished:completed"
    absent = here.log("absent").splitlines()
    print(absent)
    assert any(line.startswith("excluded: client c0001 ") and "it runs fedveil 0.0.1" in line for line in absent)
    assert any(line.startswith("excluded: client c0002 ") and "it says that it is c0003" in line for line in absent)
    assert any(line.startswith("2 of 4 clients are here") for line in absent)
    assert not any(f"client {name}" in line for line in absent for name in ("c0003", "c0004"))
    assert here.model_sha("absent") == here.model_sha("lies") != full
    nothing_lost(here)


def test_a_run_survives_its_coordinator_its_superlink_its_disk_and_its_links(here: Chaos, calm: str) -> None:
    # More than half of them hang: the run stops, and says by whom.
    hung = ("c0001", "c0002", "c0003")
    here.hold(2, *hung)
    ended = here.wait(here.go("again"))
    assert ended["status"] == "finished:failed"
    said = f"Round 2: 3 of 4 clients failed; the first, c0001: no answer within {here.late:g} s (engine.round_timeout)"
    assert said in ended["status-details"]
    late = f"no answer within {here.late:g} s (engine.round_timeout)"
    assert here.log("again").splitlines() == [
        *(f"round 2 client {name}: {late}" for name in hung), f"stopped: {said}"
    ]
    here.release(*hung)
    # The coordinator is killed.
    here.hold(2, "c0004")
    here.go("again")
    here.held(2, "c0004")
    for pid in here.coordinator():
        os.kill(pid, signal.SIGKILL)
    here.release("c0004")
    # The SuperLink is killed, and the coordinator with it.
    here.hold(2, "c0004")
    here.go("again")
    here.held(2, "c0004")
    here.restart_superlink()
    here.release("c0004")
    # The coordinator's disk is full.
    here.hold(2, "c0004")
    run = here.go("again", 900)
    here.held(2, "c0004")
    filled(here.runs)
    here.release("c0004")
    ended = here.wait(run)
    assert ended["status"] == "finished:failed"
    assert "No space left on device: " in ended["status-details"]
    ended_full = ended["status-details"].partition("exception: ")[2]
    assert str(here.runs / "again") in ended_full
    resized(here.runs, ROOM)
    # A link is cut and heals.
    here.hold(3, "c0003")
    run = here.go("again", 900)
    here.held(3, "c0003")
    here.links["c0003"].state = "cut"
    here.release("c0003")
    until(lambda: here.owners["c0003"].log.rpartition("Sending: train")[2].count("retrying in") > 1, PATIENCE, "a cut")
    here.links["c0003"].state = "whole"
    assert here.wait(run)["status"] == "finished:completed"
    log = here.log("again").splitlines()[4:]
    assert log.count("taken up again after round 1") == 4
    others = [line for line in log if not line.startswith("taken up")]  # none where the log has no room for it
    assert others in ([], [f"stopped: {ended_full}"])
    assert here.model_sha("again") == calm
    assert sum(here.result("again")["missing_updates"].values()) == 0
    nothing_lost(here)
