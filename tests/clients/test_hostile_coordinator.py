"""Whatever a coordinator sends: nothing is made before the floor was checked, nothing is used before it was checked."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from PIL import Image

import fedveil
from fedveil import config
from fedveil.engine import _flower
from fedveil.federation import federation, instruction
from fedveil.federation.federation import Federation
from fedveil.federation.tensors import get_tensors
from fedveil_clients import app as client_app
from fedveil_clients import node, received, sites, training

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


def answer(content, kind="train", words=None, at=2):
    _flower.identify()
    message = Message(RecordDict(content), dst_node_id=at, message_type=kind)
    _flower.number(message, "m1")
    own = {"client-id": f"c000{at}", "vault-root": "vault", **(words or {})}
    context = _flower.client_context(_flower.Settings(3, {}, own), at)
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


def test_a_client_who_is_asked_out_of_turn_refuses_and_leaves_nothing_behind(state):
    """Banded noise hides a client whose rounds are the bands apart: the coordinator's word is not enough."""
    budget = ["privacy.client.noise_multiplier=1", "privacy.client.bands=2", "train.cohort.rate=0.5", "train.rounds=4"]
    chosen = Federation.of([*BARE, *budget])
    for number in (1, 3):  # c0002 has the second place, so the even rounds
        reason = refused(answer(round_of(chosen, state, number=number)))
        assert f"round {number} is the turn of group 1 of 2, and client c0002 is in group 2" in reason
        assert everything() == []
    assert "update" in answer(round_of(chosen, {}, number=2))


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


@pytest.mark.parametrize("word", ["train.lr=0.05", "protection.fit_steps=1", "seed=2", "privacy.test_seed=1"])
@pytest.mark.parametrize("number", [1, 2])
def test_one_run_id_is_one_configuration(run, state, word, number):
    """Each of them would be another answer, and some another draw, of a release that was booked once."""
    own = {"max-epsilon": 1000.0, "max-total-epsilon": 1000.0, "allow-test-seed": True}
    assert "update" in answer(round_of(run, state), words=own)
    before = vault_content()
    said = refused(answer(round_of(Federation.of([*SMALL, word]), state, number=number), words=own))
    assert "another configuration" in said
    assert vault_content() == before
    assert "update" in answer(round_of(run, state, number=2), words=own)


def vault_content():
    """Rows of the ledger and how many noisy copies there are."""
    with contextlib.closing(sqlite3.connect("vault/copies/index.sqlite")) as index:
        (copies,) = index.execute("SELECT COUNT(*) FROM copy").fetchone()
    return client_app.Vault(node.Path("vault")).ledger.rows(), copies


@pytest.mark.parametrize("number", [1, 2])
def test_one_run_id_is_one_state_in_each_stage(run, state, number):
    """Another state is another mechanism, so other noise on the same pictures, under an event that looks the same."""
    assert "update" in answer(round_of(run, state))
    before = vault_content()
    for factor in (1.5, 0.5):
        weights = state["weights"].copy()
        weights.flat[0] *= factor
        assert "state" in refused(answer(round_of(run, {**state, "weights": weights}, number=number)))
    assert vault_content() == before
    pinned = sorted(node.Path("vault/accepted/run").iterdir())
    assert [path.name for path in pinned] == ["configuration", "state-in-stage-0"]
    assert {path.stat().st_mode & 0o777 for path in pinned} == {0o600}


def test_all_clients_of_one_vault_have_one_configuration_and_state(run, state):
    """In a simulation nothing was asked of the second client before: what the first accepted stands for both."""
    own = {"simulated": True}
    assert "update" in answer(round_of(run, state), words=own)
    other = Federation.of([*SMALL, "train.lr=0.05"])
    assert "another configuration" in refused(answer(round_of(other, state), words=own, at=1))
    moved = {**state, "weights": state["weights"] * np.float32(1.01)}
    assert "another state" in refused(answer(round_of(run, moved), words=own, at=1))
    assert "update" in answer(round_of(run, state), words=own, at=1)


def test_at_client_level_one_round_has_one_answer():
    words = [*BARE, "privacy.client.epsilon=8", "privacy.client.delta=1e-5"]
    own = {"max-client-epsilon": 8.0}
    found = [answer(round_of(Federation.of([*words, f"train.lr={rate}"]), {}), words=own) for rate in (0.1, 0.2, 0.1)]
    assert "update" in found[0]
    assert "another configuration" in refused(found[1])
    assert found[2].array_records["update"] == found[0].array_records["update"]  # what was sent first, once more


def test_what_was_sent_is_all_that_an_answer_depends_on(run, state):
    start = get_tensors(run.backbone())
    moved = {name: value + 1 for name, value in start.items()}
    weights = {**state, "weights": state["weights"] * np.float32(1.01)}

    def sent(run, number, state, tensors):
        content = [received.Content(record(one)) for one in (state, tensors)]
        return received.tensors_of(run, number, *content)[1]

    other = Federation.of([*SMALL, "train.lr=0.05"])
    cases = [(run, 1, state, start), (run, 2, state, start), (run, 1, weights, start), (run, 1, state, moved),
             (other, 1, state, start)]  # fmt: skip
    assert len({sent(*case) for case in cases}) == len(cases)
    assert sent(Federation.of(SMALL), 1, state, start) == sent(*cases[0])


def test_a_round_is_on_disk_before_anything_is_computed_in_it(run, state, monkeypatch):
    """A node that fails, or is killed, between computing and remembering would answer the round twice."""

    def failing(*_):
        assert node.Path("vault/heads/run/c0002/last").read_text().startswith("1 ")
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_round", failing)
        refused(answer(round_of(run, state)))
    assert "killed" in node.Path("vault/refusals.log").read_text()
    moved = {name: value + 1 for name, value in get_tensors(run.backbone()).items()}
    assert "other tensors" in refused(answer(round_of(run, state, moved)))
    assert "update" in answer(round_of(run, state))


# --- what a reason tells


def pictures(people=3, each=3):
    drawn = np.random.default_rng(len(everything())).integers(0, 256, (people, each, 32, 32, 3), dtype=np.uint8)
    for person, images in enumerate(drawn):
        for number, pixels in enumerate(images):
            path = node.Path(f"faces/p{person}/{number}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


def of_folder(*words):
    kept = [word for word in SMALL if not word.startswith(("data.", "protection."))]
    return Federation.of([*kept, "data=folder", "data.root=x", "data.evaluation=procedural", "data.size=32",
                          "data.min_images=2", *words])  # fmt: skip


def state_at(run, size):
    public = Federation.of([f"data.size={size}"]).split.public
    return {k: v.numpy() for k, v in run.protection.fit(public.images(), public.labels, run.settings.seed).items()}


def forget():
    """Read the pictures anew, as a node does that was started again."""
    for cache in (client_app._site, node._home, federation._split, federation._shares):
        cache.cache_clear()


def test_a_refusal_tells_no_count_of_the_owners_pictures():
    """How many there are, and how many of them changed, is for the owner's log alone, under a claim above all."""
    run, own = of_folder("protection=none", "privacy.client.epsilon=8"), {"data-root": "faces"}
    pictures()
    assert "update" in answer(round_of(run, {}), words=own)
    for name in ("faces/p0/0.png", "faces/p1/1.png"):
        Image.new("RGB", (32, 32), (7, 9, len(name))).save(name)
    forget()
    said = refused(answer(round_of(run, {}, number=2), words=own))
    assert "pictures are others" in said
    assert not any(letter.isdigit() for letter in said)
    assert "2 pictures are others" in node.Path("vault/refusals.log").read_text()


def test_too_many_pictures_for_a_delta_are_refused_and_not_counted(tmp_path, monkeypatch):
    """The public caps bound the number already; should they fail, the pictures at hand are what counts."""
    images = np.zeros((10_001, 32, 32, 3), np.uint8)
    labels, names = np.arange(10_001) % 300, [f"p{number}" for number in range(300)]
    np.savez("faces.npz", images=images, labels=labels, names=np.array(names))
    kept = [word for word in SMALL if not word.startswith("data.")]
    words = [*kept, "data=packed", "data.path=faces.npz", "data.evaluation=procedural", "data.size=32",
             "protection.noise=gaussian", "protection.delta=1e-5", "partition.max_identities=300"]  # fmt: skip
    uncapped = ["partition.max_images_per_identity=100", "policy.max_delta=1e-5", "train.clients=1"]
    loose = Federation.of([*words, *uncapped])
    run = Federation.of([*words, "partition.max_images_per_identity=10"])
    state = state_at(run, 32)
    monkeypatch.setattr(sites, "own_faces", lambda *_: loose.faces_of(loose.registry[0]))
    said = refused(answer(round_of(run, state), words={"data-root": "faces.npz", "floor": "dctdp"}))
    assert said == "protection.delta is too large for the owner's number of images; lower it"
    assert "10,001 images" in node.Path("vault/refusals.log").read_text()
    assert not node.Path("vault/ledger.sqlite").exists()


def test_a_refusal_over_runs_tells_the_limit_and_not_what_is_spent(state):
    own = {"max-total-epsilon": 1003.0}
    for number, budget in enumerate((1000, 5)):
        run = Federation.of([*SMALL, f"protection.total_epsilon={budget}"])
        found = answer(round_of(run, state, run_id=f"run{number}"), words=own)
    said = refused(found)
    assert "at most 1003 at delta 1e-05" in said
    assert "1000" not in said
    assert "1005" not in said
    assert "1000 is spent and this run would make it 1005" in node.Path("vault/refusals.log").read_text()


def test_a_refusal_that_says_nothing_of_what_may_be_told_tells_nothing():
    assert client_app.policy.PolicyRefusal("12 pictures are odd").told == "the owner refuses; its log says why"


# --- whose account


def test_another_way_of_reading_a_folder_is_no_other_account():
    """What a coordinator writes into `data` decides how the pictures are read, and never what they have spent."""
    pictures()
    own = {"data-root": "faces", "max-total-epsilon": 8.0, "floor": "dctdp"}
    budget = ("protection=dctdp", "protection.fit_steps=0", "protection.init=zeros", "protection.total_epsilon=8")
    found = []
    for number, size in enumerate((32, 40)):
        run = of_folder(*budget, f"data.size={size}")
        found.append(answer(round_of(run, state_at(run, size), run_id=f"run{number}"), words=own))
    assert "update" in found[0]
    assert "at most 8" in refused(found[1])


@pytest.mark.parametrize("name", ["h/w/1", "h/w/2", "pictures-ab12cd/12ab34/*", "a*", "", " "])
def test_an_owners_name_cannot_be_a_share_of_a_deal(run, state, name):
    assert refused(answer(round_of(run, state), words={"data-set": name})) == (
        "This node's data-set is expected to be a name without / and *."
    )
    assert everything() == []


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
