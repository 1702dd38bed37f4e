"""What a node says about itself: its own words alone, all of them known, none of them chosen by what arrives."""

from __future__ import annotations

import os

import pytest

from fedveil import checks
from fedveil.configuration.schema import Policy
from fedveil.federation import instruction
from fedveil.federation.federation import Federation
from fedveil_clients import node, policy, refusals
from fedveil_clients.node import Node, NodeError


def received(*words):
    return instruction.from_wire(instruction.to_wire(Federation.of(words).settings))


FOLDER = ("data=folder", "data.root=the-coordinators", "data.evaluation=procedural", "vault.root=the-coordinators")


# --- words

EXAMPLES = {str: "clinic", int: 3, float: 2.5, bool: True}
OWN = {"floor": "dctdp", "client-delta": 1e-6, "image-delta": 1e-6, "max-delta": 1e-3}


def test_every_word_is_accepted_alone_and_from_a_file(tmp_path):
    for word, (kind, meaning) in node.WORDS.items():
        value = OWN.get(word, EXAMPLES[kind])
        policy.node_of("c0001", {word: value}, "folder")
        shown = f'"{value}"' if isinstance(value, str) else str(value).lower()
        path = tmp_path / "node.toml"
        path.write_text(f"{word} = {shown}\n")
        assert set(node.read(path)) == {word}
        assert len(meaning) > 10


@pytest.mark.parametrize("word", ["max_epsilon", "max-epsilonn", "vault", "Floor"])
def test_an_unknown_word_is_refused_with_the_nearest(tmp_path, word):
    """A limit that is mistyped would protect nobody, silently."""
    with pytest.raises(NodeError, match="Did you mean"):
        node.node_of("c0001", {word: 1}, "folder")
    (tmp_path / "node.toml").write_text(f"{word} = 1\n")
    with pytest.raises(NodeError, match="Did you mean"):
        node.read(tmp_path / "node.toml")


@pytest.mark.parametrize("text", ["max-epsilon = ", "[floor]\nx = 1\n", 'max-epsilon = "low"\n', "\xff"])
def test_a_file_that_cannot_be_read_is_refused_by_name_and_tells_nobody_its_place(tmp_path, text):
    path = tmp_path / "node.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(checks.UserError) as error:
        node.read(path)
    assert str(tmp_path) not in getattr(error.value, "told", "")
    with pytest.raises(NodeError, match=r"missing\.toml") as missing:
        node.read(tmp_path / "missing.toml")
    assert str(tmp_path) not in missing.value.told


WRONG = [
    ('floor = "dctpd"', "Did you mean 'dctdp'?"), ('floor = "dctdp; none"', "Did you mean 'dctdp'?"),
    ("floor = true", "names of protections"), ("floor = 5", "names of protections"), ('floor = ""', "no protection"),
    ("floor = []", "no protection"), ("floor = [1]", "one value"), ('simulated = "true"', "Write simulated = true"),
    ('allow-test-seed = "true"', "Write allow-test-seed = true"), ("allow-test-seed = 1", "true or false"),
    ('vault-root = "~nosuchuser/v"', "no such user"), ('vault-root = "a\\u0000b"', "vault-root"),
    ('vault-root = ""', "vault-root"), ("data-root = 5", "data-root"), ('data-root = "  "', "data-root"),
    ("floor = " + "[" * 100_000, "no TOML"), ('max-epsilon = "1_0"', "Write 10"), ("max-epsilon = true", "number"),
    ("max-epsilon = -1", "Expected max-epsilon=-1"), ("max-epsilon = nan", "Expected max-epsilon=nan"),
    ("image-delta = 2", "Expected image-delta=2"), ("partition-id = 1.5", "whole number"),
    ("max-epsilon = 1" + "0" * 400, ""),
]  # fmt: skip


@pytest.mark.parametrize(("line", "reason"), WRONG)
def test_a_word_of_a_wrong_kind_is_refused_with_what_to_write(tmp_path, line, reason):
    path = tmp_path / "node.toml"
    path.write_text(f"{line}\n")
    with pytest.raises(NodeError) as caught:
        node.read(path)
    assert reason in str(caught.value)
    assert "policy." not in str(caught.value)
    assert str(tmp_path) not in caught.value.told


def test_a_pipe_and_a_place_that_nobody_has_are_no_file_of_words(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, node.Path("~nosuchuser/node.toml")):
        with pytest.raises(NodeError):
            node.read(path)
    (tmp_path / "node.toml").write_bytes(b"\xef\xbb\xbfmax-epsilon = 8\n")
    assert node.read(tmp_path / "node.toml") == {"max-epsilon": 8}
    assert refusals.places({"vault-root": "~nosuchuser/v"}, {node.FILE: "~nosuchuser/node.toml"}) == []


@pytest.mark.parametrize("word", ["client-delta", "image-delta", "max-delta"])
def test_a_delta_is_no_limit_and_leaves_those_of_the_coordinator(word):
    run = received("protection=dctdp", "policy.floor=[dctdp]", "policy.max_epsilon=8", "protection.total_epsilon=9")
    words = {"client-id": "c0001", "vault-root": "/v", word: 1e-6}
    rule = node.here(run, words).node.policy
    assert (rule.floor, rule.max_epsilon, getattr(rule, word.replace("-", "_"))) == (("dctdp",), 8, 1e-6)
    with pytest.raises(policy.PolicyRefusal, match="at most 8"):
        policy.check(run, node.here(run, words).node, run.planned_event)
    own = node.here(run, {**words, "max-epsilon": 20}).node.policy
    assert (own.floor, own.max_epsilon) == (None, 20)


def test_two_words_for_who_a_node_is_may_not_differ():
    run = received("protection=none")
    assert node.client_of(run, {"client-id": "c0002", "partition-id": 1}) == "c0002"
    with pytest.raises(NodeError, match="two clients"):
        node.client_of(run, {"client-id": "c0001", "partition-id": 1})


def test_a_floor_may_name_a_generator(tmp_path):
    (tmp_path / "node.toml").write_text('floor = "none, id3"\n')
    assert node.node_of("c0001", node.read(tmp_path / "node.toml"), "").policy.floor == ("none", "id3")


def test_a_floor_may_be_a_list_and_nothing_else_may(tmp_path):
    (tmp_path / "node.toml").write_text('floor = ["dctdp", "none"]\n')
    assert node.node_of("c1", node.read(tmp_path / "node.toml"), "d").policy == Policy(("dctdp", "none"), None)
    (tmp_path / "node.toml").write_text('vault-root = ["a", "b"]\n')
    with pytest.raises(NodeError, match="one value"):
        node.read(tmp_path / "node.toml")


def test_relative_places_of_a_file_start_at_its_folder(tmp_path):
    (tmp_path / "node.toml").write_text('data-root = "faces"\nvault-root = "/abs/vault"\n')
    assert node.read(tmp_path / "node.toml") == {"data-root": str(tmp_path / "faces"), "vault-root": "/abs/vault"}


def test_flowers_words_and_the_files_are_joined_and_may_not_differ(tmp_path):
    path = tmp_path / "node.toml"
    path.write_text('max-epsilon = 8.0\nclient-id = "c0001"\n')
    environment = {node.FILE: str(path)}
    assert node.words_of({"floor": "dctdp", "client-id": "c0001"}, environment) == {
        "floor": "dctdp", "client-id": "c0001", "max-epsilon": 8.0
    }  # fmt: skip
    with pytest.raises(NodeError, match="keep one"):
        node.words_of({"max-epsilon": 80.0}, environment)
    assert node.words_of({"simulated": True}, environment) == {"simulated": True}  # `fedveil simulate` says everything
    assert node.words_of({"partition-id": 1}, {}) == {"partition-id": 1}


# --- who and where


def test_a_node_without_its_own_places_refuses_and_names_the_word():
    run = received(*FOLDER)
    for words, missing in (({}, "data-root"), ({"data-root": "mine"}, "vault-root")):
        with pytest.raises(NodeError, match=f"set {missing}="):
            node.here(run, {"client-id": "c0001", **words})
    drawn = received("protection=none")
    with pytest.raises(NodeError, match="set vault-root="):
        node.here(drawn, {"client-id": "c0001"})
    with pytest.raises(NodeError, match="no place"):
        node.here(drawn, {"client-id": "c0001", "data-root": "mine", "vault-root": "mine"})


def test_only_the_nodes_own_places_are_used():
    found = node.here(received(*FOLDER), {"client-id": "c0001", "data-root": "mine", "vault-root": "mine-too"})
    assert found.node.vault().name == "mine-too"
    assert found.home.settings.data.settings["root"] == "mine"
    assert "the-coordinators" not in repr(found)


def test_of_an_owners_own_people_nobody_is_held_out():
    """The coordinator evaluates on people of its own; its word that people are public is not about an owner's."""
    held = [*(word for word in FOLDER if "evaluation" not in word), "data.declared_public_evaluation=true"]
    words = {"client-id": "c0001", "data-root": "mine", "vault-root": "v"}
    assert received(*held).settings.data.settings["evaluation"] == "held_out"
    assert node.here(received(*held), words).home.settings.data.settings["evaluation"] == "procedural"
    dealt = node.here(received(*held), {**words, "simulated": True}).home  # one person's: a share of it is evaluated
    assert dealt.settings.data.settings["evaluation"] == "held_out"


@pytest.mark.parametrize("words", [{"client-id": "c0099"}, {"client-id": "../c0001"}, {"partition-id": 10},
                                   {"partition-id": -1}, {"partition-id": "x"}, {}])  # fmt: skip
def test_a_node_that_is_no_client_of_the_registry_refuses(words):
    with pytest.raises(NodeError):
        node.here(received("protection=none"), {"vault-root": "v", **words})


def test_a_partition_number_is_a_client():
    words = {"vault-root": "v", "partition-id": 2, "num-partitions": 10}
    assert node.here(received("protection=none"), words).client_id == "c0003"


def test_an_owners_own_pictures_are_one_data_set_whatever_the_coordinator_deals():
    """Another seed, cap or registry in the configuration must not open another account for the same pictures."""
    words = {"client-id": "c0002", "data-root": "mine", "vault-root": "v"}
    names = {
        node.here(received(*FOLDER, *more), words).node.data_set
        for more in ((), ("seed=5",), ("train.clients=3",), ("partition.max_identities=7",))
    }
    size = node.here(received(*FOLDER, "data.size=40"), words).node.data_set
    lfw = node.here(received("data=lfw", "data.root=the-coordinators"), words).node.data_set
    assert {size, lfw} == names
    elsewhere = node.here(received(*FOLDER), {**words, "data-root": "elsewhere"}).node.data_set
    assert elsewhere not in names
    assert len(names) == 1
    assert "/" not in names.pop()
    shared = node.here(received(*FOLDER), {**words, "simulated": True})
    assert shared.node.data_set == f"{shared.home.data_id}/c0002"
    assert len(shared.home.registry) == 10


def test_a_word_decides_what_is_accepted_and_not_its_look():
    assert node.node_of("c1", {"allow-test-seed": False, "simulated": False}, "d") == Node("d/c1")
    assert node.node_of("c1", {"max-epsilon": "8.5"}, "d").policy == Policy(None, 8.5)
    for value in ("low", True, "nan", -1):
        with pytest.raises(checks.UserError):
            node.node_of("c1", {"max-epsilon": value}, "d")
