"""Private steps at a client: who is drawn, what is clipped, how loud the noise is, and what stays public."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import stats

from fedveil import checks
from fedveil.federation.federation import Federation
from fedveil.federation.tensors import get_tensors
from fedveil.privacy import noise
from fedveil.private_training import choice
from fedveil.private_training.base import Batch, Clip
from fedveil_clients import private_training, rows, sites
from fedveil_clients.policy import Node

SMALL = (
    "study=quick", "tracking=none", "protection=none", "data.identities=8", "data.images_per_identity=4",
    "data.evaluation_identities=4", "data.evaluation_images=2", "data.pairs=8", "data.public_identities=4",
    "data.public_images=4", "model.width=8", "model.embedding=16", "train.clients=2", "train.local.steps=2",
    "train.batch_size=6", "train.rounds=3", "train.weight_decay=0.0",
)  # fmt: skip
UNITS = ("image", "identity")


def words_of(unit, **fields):
    fields = {"noise_multiplier": 1.0, "sampling_rate": 0.5, "rows": 16, "gradients": "loop", **fields}
    return [f"privacy.{unit}.{name}={value}" for name, value in fields.items()]


@pytest.fixture
def site_of(tmp_path):
    """Return a function that opens a client under words; `faces` changes what it holds."""

    def opened(*words, run="run", monkey=None, faces=None):
        chosen = Federation.of([*SMALL, f"vault.root={tmp_path / 'vault'}", *words])
        node = Node("here", allow_test_seed=True, vault_root=chosen.settings.vault.root)
        if faces is not None:
            monkey.setattr(sites, "own_faces", lambda *_: faces)
        site = sites.open_site(chosen, run, "c0002", node, {})
        site.booked.on_disk()
        return site

    return opened


def streams(number=1):
    return private_training.Streams.of(number.to_bytes(32, "big"))


def faces_of(chosen):
    return chosen.faces_of("c0002")


def gradient_of(site, engine="loop"):
    """The clipped sums of a step, without noise and divisor, of whatever is drawn."""
    budget = dataclasses.replace(site.federation.private, noise_multiplier=None, expected_batch=1, gradients=engine)
    classifier = private_training.Classifier(site.backbone, private_training.first_head(site))
    moved = [*(dict(site.backbone.named_parameters())[name] for name in site.allowed), classifier.head.weight]
    learner = private_training.learner(site, classifier, moved)
    found = private_training._Gradient(site, budget, learner)
    found._divisor = 1

    def flat(these):
        return torch.cat([part.double().ravel() for part in found.noisy(these, streams())])

    return flat


def all_of(site):
    """Every unit of a site drawn."""
    budget = dataclasses.replace(site.federation.private, sampling_rate=1.0)
    return private_training.drawn(site, budget, streams())


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_more_moves_the_sum_by_at_most_the_clip(site_of, monkeypatch, unit):
    words = words_of(unit, clip=0.7)
    site = site_of(*words)
    faces = faces_of(site.federation)
    whole = gradient_of(site)(all_of(site))
    gone = faces.labels == faces.labels[0] if unit == "identity" else np.arange(len(faces)) == 0
    fewer = site_of(*words, run="other", monkey=monkeypatch, faces=faces.subset(~gone))
    moved = torch.linalg.vector_norm(whole - gradient_of(fewer)(all_of(fewer)))
    assert 0.6 < float(moved) <= 0.7 * (1 + 1e-6)  # gradients here are longer than the clip


def test_an_image_that_is_not_finite_moves_nothing(site_of, monkeypatch):
    site = site_of(*words_of("image"))
    whole = all_of(site)
    rest = private_training.Drawn(whole.images[1:], whole.unit[1:] - 1, whole.weight[1:], whole.units - 1)
    before = gradient_of(site)(rest)
    inner = site.features
    first = int(whole.images[0])

    def broken(index, step):
        found = inner(index, step).clone()
        found[torch.from_numpy(index == first)] = math.nan
        return found

    spoilt = dataclasses.replace(site, features=broken)
    assert torch.allclose(gradient_of(spoilt)(whole), before, atol=1e-6)


def test_the_sum_is_the_naive_one(site_of):
    """Against per-image gradients by autograd in float64, clipped and added by hand."""
    site = site_of(*words_of("image", clip=0.3))
    found = gradient_of(site)(all_of(site))
    head, total = site.federation.head, 0.0
    classifier = private_training.Classifier(site.backbone, private_training.first_head(site)).double()
    moved = [*(dict(site.backbone.named_parameters())[name] for name in site.allowed), classifier.head.weight]
    for number in range(len(site.people)):
        cosine = classifier(site.features(np.array([number]), 0).double())
        logits = head.logits(cosine, site.labels[number : number + 1])
        loss = torch.nn.functional.cross_entropy(logits, site.labels[number : number + 1])
        one = torch.cat([part.ravel() for part in torch.autograd.grad(loss, moved)])
        total = total + one * min(1.0, 0.3 / float(one.norm()))
    site.backbone.float()
    assert torch.allclose(found, total, rtol=1e-4, atol=1e-6)


def test_every_step_has_noise_of_its_own_of_the_stated_size(site_of):
    """A round with noise less the same without: two steps of standard deviation z C / batch each, at lr."""
    words = ["privacy.test_seed=5", "train.lr=0.5", "train.head_lr=0.5", "train.local.steps=1"]
    loud = site_of(*words, *words_of("image", noise_multiplier=3.0, clip=0.2, expected_batch=4))
    quiet = site_of(*words, *words_of("image", noise_multiplier=1e-6, clip=0.2, expected_batch=4), run="quiet")
    tensors = get_tensors(loud.federation.backbone())
    updates = [private_training.train_round(site, 1, tensors).tensors for site in (loud, quiet)]
    noises = np.concatenate([(updates[0][name] - updates[1][name]).ravel() for name in tensors])
    scaled = noises / (0.5 * 3.0 * 0.2 / 4)
    assert abs(float(np.mean(scaled**2)) - 1) < 4.9 * math.sqrt(2 / scaled.size)
    assert stats.kstest(scaled, "norm").pvalue > 1e-6
    heads = [s.vault.heads(s.run_id, "c0002").before(2) for s in (loud, quiet)]
    of_head = (heads[0] - heads[1]).ravel() / (0.5 * 3.0 * 0.2 / 4)
    assert abs(float(np.mean(of_head**2)) - 1) < 4.9 * math.sqrt(2 / of_head.size)  # in the same vector


def test_an_empty_batch_is_noise_and_a_step(site_of, monkeypatch):
    site = site_of(*words_of("image", sampling_rate=1e-9), "train.local.steps=4")
    drawn, inner = [], noise.gaussian

    def counted(stream, sigma):
        drawn.append(sigma.numel())
        return inner(stream, sigma)

    monkeypatch.setattr(noise, "gaussian", counted)
    tensors = get_tensors(site.federation.backbone())
    update = private_training.train_round(site, 1, tensors)
    count = sum(value.size for value in tensors.values()) + 16 * 16
    assert sum(drawn) == 4 * count
    assert all(np.any(value) for value in update.tensors.values())


@pytest.mark.parametrize("unit", UNITS)
def test_units_join_by_independent_coins_of_the_public_rate(site_of, unit):
    site = site_of(*words_of(unit, sampling_rate=0.3, images_per_step=2) if unit == "identity" else words_of(unit))
    rate = site.federation.private.sampling_rate
    units = int(site.people.max()) + 1 if unit == "identity" else len(site.people)
    whom = site.people if unit == "identity" else np.arange(len(site.people))
    secret, trials = streams(3), 1500
    joined = np.zeros((trials, units), bool)
    sizes = set()
    for trial in range(trials):
        these = private_training.drawn(site, site.federation.private, secret)
        joined[trial, whom[these.images]] = True
        sizes.add(these.units)
        assert these.units == joined[trial].sum()
        assert np.allclose(np.bincount(these.unit, these.weight, these.units), 1)
    counts = joined.sum(0)
    assert (np.abs(counts - trials * rate) < 5 * math.sqrt(trials * rate * (1 - rate))).all()
    pairs = np.corrcoef(joined.T) - np.eye(units)
    assert np.abs(pairs).max() < 5 / math.sqrt(trials)
    assert len(sizes) > 3  # a batch of one size would be another sampling


def test_a_person_is_looked_at_by_a_bounded_number_of_fresh_pictures(site_of):
    site = site_of(*words_of("identity", images_per_step=2))
    secret, seen = streams(4), set()
    for _ in range(60):
        these = private_training.drawn(site, site.federation.private, secret)
        for one in range(these.units):
            pictures = these.images[these.unit == one]
            assert len(pictures) == 2
            assert len({int(site.people[number]) for number in pictures}) == 1
            seen |= set(pictures.tolist())
    assert seen == set(range(len(site.people)))


def test_views_of_a_picture_are_averaged_before_the_clip(site_of):
    words = ["train.augment.flip=true"]
    site = site_of(*words, *words_of("image", views=4, clip=0.7))
    flat = gradient_of(site)
    whole = all_of(site)
    one = private_training.Drawn(whole.images[:4], whole.unit[:4], whole.weight[:4], 1)
    assert len(set(one.images.tolist())) == 1
    assert float(torch.linalg.vector_norm(flat(one))) <= 0.7 * (1 + 1e-6)


def test_a_picture_less_may_turn_its_persons_vector_round():
    """So a guarantee for people holds for one picture at the price of a person who is replaced, not as it is."""
    network = torch.nn.Linear(1, 1, bias=False)
    clip, loop = Clip(1.0), choice.engine("loop")

    def summed(*slopes):
        count = len(slopes)
        batch = Batch(
            torch.tensor(slopes)[:, None], torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.int64),
            torch.full((count,), 1 / count), 1,
        )  # fmt: skip
        return float(loop(network, lambda outputs, labels: outputs[:, 0], batch, [network.weight], clip).tensors[0])

    assert summed(10.0, -8.0) - summed(-8.0) == pytest.approx(2.0, abs=1e-5)


@pytest.mark.parametrize("unit", UNITS)
def test_all_rows_of_a_unit_are_one_unit_and_weigh_one(site_of, unit):
    """Views, and a person's pictures, that were counted for themselves would each add a vector of norm C."""
    more = {"images_per_step": 3} if unit == "identity" else {}
    site = site_of("train.augment.flip=true", *words_of(unit, views=3, **more))
    these = all_of(site)
    count = int(site.people.max()) + 1 if unit == "identity" else len(site.people)
    assert these.units == count
    for one in range(count):
        images = these.images[these.unit == one]
        assert len(images) == (9 if unit == "identity" else 3)
        owners = site.people[images] if unit == "identity" else images
        assert set(owners.tolist()) == {one}
        assert these.weight[these.unit == one].sum() == pytest.approx(1)


def test_coins_and_variants_of_every_step_and_round_are_their_own(site_of):
    """Nothing about them is a function of public numbers, or of what another round drew."""
    site, seen = site_of(*words_of("image")), []
    inner = site.features

    def noted(index, step):
        seen.append((tuple(index.tolist()), step))
        return inner(index, step)

    spied, tensors = dataclasses.replace(site, features=noted), get_tensors(site.federation.backbone())
    for number in (1, 2, 1):
        private_training.train_round(spied, number, tensors)
    assert len({images for images, _ in seen}) == len(seen) >= 5
    assert len({step for _, step in seen}) == len(seen)
    assert min(step for _, step in seen) > 1000  # no step of a schedule


def test_parts_of_a_step_hold_whole_units_and_everything():
    sizes = np.array([3, 1, 5, 2, 2, 9, 1])
    unit = np.repeat(np.arange(7), sizes)
    whole = private_training.Drawn(np.arange(23), unit, np.ones(23, np.float32), 7)
    for at_once in (1, 2, 4, 8, 23, 100):
        found = list(private_training.parts(whole, at_once))
        assert np.concatenate([part.images for part in found]).tolist() == list(range(23))
        assert [int(size) for part in found for size in np.bincount(part.unit, minlength=part.units)] == sizes.tolist()
        assert all(len(part.images) <= max(at_once, 9) for part in found)


def test_the_sum_does_not_depend_on_how_a_step_is_cut(site_of):
    site = site_of(*words_of("image"))
    flat, whole = gradient_of(site), all_of(site)
    pieces = [flat(part) for part in private_training.parts(whole, 3)]
    assert torch.allclose(sum(pieces), flat(whole), rtol=1e-5, atol=1e-6)


def test_coins_noise_and_variants_are_the_operating_systems_and_differ(site_of):
    site = site_of(*words_of("image"))
    tensors = get_tensors(site.federation.backbone())
    updates = [private_training.train_round(site, 1, tensors).tensors["stem.weight"] for _ in range(2)]
    assert not np.array_equal(*updates)
    fixed = site_of(*words_of("image"), "privacy.test_seed=1", run="fixed")
    one, two, other = (private_training._key(fixed, number) for number in (1, 1, 2))
    assert one == two != other
    named = streams()
    assert len({bytes(part.words(4)) for part in (named.coins, named.noise, named.variants)}) == 3


def test_a_row_does_not_depend_on_who_else_is_there(site_of, monkeypatch):
    site = site_of(*words_of("identity"))
    faces = faces_of(site.federation)
    fewer = faces.subset(faces.labels != faces.labels[0])
    other = site_of(*words_of("identity"), run="other", monkey=monkeypatch, faces=fewer)
    assert torch.equal(site.labels[torch.from_numpy(faces.labels != faces.labels[0])], other.labels)
    assert site.classes == other.classes == 16
    spread = rows.of_people([f"person {number}" for number in range(4000)], 16, 1)
    assert stats.chisquare(np.bincount(spread, minlength=16)).pvalue > 1e-6


def test_a_fixed_head_stays(site_of):
    site = site_of(*words_of("image", head="fixed"))
    tensors = get_tensors(site.federation.backbone())
    before = private_training.first_head(site)
    private_training.train_round(site, 1, tensors)
    assert np.array_equal(site.vault.heads("run", "c0002").before(2), before.numpy())
    assert np.any(private_training.train_round(site, 2, tensors).tensors["stem.weight"])


def test_a_trained_head_goes_on_where_the_last_round_left_it(site_of, monkeypatch):
    site = site_of(*words_of("image"))
    tensors, begun = get_tensors(site.federation.backbone()), []
    inner = private_training.Classifier

    def seen(backbone, start, precision):
        begun.append(start.clone())
        return inner(backbone, start, precision)

    monkeypatch.setattr(private_training, "Classifier", seen)
    for number in (1, 2):
        private_training.train_round(site, number, tensors)
    kept = site.vault.heads("run", "c0002").before(2)
    assert np.array_equal(begun[1].numpy(), kept)
    assert not np.array_equal(begun[0].numpy(), kept)


@pytest.mark.parametrize("unit", UNITS)
def test_an_owner_without_pictures_gives_noise(site_of, monkeypatch, unit):
    words = words_of(unit)
    faces = faces_of(site_of(*words).federation)
    empty = site_of(*words, run="other", monkey=monkeypatch, faces=faces.subset(np.zeros(len(faces), bool)))
    update = private_training.train_round(empty, 1, get_tensors(empty.federation.backbone())).tensors
    assert all(np.any(value) for value in update.values())


@pytest.mark.parametrize("unit", UNITS)
def test_what_is_public_does_not_depend_on_the_data(site_of, monkeypatch, unit):
    site = site_of(*words_of(unit))
    faces = faces_of(site.federation)
    fewer = site_of(*words_of(unit), run="other", monkey=monkeypatch, faces=faces.subset(np.arange(len(faces)) > 2))
    assert site.federation.private_schedule == fewer.federation.private_schedule
    asked: list[tuple[object, ...]] = []
    inner = noise.gaussian

    def told(stream, sigma):
        asked.append((tuple(sigma.shape), float(sigma.max())))
        return inner(stream, sigma)

    monkeypatch.setattr(noise, "gaussian", told)
    for one in (site, fewer):
        private_training.train_round(one, 1, get_tensors(one.federation.backbone()))
    assert asked[: len(asked) // 2] == asked[len(asked) // 2 :]


REFUSED = {
    "privacy.image.epsilon=8 privacy.identity.epsilon=8": "one clip for two units",
    "privacy.image.epsilon=8 train.local.epochs=1": "needs train.local.steps",
    "privacy.image.epsilon=8 protection=advface": "learns from clean faces",
    "privacy.image.epsilon=8 train.correction=scaffold": "every round's noise",
    "privacy.image.epsilon=8 train.class_share=0.5": "which centres compete",
    "privacy.image.epsilon=8 train.bank_identities=2": "train.bank_identities=0",
    "privacy.image.epsilon=8 protection=dctdp protection.memoise=false": "memoise=true",
    "privacy.image.epsilon=8 privacy.image.sampling_rate=1.5": "a probability|probability with which",
    "privacy.image.epsilon=8 privacy.image.delta=0.01": "privacy.image.delta",
    "privacy.image.epsilon=8 privacy.image.sampling_rate=1e-9": "Raise the rate",
    "privacy.image.epsilon=inf privacy.image.noise_multiplier=1": "remove one of them",
    "privacy.image.noise_multiplier=1 privacy.image.rows=1": "at least 2",
    "privacy.image.clip=2": "needs privacy.image.epsilon=8",
    "privacy.image.epsilon=8 privacy.image.views=3": "views of a picture",
    "privacy.image.epsilon=8 privacy.image.images_per_step=3": "images_per_step",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_would_not_be_private_is_refused_before_training(words):
    kept = [word for word in SMALL if "epochs" not in words or "local" not in word]
    with pytest.raises(checks.UserError, match=REFUSED[words]):
        Federation.of([*kept, *words.split()])
