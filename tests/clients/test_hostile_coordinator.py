"""Whatever a coordinator sends: nothing is made before the floor was checked, nothing is used before it was checked."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

import fedveil
from fedveil import config
from fedveil.engine import _flower
from fedveil.federation import instruction
from fedveil.federation.federation import Federation
from fedveil.federation.tensors import get_tensors
from fedveil_clients import app as client_app
from fedveil_clients import node, training

SMALL = (
    "study=quick", "tracking=none", "data.identities=8", "data.images_per_identity=4", "data.evaluation_identities=4",
    "data.evaluation_images=2", "data.pairs=8", "data.public_identities=4", "data.public_images=4",
    "protection.fit_steps=0", "protection.init=zeros", "model.width=8", "model.embedding=16", "train.clients=3",
    "train.local.steps=2", "train.batch_size=6",
)  # fmt: skip


BARE = (*(word for word in SMALL if not word.startswith("protection.")), "protection=none")


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(node.FILE, raising=False)


@pytest.fixture(scope="module")
def run():
    return Federation.of(SMALL)


@pytest.fixture(scope="module")
def state(run):
    public = run.split.public
    return {k: v.numpy() for k, v in run.protection.fit(public.images(), public.labels, run.settings.seed).items()}


def record(arrays):
    return ArrayRecord({name: Array(np.asarray(value)) for name, value in arrays.items()})


def asked(run, **changes):
    told = {"config": instruction.to_wire(run.settings), "run_id": "run", "version": fedveil.__version__, **changes}
    return ConfigRecord({key: value for key, value in told.items() if value is not None})


def answer(content, kind="train", words=None):
    _flower.identify()
    message = Message(RecordDict(content), dst_node_id=2, message_type=kind)
    _flower.number(message, "m1")
    own = {"client-id": "c0002", "vault-root": "vault", **(words or {})}
    context = _flower.client_context(_flower.Settings(3, {}, own), 2)
    reply = client_app.app(message, context)
    assert not reply.has_error()
    assert reply.metadata.reply_to_message_id == "m1"
    return reply.content


def refused(content):
    assert list(content) == ["refusal"]
    given = content.config_records["refusal"]
    assert set(given) == {"reason", "kind", "client_id"}
    reason = str(given["reason"])
    assert "\n" not in reason
    assert len(reason) < 400
    assert "Traceback" not in reason
    return reason


def round_of(run, state, tensors=None, number=1, **changes):
    tensors = get_tensors(run.backbone()) if tensors is None else tensors
    told = asked(run, **{"round": number, **changes})
    return {"instruction": told, "tensors": record(tensors), "state": record(state)}


def everything():
    return sorted(os.listdir("."))


# --- before anything exists


def test_a_query_makes_no_vault_where_the_coordinator_says(tmp_path, run):
    evil = tmp_path / "evil" / "vault"
    chosen = Federation.of([*BARE, f"vault.root={evil}", f"runs.root={evil}"]).settings
    told = asked(run, config=config.to_json(chosen))
    assert "floor" in refused(answer({"instruction": told}, "query", {"floor": "dctdp"}))
    assert everything() == []
    answer({"instruction": told}, "query")
    assert everything() == ["vault"]  # its own, once the floor has been checked


@pytest.mark.parametrize(
    ("words", "own", "reason"),
    [
        (BARE, {"floor": "dctdp"}, "floor"),
        (SMALL, {"max-epsilon": 8.0}, "at most 8"),
        (BARE, {"max-epsilon": 8.0}, "infinite"),
        ([*SMALL, "privacy.test_seed=1"], {}, "test_seed"),
        (SMALL, {"max-epsilonn": 8.0}, "Did you mean 'max-epsilon'"),
        (SMALL, {"client-id": "c9"}, "registry"),
    ],
)
@pytest.mark.parametrize("kind", ["query", "train"])
def test_a_refusal_leaves_nothing_behind(run, state, words, own, reason, kind):
    chosen = Federation.of(words)
    content = {"instruction": asked(chosen)} if kind == "query" else round_of(chosen, state)
    assert reason in refused(answer(content, kind, own))
    assert everything() == []


def test_checking_the_floor_after_the_vault_is_caught(run, monkeypatch):
    """The mutant that makes the vault first, as a query once did."""
    check = client_app.policy.check
    monkeypatch.setattr(
        client_app.policy, "check", lambda *given: client_app.Vault(given[1].vault()).owner_key() and check(*given)
    )
    with pytest.raises(AssertionError):
        test_a_refusal_leaves_nothing_behind(run, {}, BARE, {"floor": "dctdp"}, "floor", "query")


def test_the_roll_call_names_the_client_its_version_and_its_vault_alone(run):
    (found,) = answer({"instruction": asked(run)}, "query").config_records.values()
    assert dict(found) == {
        "client_id": "c0002", "version": fedveil.__version__, "run_id": "run",
        "vault": client_app.Vault(node.Path("vault")).identity(),
    }  # fmt: skip


# --- other messages


def test_messages_of_another_kind_and_missing_records_are_answered_in_a_sentence(run, state):
    whole = round_of(run, state)
    for kind in ("evaluate", "train.more", "query.more"):
        assert "nothing else is answered" in refused(answer(whole, kind))
    for content in (
        {}, {"instruction": asked(run)}, {**whole, "more": ConfigRecord({})}, {**whole, "tensors": ConfigRecord({})},
        {**whole, "instruction": record({"a": 1.0})}, {**whole, "state": MetricRecord({"a": 1})},
    ):  # fmt: skip
        assert "Expected" in refused(answer(content))
    assert "Expected" in refused(answer(whole, "query"))
    assert everything() == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": "9.9"}, "install equal versions"),
        ({"version": None}, "install equal versions"),
        ({"config": "{"}, "cannot be read"),
        ({"config": None}, "Expected an instruction"),
        ({"config": " " * 70_000}, "characters"),
        ({"config": b"{}"}, "text"),
        ({"run_id": "../../elsewhere"}, "run_id"),
        ({"run_id": ""}, "run_id"),
        ({"run_id": 7}, "run_id"),
        ({"round": 0}, "schedule"),
        ({"round": 4}, "schedule"),
        ({"round": "1"}, "schedule"),
        ({"round": None}, "Expected an instruction"),
        ({"more": 1}, "Expected an instruction"),
    ],
)
def test_an_instruction_that_is_none_is_refused(run, state, changes, reason):
    assert reason in refused(answer(round_of(run, state, **changes)))
    assert everything() == []


def test_an_error_instead_of_content_is_refused(run):
    _flower.identify()
    message = Message(RecordDict({"instruction": asked(run)}), dst_node_id=2, message_type="train")
    _flower.number(message, "m1")
    context = _flower.client_context(_flower.Settings(3, {}, {"client-id": "c0002", "vault-root": "vault"}), 2)
    refused(client_app.app(_flower.failure(message, "no content"), context).content)
    assert everything() == []


# --- tensors and state


def spoilt_tensors(run):
    good = get_tensors(run.backbone())
    name = sorted(good)[0]
    yield {key: value for key, value in good.items() if key != name}
    yield {**good, "head": np.zeros(3, np.float32)}
    yield {**good, name: good[name][None]}
    yield {**good, name: good[name].astype(np.float64)}
    yield {**good, name: np.full_like(good[name], np.nan)}
    yield {**good, name: np.zeros(10**7, np.float32)}
    yield {}


def test_tensors_that_are_not_the_networks_are_refused_before_anything_is_booked(run, state):
    for tensors in spoilt_tensors(run):
        assert "ensor" in refused(answer(round_of(run, state, tensors)))
        assert everything() == []


def test_a_state_that_is_not_the_protections_is_refused_before_anything_is_booked(run, state):
    for other in ({}, {**state, "more": np.zeros(1, np.float32)}, {**state, "radius": np.float32(-1.0)},
                  {**state, "weights": np.full_like(state["weights"], np.nan)},
                  {**state, "weights": state["weights"][None]},
                  {**state, "weights": state["weights"].astype(np.int64)}):  # fmt: skip
        refused(answer(round_of(run, other)))
        assert everything() == []


# --- rounds


def test_rounds_go_forward_and_the_last_one_is_repeated_with_equal_tensors_only(run, state):
    start = get_tensors(run.backbone())
    first = answer(round_of(run, state, number=2))
    again = answer(round_of(run, state, number=2))  # a coordinator that was interrupted
    assert first.array_records["update"] == again.array_records["update"]
    assert "after round 2" in refused(answer(round_of(run, state, number=1)))
    moved = {name: value + 1 for name, value in start.items()}
    assert "other tensors" in refused(answer(round_of(run, state, moved, number=2)))
    assert "update" in answer(round_of(run, state, moved, number=3))
    assert "update" in answer(round_of(run, state, number=1, run_id="another"))
    about = answer(round_of(run, state, number=2, run_id="third")).config_records["reply"]
    assert (about["run_id"], about["round"]) == ("third", 2)


# --- what a reason tells


def test_what_speaks_of_the_owners_data_stays_in_the_owners_log(run, state, monkeypatch):
    def failing(*_):
        raise OSError("faces/ann/0001.jpg is damaged")

    monkeypatch.setattr(training, "train_round", failing)
    answer({"instruction": asked(run)}, "query")
    reason = refused(answer(round_of(run, state)))
    assert "ann" not in reason
    log = node.Path("vault/refusals.log")
    assert log.stat().st_mode & 0o777 == 0o600
    assert "run run: OSError: faces/ann/0001.jpg is damaged" in log.read_text()
    own = {"simulated": True}  # the same person
    assert "ann/0001.jpg" in refused(answer(round_of(run, state, run_id="b"), words=own))
    claimed = Federation.of([*SMALL, "privacy.client.epsilon=8", "privacy.client.delta=1e-5"])
    assert "ann" not in refused(answer(round_of(claimed, state, run_id="c"), words=own))


def test_no_traceback_and_no_place_whatever_goes_wrong(run, state, monkeypatch):
    monkeypatch.setattr(client_app.received, "records", lambda *_: 1 / 0)
    for kind in ("query", "train"):
        assert "division" not in refused(answer(round_of(run, state), kind))


def test_a_configuration_that_is_read_twice_is_the_same_object(run):
    """A thousand clients of one process parse it once."""
    text = json.dumps(json.loads(instruction.to_wire(run.settings)), sort_keys=True)
    assert instruction.from_wire(text) is instruction.from_wire(str(text))
