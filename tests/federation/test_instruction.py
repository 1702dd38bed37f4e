"""The wire: nothing of a machine leaves it, and what arrives is checked before anything is done with it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from flwr.app import Array

from fedveil import checks, config, console
from fedveil.federation import instruction, packed
from fedveil.federation.federation import Federation
from fedveil.federation.instruction import BadInstruction

PLACES = ["data=folder", "data.root=my-faces", "data.evaluation=procedural", "vault.root=my-vault", "runs.root=my-runs",
          "tracking.uri=http://me:my-password@my-server", "tracking.experiment=my-study",
          "train.warm_start=my-checkpoint.npz", "engine.workers=7"]  # fmt: skip


def tree_of(*words):
    return json.loads(instruction.to_wire(Federation.of(words).settings))


# --- sending


def test_nothing_of_a_machine_is_sent():
    text = instruction.to_wire(Federation.of(PLACES).settings)
    assert "my-" not in text
    assert not {"engine", "tracking", "runs", "vault"} & set(json.loads(text))
    assert "root" not in json.loads(text)["data"]
    assert tree_of("train.warm_start=public")["train"]["warm_start"] == "public"


def test_what_is_computed_arrives_as_it_was():
    run = Federation.of([*PLACES, "train.rounds=7", "policy.floor=[dctdp]", "privacy.test_seed=3"])
    found = instruction.from_wire(instruction.to_wire(run.settings))
    assert (found.total_rounds, found.registry, found.size) == (7, run.registry, run.size)
    same = ("seed", "partition", "model", "head", "protection", "aggregation", "privacy", "evaluation", "policy")
    assert all(getattr(found.settings, name) == getattr(run.settings, name) for name in same)
    assert found.planned_event == run.planned_event
    assert instruction.from_wire(instruction.to_wire(run.settings)) is found  # once per process


# --- receiving


def test_places_that_arrive_all_the_same_are_not_read(tmp_path):
    """A hostile coordinator writes them back; a complete configuration has them, too."""
    evil = str(tmp_path / "evil")
    run = Federation.of([f"vault.root={evil}", f"runs.root={evil}", "tracking.uri=http://evil", "data=folder",
                         f"data.root={evil}", "data.evaluation=procedural"])  # fmt: skip
    settings = instruction.from_wire(config.to_json(run.settings)).settings
    assert {settings.vault.root, settings.runs.root, settings.data.settings["root"]} == {instruction.NOWHERE}
    assert settings.tracking.name == "none"
    assert "evil" not in config.to_json(settings)
    with pytest.raises((ValueError, checks.UserError)):  # whoever forgets to ask for a place gets none
        (tmp_path / settings.vault.root).mkdir()


def test_what_a_machine_says_itself_is_not_even_looked_at():
    tree = tree_of("protection=none")
    odd = {"device_batch": -1, "device": 7, "engine": "none", "vault": [], "runs": None, "tracking": 3}
    found = instruction.from_wire(json.dumps({**tree, **odd})).settings
    assert (found.device, found.device_batch) == ("auto", None)
    assert (found.engine.name, found.tracking.name) == ("inline", "none")


def altered(change):
    tree = tree_of("protection=none")
    change(tree)
    return json.dumps(tree)


def nested(depth):
    return '{"data": {"name": ' + "[" * depth + "]" * depth + "}}"


HOSTILE = {
    "no text": 7,
    "bytes": b"{}",
    "no JSON": "{",
    "another kind": "[1, 2]",
    "an absurd length": altered(lambda tree: None) + " " * 70_000,
    "endless depth": nested(20_000),
    "not a number": '{"data": {"name": "procedural", "size": NaN}}',
    "too large a number": altered(lambda tree: tree["train"].update(rounds=10**12)),
    "a number of many digits": altered(lambda tree: tree.update(seed=0)).replace('"seed": 0', '"seed": 1' + "0" * 5000),
    "an infinite number": altered(lambda tree: tree["train"].update(lr=0)).replace('"lr": 0', '"lr": 1e999'),
    "an unknown section": altered(lambda tree: tree.update(more={})),
    "an unknown setting": altered(lambda tree: tree["train"].update(ronds=3)),
    "a missing section": altered(lambda tree: tree.pop("train")),
    "a section that is none": altered(lambda tree: tree.update(train=[])),
    "a method that is none": altered(lambda tree: tree["protection"].update(name="os.system")),
    "a method that is no name": altered(lambda tree: tree.update(protection={"name": ["none"]})),
    "a method without a name": altered(lambda tree: tree.update(model={})),
    "data that is no block": altered(lambda tree: tree.update(data="folder")),
    "a size that no protection serves": json.dumps({**tree_of(), "data": {**tree_of()["data"], "size": 33}}),
    "a text of an absurd length": altered(lambda tree: tree["train"].update(trainable="a" * 2000)),
    "a type": altered(lambda tree: tree["train"].update(rounds="many")),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_no_instruction_is_refused_in_one_sentence(text):
    with pytest.raises(BadInstruction) as error:
        instruction.from_wire(text)
    assert len(str(error.value)) < 600
    assert "Traceback" not in str(error.value)


PATHS = ["", ".", "..", "../x", "a/b", "/etc/x", "a\\b", "a\0", "-x", "x" * 90, 7, None, "a b", "a\n"]


@pytest.mark.parametrize("name", PATHS)
def test_a_run_id_is_a_plain_name(name):
    with pytest.raises(BadInstruction, match="run_id"):
        instruction.plain_name(name, "run_id")


@pytest.mark.parametrize("number", [0, -1, 4, 10**30, "2", 2.0, True, None, "x" * 10_000])
def test_a_round_is_one_of_the_schedule(number):
    run = Federation.of(["protection=none", "train.rounds=3"])
    assert [instruction.round_of(run, value) for value in (1, 3)] == [1, 3]
    with pytest.raises(BadInstruction, match="schedule") as error:
        instruction.round_of(run, number)
    assert len(str(error.value)) < 120


# --- a coordinator's own machine


def test_a_bundle_is_completed_by_its_coordinators_own_words():
    run = Federation.of(PLACES)
    text = instruction.to_wire(run.settings)
    own = [word for word in PLACES if instruction.is_own(word, instruction.own_keys("folder"))]
    found = instruction.completed(text, own).settings
    assert (found.data, found.tracking, found.runs, found.engine) == (
        run.settings.data, run.settings.tracking, run.settings.runs, run.settings.engine
    )  # fmt: skip
    assert found.train == run.settings.train
    assert config.digest(found) == config.digest(run.settings)
    with pytest.raises(checks.UserError, match=r"train\.rounds=3 is for the bundle"):
        instruction.completed(text, ["train.rounds=3"])
    whole = config.to_json(run.settings)
    assert instruction.completed(whole, ["runs.root=elsewhere"]).settings == run.settings


# --- arrays


def arrays(**values):
    return {name: Array(np.asarray(value)) for name, value in values.items()}


GOOD = {"a": np.ones((2, 3), np.float32), "b": np.float32(4.0).reshape(())}
SHAPES = {name: value.shape for name, value in GOOD.items()}


def test_arrays_that_are_the_expected_ones_arrive_bit_by_bit():
    found = packed.tensors(arrays(a=np.asfortranarray(GOOD["a"]), b=GOOD["b"]), SHAPES)
    assert all(np.array_equal(found[name], GOOD[name]) and found[name].flags.writeable for name in GOOD)


def spoilt(name, **changes):
    array = Array(GOOD[name])
    for key, value in changes.items():
        setattr(array, key, value)
    return {**arrays(**GOOD), name: array}


def claims_to_be(shape, data=b""):
    import io

    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return stream.getvalue() + data


BAD = {
    "too few": arrays(a=GOOD["a"]),
    "too many": arrays(**GOOD, c=GOOD["a"]),
    "another name": arrays(a=GOOD["a"], c=GOOD["b"]),
    "another shape": arrays(a=GOOD["a"].T, b=GOOD["b"]),
    "another type": arrays(a=GOOD["a"].astype(np.float64), b=GOOD["b"]),
    "whole numbers": arrays(a=GOOD["a"].astype(np.int64), b=GOOD["b"]),
    "not finite": arrays(a=np.full((2, 3), np.inf, np.float32), b=GOOD["b"]),
    "huge": arrays(a=np.ones((2000, 3000), np.float32), b=GOOD["b"]),
    "a shape of terabytes": spoilt("a", data=claims_to_be((10**6, 10**6))),
    "a negative shape": spoilt("a", data=claims_to_be((-2, -3), b"\0" * 24)),
    "no array": spoilt("a", data=b"no array"),
    "half an array": spoilt("a", data=Array(GOOD["a"]).data[:-3]),
    "objects": spoilt("a", data=claims_to_be((1,)).replace(b"<f4", b"|O ")),
    "a pickle": spoilt("a", data=b"\x80\x04."),
    "another form": spoilt("a", stype="torch"),
}


@pytest.mark.parametrize("given", BAD.values(), ids=BAD.keys())
def test_other_arrays_are_refused_before_they_are_unpacked(given):
    with pytest.raises(BadInstruction):
        packed.tensors(given, SHAPES)


def test_whether_values_are_finite_may_be_left_to_whoever_clips_them():
    assert np.isinf(packed.tensors(BAD["not finite"], SHAPES, finite=False)["a"]).all()


def test_a_state_has_a_plausible_size(monkeypatch):
    assert packed.state(arrays(**GOOD))["a"].tolist() == GOOD["a"].tolist()
    monkeypatch.setattr(packed, "_STATE", 100)
    with pytest.raises(BadInstruction, match="at most 100 bytes"):
        packed.state(arrays(**GOOD))


@pytest.mark.parametrize("name", ["\x1b]0;owned\x07", "dctdp\nverdict: accepted", "dctpd"])
def test_a_floor_that_arrives_holds_names_of_protections(name):
    tree = json.loads(instruction.to_wire(Federation.of(["protection=none"]).settings))
    tree["policy"]["floor"] = [name]
    with pytest.raises(BadInstruction, match="floor") as caught:
        instruction.from_wire(json.dumps(tree))
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_arrives_steers_no_terminal(capsys):
    console.tell("one \x1b[2J\x07\x9b\u202e two\nthree\tfour")
    console.complain("five \x1b[31m\r")
    console.Console("plain").say("six \x1b[31m")
    shown = capsys.readouterr()
    assert not set(shown.out + shown.err) & set("\x1b\x07\x9b\u202e\r")
    assert shown.out == "one \\x1b[2J\\x07\\x9b\\u202e two\nthree\tfour\nsix \\x1b[31m\n"
    assert shown.err == "five \\x1b[31m\\r\n"
