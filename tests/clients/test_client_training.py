"""A client's round: what it computes from, what leaves, and what does not."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

import fedveil
from fedveil import checks, runs
from fedveil.commands import simulate
from fedveil.configuration.schema import Policy
from fedveil.data.faces import FaceSet
from fedveil.engine import _flower
from fedveil.federation import instruction
from fedveil.federation.federation import Federation
from fedveil.federation.schedule import Stage
from fedveil.federation.tensors import get_tensors, set_tensors
from fedveil.federation.training import batch_indices
from fedveil.privacy.ledger import Ledger
from fedveil.records import model_sha256
from fedveil_clients import app as client_app
from fedveil_clients import features, sites, training
from fedveil_clients.policy import Node, PolicyRefusal
from fedveil_clients.vault import Vault

SMALL = (
    "study=quick", "tracking=none", "data.identities=8", "data.images_per_identity=4", "data.evaluation_identities=4",
    "data.evaluation_images=2", "data.pairs=8", "data.public_identities=4", "data.public_images=4",
    "protection.fit_steps=0", "protection.init=zeros", "model.width=8", "model.embedding=16", "train.clients=3",
    "train.local.steps=2", "train.batch_size=6",
)  # fmt: skip
NODE = Node("here", allow_test_seed=True)


@pytest.fixture
def settings(tmp_path):
    return lambda *words: Federation.of([*SMALL, f"vault.root={tmp_path / 'vault'}", *words])


def public_state(chosen):
    public = chosen.split.public
    return chosen.protection.fit(public.images(), public.labels, chosen.settings.seed)


def start(chosen):
    return get_tensors(chosen.backbone())


def at_home(chosen, node=NODE):
    return dataclasses.replace(node, vault_root=chosen.settings.vault.root)


def site_of(chosen, client="c0002", run="run", node=NODE):
    site = sites.open_site(chosen, run, client, at_home(chosen, node), public_state(chosen))
    site.booked.on_disk()
    return site


def test_the_update_is_local_minus_global(settings):
    chosen = settings()
    site, tensors = site_of(chosen), start(chosen)
    kept = {name: value.copy() for name, value in tensors.items()}
    update = training.train_round(site, 1, tensors)
    after = get_tensors(site.backbone)
    assert set(update.tensors) == set(tensors)
    assert update.client_id == "c0002"
    for name, value in update.tensors.items():
        assert value.dtype == np.float32
        assert np.array_equal(value, after[name] - kept[name])
        assert np.array_equal(tensors[name], kept[name])  # the broadcast tensors are only read
    assert any(np.any(value) for value in update.tensors.values())


def test_one_step_is_one_sgd_step_by_finite_differences(settings):
    chosen = settings("train.local.steps=1", "train.weight_decay=0.0", "train.lr=0.01")
    site, tensors = site_of(chosen), start(chosen)
    count, seed = len(site.labels), chosen.settings.seed
    index = next(batch_indices(count, 6, seed, "batches", "c0002", start_step=0, steps=1))
    fed, labels = site.features(index, 0).double(), site.labels[torch.from_numpy(index)]
    centres = training.first_head(site).double()

    def loss(moved):
        set_tensors(site.backbone, moved)
        with torch.no_grad():
            embedded = torch.nn.functional.normalize(site.backbone.double()(fed))
            cosine = embedded @ torch.nn.functional.normalize(centres).T
            found = float(torch.nn.functional.cross_entropy(site.federation.head.logits(cosine, labels), labels))
        site.backbone.float()
        return found

    name = max(tensors, key=lambda key: tensors[key].size)
    direction = np.random.default_rng(0).normal(size=tensors[name].shape).astype(np.float32)
    step = 2e-4
    up, down = ({**tensors, name: tensors[name] + sign * step * direction} for sign in (1, -1))
    slope = (loss(up) - loss(down)) / (2 * step)
    update = training.train_round(site, 1, tensors)
    assert float((update.tensors[name] * direction).sum()) == pytest.approx(-0.01 * slope, rel=2e-2)


def test_only_the_allow_list_is_trained_and_leaves(settings):
    chosen = settings("train.trainable=embed.*")
    site, tensors = site_of(chosen), start(chosen)
    update = training.train_round(site, 1, tensors)
    assert set(update.tensors) == {name for name in tensors if name.startswith("embed.")} != set()
    after = get_tensors(site.backbone)
    frozen = set(tensors) - set(update.tensors)
    assert all(np.array_equal(after[name], tensors[name]) for name in frozen)


@pytest.mark.parametrize("protection", ["dctdp", "none"])
def test_a_round_run_again_gives_equal_bits(settings, protection):
    words = [] if protection == "dctdp" else ["protection.fit_steps=0"]
    chosen = settings(*words) if protection == "dctdp" else bare(settings())
    tensors = start(chosen)
    site = site_of(chosen)
    training.train_round(site, 1, tensors)
    second = model_sha256(training.train_round(site, 2, tensors).tensors)
    assert model_sha256(training.train_round(site, 2, tensors).tensors) == second
    assert model_sha256(training.train_round(site_of(chosen), 2, tensors).tensors) == second  # after a restart
    assert model_sha256(training.train_round(site, 3, tensors).tensors) != second


def bare(chosen):
    return Federation(simulate.without_protection(chosen.settings))


def test_the_release_is_booked_once_per_run_then_reused(settings, tmp_path):
    chosen = settings()
    site_of(chosen)
    site_of(chosen)
    site_of(chosen, run="later")
    rows = Ledger(tmp_path / "vault" / "ledger.sqlite").rows()
    found = [(row.run_id, row.subject, row.status) for row in rows]
    assert found[0] == ("run", NODE.data_set, "spent")
    assert found[-1] == ("later", NODE.data_set, "reused")
    assert [status for *_, status in found].count("spent") == 1


def test_a_refusing_owner_touches_nothing(settings, tmp_path):
    with pytest.raises(PolicyRefusal):
        site_of(settings(), node=Node("d", policy=Policy(("dct",), None)))
    assert not (tmp_path / "vault").exists()


def test_the_vault_is_closed_whatever_the_protection(settings, tmp_path):
    site_of(bare(settings()))
    assert (tmp_path / "vault").stat().st_mode & 0o777 == 0o700


def test_clean_images_are_read_once_when_copies_are_memoised(settings, monkeypatch):
    chosen = settings()
    read = []
    images = FaceSet.images
    monkeypatch.setattr(FaceSet, "images", lambda self, index=None: read.append(index) or images(self, index))
    state = public_state(chosen)
    read.clear()
    site = sites.open_site(chosen, "run", "c0002", at_home(chosen), state)
    own = np.concatenate(read)
    assert sorted(own.tolist()) == list(range(len(own)))  # each image exactly once
    read.clear()
    for number in (1, 2):
        training.train_round(site, number, start(chosen))
    sites.open_site(chosen, "run", "c0002", at_home(chosen), state)
    assert read == []


def test_fresh_noise_differs_from_step_to_step_and_is_booked_for_the_whole_run(settings, tmp_path):
    chosen = settings("protection.memoise=false")
    site = site_of(chosen)
    index = np.arange(2)
    assert not torch.equal(site.features(index, 0), site.features(index, 1))
    assert Ledger(tmp_path / "vault" / "ledger.sqlite").rows()[0].event.releases == 3 * 2
    site_of(chosen)  # every attempt draws afresh, and is counted
    assert len(Ledger(tmp_path / "vault" / "ledger.sqlite").rows()) == 2


def test_one_person_is_refused_unless_there_is_a_bank(settings):
    alone = settings("partition.max_identities=1")
    with pytest.raises(checks.UserError, match="bank_identities"):
        site_of(alone)
    site = site_of(settings("partition.max_identities=1", "train.bank_identities=3"))
    assert site.classes == 4
    assert sorted(set(site.labels.tolist())) == [0, 1, 2, 3]
    training.train_round(site, 1, start(alone))


def test_bank_negatives_are_public_faces_with_labels_of_their_own(settings, monkeypatch):
    chosen = settings("train.bank_identities=2")
    plain = site_of(settings())
    site = site_of(chosen, run="with a bank")
    own = len(plain.labels)
    assert torch.equal(site.labels[:own], plain.labels)
    assert set(site.labels[own:].tolist()) == {plain.classes, plain.classes + 1}
    split = chosen.split
    public = split.public.subset(np.isin(split.public.labels, split.public.identities[:2]))
    assert len(site.labels) - own == len(public)
    read = []
    images = FaceSet.images
    monkeypatch.setattr(
        FaceSet, "images", lambda self, index=None: read.append(self.present_names) or images(self, index)
    )
    mixed = site.features(np.array([own, 0, own + 1, 1]), 0)
    assert {name for names in read for name in names} <= set(split.public.present_names)
    monkeypatch.undo()
    assert torch.equal(mixed[[1, 3]], plain.features(np.array([0, 1]), 0))
    assert torch.equal(mixed[[0, 2]], site.features(np.array([own, own + 1]), 5))


def test_a_bank_larger_than_the_public_faces_is_refused(settings):
    with pytest.raises(checks.UserError, match="bank_identities=5"):
        site_of(settings("train.bank_identities=5"))


def ask(chosen, number=1, node_config=None, tensors=None):
    words = {**simulate.node_words(chosen.settings), **(node_config or {})}
    engine = _flower.Settings(chosen.settings.train.clients, {}, words)
    _flower.identify()
    told = {"config": instruction.to_wire(chosen.settings), "run_id": "run", "version": fedveil.__version__}
    state = {key: value.numpy() for key, value in public_state(chosen).items()}
    content = RecordDict(
        {
            "instruction": ConfigRecord({**told, "round": number}),
            "tensors": ArrayRecord({key: Array(value) for key, value in (tensors or start(chosen)).items()}),
            "state": ArrayRecord({key: Array(value) for key, value in state.items()}),
        }
    )
    message = Message(content, dst_node_id=2, message_type="train")
    _flower.number(message, "m1")
    context = _flower.client_context(engine, 2)
    return client_app.app(message, context), context


def test_nothing_but_the_update_is_in_the_reply_or_the_context(settings, tmp_path, caplog, capfd):
    chosen = settings()
    tensors = start(chosen)
    with caplog.at_level(logging.DEBUG):
        reply, context = ask(chosen, tensors=tensors, node_config={"data-set": NODE.data_set})
    assert sorted(reply.content) == ["reply", "update"]
    assert list(reply.content.array_records) == ["update"]
    about = dict(reply.content.config_records["reply"])
    assert about == {"run_id": "run", "round": 1, "vault": Vault(tmp_path / "vault").identity()}
    update = reply.content.array_records["update"]
    assert sorted(update) == sorted(tensors)
    assert {name: tuple(array.shape) for name, array in update.items()} == {n: v.shape for n, v in tensors.items()}
    assert len(context.state) == 0
    own = [record for record in caplog.records if record.name.startswith("fedveil")]
    assert own == []
    assert capfd.readouterr().out == ""
    expected = training.train_round(site_of(chosen, run="again"), 1, tensors)
    assert model_sha256({n: a.numpy() for n, a in update.items()}) == model_sha256(expected.tensors)


def test_the_head_is_in_no_message(settings, tmp_path):
    chosen = settings()
    reply, _ = ask(chosen)
    head = site_of(chosen).vault.heads("run", "c0002").before(2)
    data = _flower.to_bytes(reply)
    for row in head:
        assert row.tobytes()[:16] not in data


@pytest.mark.parametrize(
    ("words", "node", "reason"),
    [
        (["privacy.test_seed=1"], {"allow-test-seed": False}, "test_seed"),
        ([], {"floor": "elsewhere"}, "floor"),
        (["partition.max_identities=1"], {}, "bank_identities"),
    ],
)
def test_a_refusal_is_a_reason_and_nothing_else(settings, words, node, reason):
    reply, _ = ask(settings(*words), node_config=node)
    assert list(reply.content) == ["refusal"]
    assert set(reply.content.config_records["refusal"]) == {"reason", "kind", "client_id"}
    assert reason in str(reply.content.config_records["refusal"]["reason"])


def test_every_person_has_one_client_and_unknown_clients_are_refused(settings):
    chosen = settings()
    people = [set(chosen.faces_of(name).present_names) for name in ("c0001", "c0002", "c0003")]
    assert sum(len(part) for part in people) == len(set.union(*people)) == 8
    with pytest.raises(checks.UserError, match="c0009"):
        chosen.faces_of("c0009")


def test_draws_without_a_guarantee_are_fresh_for_every_use_and_persons_differ_across_clients(settings, monkeypatch):
    """A step, place or client left out of a draw's key would show every image one way, or one way to all."""
    from fedveil.protections.partialface import PartialFace

    seen = []

    def watching(self, images, state, visit):
        seen.append(([stream.uniform(1)[0] for stream in visit.streams], list(visit.identities)))
        return torch.zeros(len(images), *self.layout((32, 32)))

    monkeypatch.setattr(PartialFace, "training_features", watching)
    words = [word for word in SMALL if not word.startswith("protection.")]
    chosen = Federation.of([*words, "protection=partialface", f"vault.root={settings().settings.vault.root}"])
    mine, other = site_of(chosen), site_of(chosen, "c0003", node=Node("here/c0003", allow_test_seed=True))
    seen.clear()
    for site, step in ((mine, 0), (mine, 1), (other, 0)):
        site.features(np.array([0, 0, 1]), step)
    draws = [draw for drawn, _ in seen for draw in drawn]
    assert len(set(draws)) == 9
    mine.features(np.array([0, 0, 1]), 0)
    assert seen[3][0] == seen[0][0]  # a function of client, step and place: an interrupted round repeats
    assert seen[0][1] == seen[1][1]
    assert seen[0][1][0] == seen[0][1][1]
    assert not set(seen[0][1]) & set(seen[2][1])


def test_one_name_at_two_clients_is_two_persons(settings):
    chosen = settings()
    faces, persons = chosen.faces_of("c0002"), []

    class Spy:
        noise, memoise = "", False

        def prepared(self, images, state):
            return None

        def training_features(self, images, state, visit):
            persons.append(visit.identities[0])
            return images.float()

    chosen.__dict__["protection"] = Spy()  # where the cached one would be
    feeding = features.Feeding(chosen, Stage(0, "recogniser", 1, 1), {}, b"mechanism")
    for where in ("c0001", "c0002"):
        feeding.empirical(faces, where)(np.array([0]), 0)
    assert persons[0] != persons[1]


def test_training_that_diverges_names_the_learning_rates_and_keeps_nothing(settings):
    chosen = settings("train.lr=1e30", "train.head_lr=1e30", "train.local.steps=4")
    site = site_of(chosen)
    said = r"diverged: .* is not finite. Lower train.lr=1e\+30 or train.head_lr=1e\+30"
    with pytest.raises(checks.UserError, match=said):
        training.train_round(site, 1, start(chosen))
    assert site.vault.heads("run", "c0002").before(2) is None


def test_kept_class_centres_of_other_people_are_refused(settings):
    chosen = settings()
    site = site_of(chosen)
    site.vault.heads("run", "c0002").save(1, np.zeros((site.classes + 1, 16), np.float32))
    with pytest.raises(checks.UserError, match=rf"holds {site.classes + 1} class centres for {site.classes} classes"):
        training.train_round(site, 2, start(chosen))


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        ((), "Lower train.lr=1e+30"),
        (("privacy.client.epsilon=8", "privacy.client.noise_multiplier=1", "privacy.client.delta=1e-5"), ""),
    ],
)
def test_beside_a_client_level_claim_the_reason_stays_with_the_owner(settings, claim, said):
    words = ("train.lr=1e30", "train.head_lr=1e30", "train.local.steps=4", *claim)
    reply, _ = ask(settings(*words))
    reason = str(reply.content.config_records["refusal"]["reason"])
    assert said in reason if said else "1e+30" not in reason and reason.startswith("the client could not")


def test_a_round_steps_at_the_rates_of_its_place_in_the_schedule(settings):
    """One step is linear in the rates, so the scheduled update and centres are the plain ones times the factor."""
    words = ("train.local.steps=1", "train.rounds=8")
    plain, falling = settings(*words), settings(*words, "train.schedule.kind=cosine")
    tensors, updates, heads = start(plain), [], []
    for run, chosen in (("plain", plain), ("falling", falling)):
        site = site_of(chosen, run=run)
        updates.append(training.train_round(site, 3, tensors))
        heads.append(site.vault.heads(run, "c0002").before(4) - training.first_head(site).numpy())
    factor = (1 + np.cos(np.pi * 2 / 8)) / 2
    for name, value in updates[0].tensors.items():
        assert np.allclose(updates[1].tensors[name], factor * value, rtol=1e-3, atol=1e-7)
    assert np.allclose(heads[1], factor * heads[0], rtol=1e-3, atol=1e-6)


def test_fedprox_holds_the_update_back_and_leaves_centres_free(settings):
    words = ("train.local.steps=4",)
    updates = []
    for strength in (0.0, 3.0):
        chosen = settings(*words, f"train.proximal={strength}")
        updates.append(training.train_round(site_of(chosen, run=f"run{strength}"), 1, start(chosen)).tensors)
    sizes = [sum(float(np.square(value).sum()) for value in update.values()) for update in updates]
    assert 0 < sizes[1] < 0.95 * sizes[0]


def test_a_share_of_the_classes_competes_and_a_round_run_again_draws_the_same(settings):
    chosen = settings("train.class_share=0.5", "train.local.steps=1", "train.batch_size=1", "train.bank_identities=4")
    tensors, site = start(chosen), site_of(chosen)
    assert site.classes >= 6
    first = training.first_head(site).numpy()
    update = training.train_round(site, 3, tensors)
    moved = (site.vault.heads("run", "c0002").before(4) != first).any(1)
    assert moved.sum() == -(-site.classes // 2)
    again = training.train_round(site_of(chosen, run="again"), 3, tensors)
    assert model_sha256(again.tensors) == model_sha256(update.tensors)
    whole = training.train_round(site_of(settings(
        "train.local.steps=1", "train.batch_size=1", "train.bank_identities=4"), run="whole"), 3, tensors)  # fmt: skip
    assert model_sha256(whole.tensors) != model_sha256(update.tensors)


def test_a_control_variate_stays_in_the_vault_and_is_taken_out_of_the_next_steps(settings, tmp_path):
    words = ("train.local.steps=3", "train.lr=0.00005", "train.schedule.kind=cosine", "train.schedule.warm_up=0.5")
    plain, corrected = settings(*words), settings(*words, "train.correction=scaffold")
    tensors = start(plain)
    nothing = {f"control/{name}": np.zeros_like(value) for name, value in tensors.items()}
    first = [
        training.train_round(site_of(chosen, run=run), 1, {**tensors, **nothing})
        for run, chosen in (("p", plain), ("s", corrected))
    ]
    assert model_sha256(first[0].tensors) == model_sha256(first[1].tensors)  # nobody knows anything yet
    folder = tmp_path / "vault" / "heads" / "s" / "c0002" / "drift"
    kept = runs.unpack(folder / "r000001.npz")[0]["centres"][0]
    rate = corrected.settings.train.lr / 3  # the first of two rounds of warm-up
    mean_gradient = np.concatenate([value.ravel() for value in first[1].tensors.values()]) / (-3 * rate)
    assert np.allclose(kept, mean_gradient, rtol=1e-2, atol=1e-2)
    assert (folder / "r000001.npz").stat().st_mode & 0o777 == 0o600

    mean = {name: 0.1 * np.ones_like(value) for name, value in nothing.items()}
    second = training.train_round(site_of(corrected, run="s"), 2, {**tensors, **mean})
    after = get_tensors(site_of(corrected, run="s").backbone)
    without = training.train_round(site_of(plain, run="p"), 2, tensors)
    assert set(second.tensors) == set(without.tensors) == set(tensors)
    moved, free, walked = (
        np.concatenate([one[name].ravel() for name in tensors])
        for one in (second.tensors, without.tensors, {name: after[name] - tensors[name] for name in tensors})
    )
    length = 3 * 2 * rate
    expected = free + length * kept  # to first order: gradients along both ways are alike
    assert np.linalg.norm(moved - expected) < 0.1 * np.linalg.norm(free)
    assert np.allclose(walked, moved - length * 0.1, atol=1e-6), "it walks along c and does not send that"
    newer = runs.unpack(folder / "r000002.npz")[0]["centres"][0]
    assert np.allclose(newer, kept - moved / length, rtol=1e-4, atol=1e-4), "from what it was, not from nothing"
    again = training.train_round(site_of(corrected, run="s"), 2, {**tensors, **mean})
    assert model_sha256(again.tensors) == model_sha256(second.tensors)


def test_the_mean_variate_has_to_come_with_the_tensors_and_nothing_else_may(settings):
    tensors = start(settings())
    control = {f"control/{name}": np.zeros_like(value) for name, value in tensors.items()}
    corrected = settings("train.correction=scaffold")
    reply, _ = ask(corrected, tensors={**tensors, **control}, node_config={"data-set": NODE.data_set})
    assert set(reply.content.array_records["update"]) == set(tensors)
    odd = {**control, next(iter(control)): np.zeros((1, 2, 3), np.float32)}
    endless = {**control, next(iter(control)): np.full_like(next(iter(control.values())), np.inf)}
    for chosen, given in ((corrected, {}), (settings(), control), (corrected, odd), (corrected, endless)):
        reply, _ = ask(chosen, tensors={**tensors, **given}, node_config={"data-set": NODE.data_set})
        assert dict(reply.content.config_records["refusal"])["kind"] == "refused"


def test_a_control_variate_of_another_network_is_refused(settings):
    chosen = settings("train.correction=scaffold")
    site = site_of(chosen)
    training.drift._store(site, "").save(1, np.zeros((1, 7), np.float32))
    with pytest.raises(checks.UserError, match=r"drift holds a control variate of 7 numbers .* another run's"):
        training.train_round(site, 2, start(chosen))
