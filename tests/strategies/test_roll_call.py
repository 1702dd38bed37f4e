"""Who is there: exclusions by name, claims of one name by two nodes, nodes that come late or come back."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

import fedveil
from fedveil import checks
from fedveil.engine import _flower
from fedveil.federation import registered
from fedveil.federation.federation import Federation
from fedveil.runs import Run
from fedveil_strategies import attendance, replies
from fedveil_strategies.attendance import Attendance
from fedveil_strategies.cohorts import Members
from fedveil_strategies.roll_call import EVERYBODY, Questions, Uniform


class FakeGrid(_flower.LocalGrid):
    """A SuperLink of nodes that are functions from a query to a reply; None says nothing."""

    uniform = False

    def __init__(self):
        super().__init__(_flower.Settings(0, {}, {}))
        self.nodes, self.asked, self.since, self.keys = {}, [], {}, {}

    def get_nodes(self):
        return [
            NodeInfo(node_id=node, last_activated_at=self.since.get(node, "once"), public_key=self.keys.get(node, b""))
            for node in self.nodes
        ]

    def get_node_ids(self):
        return list(self.nodes)

    def push_messages(self, messages):
        names = []
        for message in messages:
            self._number(message)
            names.append(message.metadata.message_id)
            node = message.metadata.dst_node_id
            self.asked.append(node)
            reply = self.nodes[node](message)
            if reply is not None:
                self._replies[names[-1]] = reply
        return names

    def send_and_receive(self, messages, *, timeout=None):
        return self.pull_messages(self.push_messages(messages))


def saying(client, own="v", **changes):
    def node(message):
        words = {"client_id": client, "version": fedveil.__version__, "vault": f"{own}-{client}", "run_id": "run"}
        words = {key: value for key, value in {**words, **changes}.items() if value is not None}
        return Message(RecordDict({"client": ConfigRecord(words)}), reply_to=message)

    return node


def refusing(reason, client=""):
    def node(message):
        said = ConfigRecord({"reason": reason, "kind": "refused", "client_id": client})
        return Message(RecordDict({"refusal": said}), reply_to=message)

    return node


def raising(message):
    return _flower.failure(message, "Traceback:\n  line 1\nZeroDivisionError: no")


def silent(message):
    return None


@pytest.fixture
def federation(tmp_path):
    return lambda *words: Federation.of(["protection=none", "train.clients=4", f"runs.root={tmp_path}", *words])


@pytest.fixture
def called(federation, monkeypatch):
    monkeypatch.setattr(attendance, "_LONGEST", 0.2)

    def build(nodes, *words, mapping=None, run_id="run"):
        grid = FakeGrid()
        grid.nodes = dict(nodes)
        return grid, Attendance(Questions(grid, federation(*words), run_id, 60.0), mapping or {})

    return build


ALL = ["c0001", "c0002", "c0003", "c0004"]


def here(call):
    return {client: node for node, client in call.present(ALL)[0].items()}


def reasons(call):
    return {failure.client_id: failure.reason for failure in call.present(ALL)[1]}


# --- the first roll call


def test_a_node_that_answers_anothers_question_speaks_for_nobody(called):
    """Which question a reply answers is in its own bytes: what counts is which one it was fetched for."""
    asked = {}

    def kept(message):
        asked[2] = message
        return saying("c0002")(message)

    _, call = called({2: kept, 3: lambda message: saying("c0003", own="other")(asked[2])})
    call.begin()
    assert here(call) == {"c0002": 2}
    assert any("node 3: its reply names another" in line for line in call.news())


def test_each_kind_of_trouble_excludes_one_node_by_name_and_the_run_goes_on(called):
    _, call = called(
        {1: saying("c0001"), 2: saying("c0002", version="9.9"), 3: saying("c0099"), 4: silent, 5: raising,
         6: refusing("the owner's floor\naccepts more", "c0003"), 7: saying("c0004", vault=None),
         8: saying("c0004", run_id="another"), 9: saying("c0004\x1b[2J")}
    )  # fmt: skip
    call.begin()
    assert here(call) == {"c0001": 1}
    news = call.news()
    for node, word in {2: "install equal versions", 3: "registry", 4: "no answer", 5: "ZeroDivisionError",
                       6: "the owner's floor accepts more", 7: "cannot be read", 8: "cannot be read",
                       9: "registry"}.items():  # fmt: skip
        (line,) = [line for line in news if f"node {node}" in line]
        assert word in line
        assert line.isprintable()
    assert reasons(call)["c0003"] == "the owner's floor accepts more"
    assert all(failure.kind == "excluded" for failure in call.present(ALL)[1])
    assert "1 of 4 clients are here" in news[-1]
    assert call.news() == []


def test_it_stops_when_nobody_is_left_or_too_few_with_the_first_reason(called):
    _, call = called({1: refusing("the owner's floor", "c0001"), 2: saying("c0099")})
    with pytest.raises(checks.UserError, match="No client takes part; c0001: the owner's floor"):
        call.begin()
    _, call = called({1: saying("c0001"), 2: refusing("no", "c0002")}, "train.min_clients=2")
    with pytest.raises(checks.UserError, match=r"1 clients take part, fewer than train.min_clients=2; c0002: no"):
        call.begin()
    _, call = called({})
    with pytest.raises(checks.UserError, match="start the nodes first"):
        call.begin()
    with pytest.raises(checks.UserError, match="min_clients=5 exceeds"):
        called({}, "train.min_clients=5")


def test_it_says_once_that_ids_are_self_declared(called):
    _, call = called({1: saying("c0001")})
    call.begin()
    assert sum("what each node says of itself" in line for line in call.news()) == 1
    call.refresh()
    assert call.news() == []


# --- who may be whom


def test_of_two_nodes_with_one_name_neither_is_trusted(called):
    _, call = called({1: saying("c0001"), 2: saying("c0001", own="w"), 3: saying("c0002")})
    call.begin()
    assert here(call) == {"c0002": 3}
    assert "2 nodes say that they are this client" in reasons(call)["c0001"]


def test_the_vault_that_the_run_began_with_tells_two_nodes_apart(called, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "vaults.json").write_text(json.dumps({"c0001": "v-c0001"}))
    _, call = called({1: saying("c0001", own="thief"), 2: saying("c0001")})
    call.begin()
    assert here(call) == {"c0001": 2}


def test_a_later_node_does_not_take_a_name_until_its_owner_has_gone(called, tmp_path):
    grid, call = called({1: saying("c0001"), 2: saying("c0002")})
    call.begin()
    call.admit(Run(tmp_path, "run"))
    grid.nodes[3] = saying("c0001", own="thief")
    call.refresh()
    assert here(call) == {"c0001": 1, "c0002": 2}
    assert "began with another vault" in call.news()[-1]
    grid.nodes[4] = saying("c0001")
    call.refresh()
    assert here(call) == {"c0001": 1, "c0002": 2}
    assert "node 1 is this client already" in call.news()[-1]
    del grid.nodes[1]
    call.refresh()
    assert here(call) == {"c0001": 4, "c0002": 2}  # never the one with another vault


def test_the_same_client_comes_back_under_another_node_id(called, tmp_path):
    """A node without a registered key has a new id after every start; its vault is the old one."""
    grid, call = called({1: saying("c0001"), 2: saying("c0002")})
    call.begin()
    call.admit(Run(tmp_path, "run"))
    grid.nodes[3] = grid.nodes[1]  # the old one is not yet known to be gone
    call.refresh()
    assert here(call)["c0001"] == 1
    del grid.nodes[1]
    call.refresh()
    assert here(call) == {"c0001": 3, "c0002": 2}
    assert 3 in grid.asked
    assert grid.asked.count(2) == 1


def keyed(grid, *nodes):
    keys = {node: ec.generate_private_key(ec.SECP384R1()).public_key() for node in nodes}
    grid.keys = {node: public_key_to_bytes(key) for node, key in keys.items()}
    return {node: registered.fingerprint(data) for node, data in grid.keys.items()}


def test_a_mapping_binds_names_to_registered_keys(called, monkeypatch):
    grid, call = called({1: saying("c0002"), 2: saying("c0001"), 3: saying("c0003"), 4: saying("c0004")})
    names = keyed(grid, 1, 2, 3, 4)
    call._nodes = {"c0001": names[1], "c0002": "2", "c0003": names[3]}  # 1 and 2 claim each other's
    call.begin()
    assert here(call) == {"c0003": 3}
    found = reasons(call)
    assert found["c0001"] == "it says that it is c0002; another node is registered for this client"
    assert found["c0002"] == "it says that it is c0001; another node is registered for this client"
    assert found["c0004"] == "it says that it is c0004; no node is registered for this client"
    assert not any("says of itself" in line for line in call.news())
    monkeypatch.setattr(registered, "matches", lambda *_: True)
    grid, trusting = called(grid.nodes, mapping=dict.fromkeys(ALL, "5"))
    trusting.begin()
    assert len(here(trusting)) == 4  # the mutant that compares nothing is seen


def test_under_a_mapping_a_liar_stands_beside_its_own_name(called):
    grid, call = called(
        {1: saying("c0003"), 2: refusing("because", "c0003"), 3: saying("c0003"), 4: saying("c0003", version="9.9")}
    )
    names = keyed(grid, 1, 2, 3)
    call._nodes = {"c0001": names[1], "c0002": names[2], "c0003": names[3]}
    call.begin()
    assert here(call) == {"c0003": 3}
    assert reasons(call)["c0002"] == "because"
    del grid.nodes[3]
    call._nodes["c0004"] = "9"
    grid.nodes[9] = saying("c0004")
    call.refresh()
    call.refresh()
    assert reasons(call)["c0003"] == "not connected", "not what others said in its name"
    news = "\n".join(call.news())
    assert "excluded: client c0001 (node 1): it says that it is c0003" in news
    assert "excluded: node 4: it runs fedveil 9.9" in news
    assert "client c0003" not in news


# --- later


def test_nodes_that_appear_are_asked_before_the_next_round_and_nobody_twice(called, tmp_path):
    grid, call = called({1: saying("c0001"), 2: silent})
    call.begin()
    call.admit(Run(tmp_path, "run"))
    grid.nodes[3] = saying("c0003")
    for _ in range(3):
        call.refresh()
    assert here(call) == {"c0001": 1, "c0003": 3}
    assert sorted(grid.asked) == [1, 2, 3]
    assert "client c0003 (node 3) takes part from now on" in call.news()
    assert json.loads((tmp_path / "run" / "vaults.json").read_text()) == {"c0001": "v-c0001", "c0003": "v-c0003"}


def test_a_late_answer_to_the_roll_call_counts_from_the_next_round(called, tmp_path):
    grid, call = called({1: saying("c0001"), 2: silent})
    call.begin()
    call.admit(Run(tmp_path, "run"))
    (question,) = call._open
    grid._replies[question.metadata.message_id] = saying("c0002")(question)
    call.refresh()
    assert here(call) == {"c0001": 1, "c0002": 2}


def test_a_node_that_was_started_anew_is_asked_again(called, tmp_path):
    """An owner who raised a limit and started the node again takes part; one whose vault has changed does not."""
    grid, call = called({1: saying("c0001"), 2: refusing("the owner's floor", "c0002"), 3: saying("c0003")})
    call.begin()
    call.admit(Run(tmp_path, "run"))
    grid.nodes |= {2: saying("c0002"), 3: saying("c0003", own="other")}
    call.refresh()
    assert here(call) == {"c0001": 1, "c0003": 3}  # nobody is asked twice without reason
    grid.since |= {2: "twice", 3: "twice"}
    call.refresh()
    assert here(call) == {"c0001": 1, "c0002": 2}
    assert "began with another vault" in reasons(call)["c0003"]


def test_a_node_that_has_gone_is_not_asked_and_not_waited_for(called, tmp_path):
    grid, call = called({1: saying("c0001"), 2: saying("c0002")})
    call.begin()
    call.admit(Run(tmp_path, "run"))
    del grid.nodes[2]
    call.refresh()
    assert here(call) == {"c0001": 1}
    assert reasons(call)["c0002"] == "not connected"
    grid.nodes.clear()
    with pytest.raises(checks.UserError, match="No client takes part"):
        call.refresh()


def test_a_node_whose_vault_changes_between_two_rounds_is_excluded(called, tmp_path):
    _, call = called({1: saying("c0001"), 2: saying("c0002")})
    call.begin()
    call.admit(Run(tmp_path, "run"))
    assert call.vault_of("c0001") == "v-c0001"
    call.exclude(1, "c0001", replies.OTHER_VAULT)
    assert here(call) == {"c0002": 2}
    assert reasons(call)["c0001"] == replies.OTHER_VAULT


# --- uniform nodes


class OneGrid(FakeGrid):
    uniform = True


def uniform(federation, answer, *words):
    grid = OneGrid()
    grid.nodes = {1: answer}
    return grid, Uniform(Questions(grid, federation(*words), "run", 60.0))


def test_of_uniform_nodes_one_is_asked_for_all(federation, tmp_path):
    grid, call = uniform(federation, saying("c0001"), "train.clients=1000", "data.identities=2000")
    call.begin()
    call.refresh()
    assert grid.asked == [1]
    import numpy as np

    members = Members(call._questions.run.registry, np.array([0, 41, 999]))
    assert call.present(members) == ({1: "c0001", 42: "c0042", 1000: "c1000"}, [])
    call.admit(Run(tmp_path, "run"))
    assert json.loads((tmp_path / "run" / "vaults.json").read_text()) == {EVERYBODY: "v-c0001"}
    assert call.vault_of("c0999") == "v-c0001"


def test_uniform_nodes_that_refuse_end_the_run_with_the_reason(federation, tmp_path):
    _, call = uniform(federation, refusing("the owner's floor."))
    with pytest.raises(checks.UserError, match=r"No client takes part: the owner's floor\.$"):
        call.begin()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "vaults.json").write_text(json.dumps({"c0001": "older", "c0002": "older"}))
    _, call = uniform(federation, saying("c0001"))
    with pytest.raises(checks.UserError, match="another vault"):
        call.begin()
