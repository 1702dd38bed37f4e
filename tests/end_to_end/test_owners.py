"""Owners with machines of their own: each its words, pictures and vault; some refuse, come late, or steal a name.

The same two apps as everywhere, over a grid whose nodes are not uniform; the coordinator starts from a bundle.
"""

from __future__ import annotations

import json
import os
import shutil
import tomllib
from pathlib import Path

import pytest
import torch
from flwr.app import Context, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from PIL import Image

from fedveil import checks, cli, engine
from fedveil.data.sources.procedural import draw_faces
from fedveil.engine import _flower
from fedveil.engine.inline import InlineGrid
from fedveil_clients.vault import Vault
from fedveil_strategies import attendance, observers

WORDS = ["data=folder", "data.root=nowhere-of-the-coordinators", "data.size=32", "data.evaluation=procedural",
         "data.pairs=20", "train.clients=4", "train.rounds=3", "train.local.steps=2", "train.batch_size=6",
         "protection.fit_steps=0", "protection.init=zeros", "protection.total_epsilon=8", "model.width=8",
         "model.embedding=16", "evaluation.draws=1", "evaluation.bootstrap=0"]  # fmt: skip


class OwnersGrid(InlineGrid):
    """Nodes with words of their own, which come and go."""

    uniform = False

    def __init__(self, words, between=lambda grid, number: None):
        super().__init__(engine.load(engine.CLIENT_APP), _flower.Settings(4, {}, {}))
        self.words, self.between, self.round = words, between, 0

    def get_node_ids(self):
        return list(self.words)

    def get_nodes(self):
        return [NodeInfo(node_id=node) for node in self.words]

    def _context(self, node):
        return Context(1, node, dict(self.words[node]), RecordDict(), {})

    def send_and_receive(self, messages, *, timeout=None):
        messages = list(messages)
        yield from super().send_and_receive(messages, timeout=timeout)
        if messages and messages[0].metadata.message_type == "train":
            self.round += 1
            self.between(self, self.round)


def owner(number, **words):
    """Return the words of one owner, whose four people nobody else has."""
    home = Path(f"owner{number}").absolute()
    for person in range(4):
        for count, pixels in enumerate(draw_faces(1, 10 * number + person, 1, 3, 32).images()):
            path = home / "faces" / f"person{10 * number + person}" / f"{count}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.transpose(1, 2, 0)).save(path)
    own = {"client-id": f"c{number:04d}", "data-root": str(home / "faces"), "vault-root": str(home / "vault")}
    return {**own, **{key.replace("_", "-"): value for key, value in words.items()}}


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(observers, "draw", lambda *_: [])
    monkeypatch.setattr(attendance, "_LONGEST", 0.2)
    monkeypatch.setenv("FEDVEIL_COORDINATOR", "runs.root=coordinators-runs tracking=none")
    yield
    torch.set_num_threads(threads)


def run(grid, *words, run_id="run", **given):
    if not Path("app").exists():
        assert cli.main(["bundle", "app", *WORDS, *words]) == 0
    config = tomllib.loads(Path("app/pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    context = Context(1, 1, {}, RecordDict(), {**config, "run-id": run_id, "progress": "quiet", **given})
    engine.load(engine.SERVER_APP)(grid, context)
    return json.loads(Path("coordinators-runs", run_id, "result.json").read_text())


def log(run_id="run"):
    return Path("coordinators-runs", run_id, "operator.log").read_text()


def subjects(number):
    return {row.subject for row in Vault(Path(f"owner{number}/vault")).ledger.rows()}


def test_each_owner_decides_for_itself_and_the_run_goes_on(tmp_path):
    def second_round(grid, number):
        if number == 1:
            grid.words[14] = owner(4)

    grid = OwnersGrid(
        {
            11: owner(1, floor="dctdp", max_epsilon=8.0),
            12: owner(2, floor="none"),
            13: owner(3, max_epsilonn=8.0),
        },
        second_round,
    )
    found = run(grid)
    assert found["missing_updates"] == {"excluded": 7, "refused": 0, "late": 0, "failed": 0}  # 3 + 2 + 2
    assert [entry["missing"] for entry in found["rounds"]] == [{"excluded": 3}, {"excluded": 2}, {"excluded": 2}]
    text = log()
    assert "client c0002 (node 12): the owner's floor accepts ['none']" in text
    assert "node 13: Unknown word 'max-epsilonn' in the node's configuration. Did you mean 'max-epsilon'?" in text
    assert "client c0004 (node 14) takes part from now on" in text
    assert "round 1 client c0004: not connected" in text
    assert Path("coordinators-runs/run/operator.log").stat().st_mode & 0o777 == 0o600
    # Whoever refused has made nothing; nobody's pictures were anywhere else.
    assert not Path("owner2/vault").exists()
    assert not Path("owner3/vault").exists()
    assert len(subjects(1)) == len(subjects(4)) == 1
    assert subjects(1) != subjects(4)
    assert "nowhere-of-the-coordinators" not in "".join(str(path) for path in tmp_path.rglob("*"))


def test_a_thief_of_a_name_and_a_swapped_vault_are_excluded(tmp_path):
    def swapped(grid, number):
        if number == 1:
            grid.words[12]["vault-root"] = str(tmp_path / "another")

    grid = OwnersGrid({11: owner(1), 21: {**owner(1), "vault-root": str(tmp_path / "thief")}, 12: owner(2),
                       13: owner(3)}, swapped)  # fmt: skip
    found = run(grid)
    text = log()
    assert "excluded: client c0001 (node 11): 2 nodes say that they are this client" in text
    assert "excluded: client c0001 (node 21): 2 nodes say that they are this client" in text
    assert "round 2 client c0002: its vault is another one than at the roll call" in text
    assert "round 3 client c0002: its vault is another one" in text
    assert [entry["missing"] for entry in found["rounds"]] == [
        {"excluded": 2}, {"excluded": 2, "failed": 1}, {"excluded": 3}
    ]  # fmt: skip


def test_names_that_are_bound_to_nodes_are_enforced(tmp_path):
    Path("nodes.toml").write_text("c0001 = 11\nc0002 = 12\nc0003 = 13\n")
    assert cli.main(["bundle", "app", *WORDS, "--nodes", "nodes.toml"]) == 0
    grid = OwnersGrid({21: {**owner(1), "vault-root": str(tmp_path / "thief")}, 11: owner(1), 12: owner(2),
                       14: owner(4)})  # fmt: skip
    run(grid)
    text = log()
    assert "excluded: node 21: it says that it is c0001; another node is registered for this client" in text
    assert "excluded: client c0004 (node 14): it says that it is c0004; no node is registered for this client" in text
    assert "what each node says of itself" not in text
    assert "client c0001:" not in text  # it takes part in every round


def test_a_coordinator_evaluates_on_two_public_people_of_its_own_and_owners_train_on_all_of_theirs(monkeypatch):
    """Neither needs another's number of people: two are evaluated, an owner has two, four clients are registered."""
    for number in (8, 9):
        owner(number)
    public, few = Path("public"), owner(2)
    public.mkdir()
    for person in (80, 90):
        os.rename(f"owner{person // 10}/faces/person{person}", public / f"person{person}")
    for person in (22, 23):
        shutil.rmtree(f"owner2/faces/person{person}")
    monkeypatch.setenv("FEDVEIL_COORDINATOR", "runs.root=coordinators-runs tracking=none data.root=public")
    words = ["data.evaluation=held_out", "data.declared_public_evaluation=true", "data.evaluation_fraction=1"]
    found = run(OwnersGrid({11: owner(1), 12: few}), *words)
    assert found["missing_updates"]["refused"] == found["missing_updates"]["failed"] == 0
    assert [entry["missing"] for entry in found["rounds"]] == [{"excluded": 2}] * 3  # c0003 and c0004 are not there
    assert found["final"]["accuracy"] is not None


def test_a_coordinator_that_lacks_its_public_people_says_the_word_and_leaves_nothing():
    grid = OwnersGrid({11: owner(1), 12: owner(2)})
    with pytest.raises(checks.UserError, match=r'set FEDVEIL_COORDINATOR="data\.root=PLACE"'):
        run(grid, "data.evaluation=held_out", "data.declared_public_evaluation=true")
    assert not Path("coordinators-runs").exists()


def test_a_run_without_anybody_left_leaves_nothing_and_says_why():
    grid = OwnersGrid({11: owner(1, floor="none"), 12: owner(2, floor="none")})
    with pytest.raises(checks.UserError, match=r"No client takes part.*floor"):
        run(grid)
    assert not Path("coordinators-runs").exists()


def test_an_interrupted_run_goes_on_and_a_new_one_under_its_name_is_refused_by_the_owners(monkeypatch):
    def interrupted(grid, number):
        if number == 2:
            raise KeyboardInterrupt

    grid = OwnersGrid({11: owner(1), 12: owner(2)}, interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(grid)
    whole = run(OwnersGrid(grid.words))
    assert [entry["round"] for entry in whole["rounds"]] == [1, 2, 3]
    assert whole["missing_updates"]["failed"] == 0
    said = [line for line in log().splitlines() if line.startswith(("stopped", "taken up"))]
    assert said == ["stopped: KeyboardInterrupt", "taken up again after round 1"]
    os.rename("coordinators-runs", "moved")
    with pytest.raises(checks.UserError, match="was asked after round 3"):
        run(OwnersGrid(grid.words))
    for name in ("c0001", "c0002"):  # each by name, and not the first alone
        assert f"round 1 client {name}: Round 1 of run" in log()
    assert log().splitlines()[-1].startswith("stopped: Round 1: 2 of 2 clients failed; the first, c0001: ")


def test_a_client_level_run_writes_who_is_missing_into_the_log_alone(capsys):
    grid = OwnersGrid({11: owner(1), 12: owner(2, max_client_epsilon=1.0), 13: owner(3)})
    words = ["privacy.client.epsilon=4", "privacy.client.delta=1e-5", "train.cohort.rate=1.0"]
    found = run(grid, *words, progress="plain")
    assert "missing_updates" not in found
    assert all("missing" not in entry for entry in found["rounds"])
    shown = capsys.readouterr().out
    assert "c0002" not in shown
    assert "c0004" not in shown
    assert "round 1 client c0002: the owner accepts a client-level epsilon of at most 1" in log()
