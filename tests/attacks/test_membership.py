"""Membership: formulas against naive loops, choices on other people, a leak that is found and noise that is not."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

from fedveil import checks, config, runs
from fedveil.attacks import _membership_formulas as formulas
from fedveil.attacks import _membership_measures as told
from fedveil.attacks import _membership_people as people
from fedveil.attacks import _membership_rates as rates
from fedveil.attacks import _membership_signals as signals
from fedveil.attacks import _membership_trials as trials
from fedveil.attacks import _references as references
from fedveil.attacks._target import Target
from fedveil.attacks.base import Finding
from fedveil.attacks.membership import Membership
from fedveil.commands import simulate
from fedveil.data import synthetic_set
from fedveil.data.provenance import Provenance
from fedveil.data.sources.procedural import draw_faces
from fedveil.federation import claims, finished
from fedveil.federation.federation import Federation

WORDS = (
    "study=quick", "protection=none", "tracking=none", "engine=inline", "device=cpu", "data.identities=42",
    "data.images_per_identity=3", "data.evaluation_identities=10", "data.evaluation_images=2", "data.pairs=20",
    "data.public_identities=2", "data.public_images=2", "train.clients=1", "train.rounds=1", "train.local.steps=120",
    "train.weight_decay=0", "model.width=8", "model.embedding=32", "evaluation.bootstrap=0", "evaluation.draws=1",
)  # fmt: skip
ATTACK = Membership(members=42, images=3, views=2, references=0, bootstrap=200)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Target:
    """A small network that saw few people very often."""
    root = tmp_path_factory.mktemp("membership")
    words = [*WORDS, f"runs.root={root / 'runs'}", f"vault.root={root / 'vault'}"]
    federation, run_id = simulate.prepare(words, None)
    simulate.simulate(federation, run_id, "quiet")
    model = finished.model_of(config.load(["protection=none", f"runs.root={root / 'runs'}", "device=cpu"]), run_id)
    return Target.of(model, runs.open_run(root / "runs", run_id))


@pytest.fixture(scope="module")
def found(target: Target) -> Finding:
    return dataclasses.replace(ATTACK, references=2).run(target)


def interval(finding: Finding, name: str) -> tuple[float, float]:
    measure = next(one for one in finding.measures if one.name == name)
    assert measure.low is not None
    assert measure.high is not None
    return measure.low, measure.high


def test_an_overfitted_model_tells_who_trained(found: Finding) -> None:
    for name in ("image_auc", "identity_auc", "identity_rmia_auc", "identity_lira_auc", "vault_auc"):
        assert interval(found, name)[0] > 0.55, name
    assert (found.value("identity_epsilon_lower") or 0) > 0.3
    assert "Membership leaks" in found.verdict
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["people"]["members"] == {"people": 42, "images": 252, "digest": plain["people"]["members"]["digest"]}
    assert all(x > 0 for x in plain["curves"]["identity"]["x"])  # for a logarithmic axis


def test_a_model_that_saw_nobody_tells_nothing(target: Target) -> None:
    blank = Target(target.federation, target.state, target.federation.backbone().eval())
    finding = ATTACK.run(blank)
    for unit in ("image", "identity"):
        low, high = interval(finding, f"{unit}_auc")
        assert low < 0.5 < high
        assert finding.value(f"{unit}_epsilon_lower") == 0
    assert finding.verdict.startswith("Nobody")
    assert finding.value("client_auc") is None
    assert "no vault of the run" in finding.notes[0]
    assert finding.value("vault_auc") is None


def test_scores_are_compared_with_the_models_as_they_were_trained(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = people.asked_of(target.federation, 42, 3, 1)
    inside = references.halves(asked, 2, 4)
    blank = target.federation.backbone().eval()
    models = [references.Reference(blank, target.state, one) for one in inside]
    seen: list[np.ndarray] = []
    score = trials.of_identities

    def watched(*given: Any) -> trials.Table:
        seen.append(given[-1])
        return score(*given)

    monkeypatch.setattr(references, "trained", lambda *_: iter(models))
    monkeypatch.setattr(trials, "of_identities", watched)
    dataclasses.replace(ATTACK, references=2).run(target)
    assert np.array_equal(seen[0], inside)


def test_an_epsilon_stands_beside_the_one_that_is_proven(target: Target, found: Finding) -> None:
    said = {one.name: one.said for one in found.measures}
    assert "no guarantee" in said["image_epsilon_lower"]
    assert "no statement of this unit" in said["identity_epsilon_lower"]
    asked = people.asked_of(target.federation, 42, 3, 1)
    words = ["protection=none", "privacy.client.epsilon=2", "privacy.client.delta=1e-6", "train.clients=100"]
    federation = Federation.of(words)
    proven = claims.planned(federation, federation.release_event({})).statements
    bound = told.bound("client", proven, asked)
    assert bound.epsilon == pytest.approx(2, rel=0.02)
    assert bound.delta == 1e-6
    assert "proven: 2" in bound.said
    assert told.bound("vault", proven, asked).epsilon is None  # class centres leave nobody, and nothing is claimed
    bare = dataclasses.replace(asked, spare=False)
    assert "strangers" in told.bound("image", proven, bare).said


# --- who ---------------------------------------------------------------------------------------------------------


def test_groups_are_disjoint_and_members_are_those_who_trained(target: Target) -> None:
    asked = people.asked_of(target.federation, 30, 2, 5)
    train = set(target.federation.split.train.present_names)
    names = np.array(asked.faces.present_names)
    assert asked.members == 30
    assert set(names[asked.is_member]) < train
    assert not set(names[~asked.is_member]) & train
    assert not set(names) & set(target.federation.split.public.present_names)
    records = set(target.federation.split.train.records)
    used = [record in records for record in np.array(asked.faces.records)[asked.is_member[asked.person]]]
    assert used == asked.trained[asked.is_member[asked.person]].tolist()  # spare pictures never trained
    per_person = np.bincount(asked.person[asked.scored & asked.trained])
    assert set(per_person) == {2}
    rest = target.federation.split.train.subset(asked.others)
    assert set(rest.present_names) == train - set(names)
    again = people.asked_of(target.federation, 30, 2, 6)
    assert set(again.faces.present_names) != set(names)


def test_strangers_have_as_many_pictures_as_members(target: Target) -> None:
    asked = people.asked_of(target.federation, 42, 5, 1)
    own = np.bincount(asked.person[asked.trained])
    assert set(own) == {3}


def test_references_are_opposite_halves_without_the_population(target: Target) -> None:
    asked = people.asked_of(target.federation, 42, 2, 1)
    inside = references.halves(asked, 4, 3)
    asks = ~asked.population
    assert not inside[:, asked.population].any()
    for one, other in (inside[:2], inside[2:]):
        assert (one[asks] != other[asks]).all()
        assert one[asked.is_member].sum() == 21
        assert one[asked.is_stranger].sum() == 21
    assert (inside[0] != inside[2]).any()


def test_a_reference_trains_on_everybody_else_and_its_half(target: Target, tmp_path: Path) -> None:
    asked = people.asked_of(target.federation, 30, 2, 1)
    inside = references.halves(asked, 2, 3)[0]
    own = references._over(target.federation, asked, inside, tmp_path)
    names = np.array(asked.faces.names)
    there = set(own.split.train.present_names)
    assert there == set(names[inside]) | set(target.federation.split.train.subset(asked.others).present_names)
    records = set(own.split.train.records)
    assert not records & set(np.array(asked.faces.records)[~asked.trained])  # no spare picture
    assert own.settings.vault.root.startswith(str(tmp_path))
    assert own.settings.runs.root.startswith(str(tmp_path))
    assert own.settings.train == target.federation.settings.train  # the attacked run's own recipe


# --- formulas ----------------------------------------------------------------------------------------------------


def drawn(seed: int, models: int = 4, units: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    population = np.arange(units) >= units - 10
    inside = rng.random((models // 2, units)) < 0.5
    inside = np.concatenate([inside, ~inside]) & ~population
    return rng.normal(size=units), rng.normal(size=(models, units)), inside, population


@pytest.mark.parametrize(("offline", "gamma"), [(0.3, 1.0), (1.0, 2.0), (0.0, 0.8)])
def test_rmia_is_the_naive_double_loop(offline: float, gamma: float) -> None:
    target, models, inside, population = drawn(1)
    got = formulas.rmia(target, models, inside, population, offline, gamma)

    def ratio(unit: int) -> float:
        without = [1 / (1 + math.exp(-models[k, unit])) for k in range(len(models)) if not inside[k, unit]]
        mean = sum(without) / len(without)
        return 1 / (1 + math.exp(-target[unit])) / ((1 + offline) / 2 * mean + (1 - offline) / 2)

    crowd = [unit for unit in range(len(target)) if population[unit]]
    for unit in range(len(target)):
        wins = sum(ratio(unit) / ratio(z) > gamma for z in crowd)
        assert math.floor(got[unit] * len(crowd) + 1e-9) == wins  # what is added stays below one step
    ratios = [ratio(unit) for unit in range(len(target))]
    assert np.array_equal(np.argsort(got, kind="stable"), np.argsort(ratios, kind="stable"))


def test_no_model_that_had_a_unit_enters_its_offline_scores() -> None:
    target, models, inside, population = drawn(2)
    other = np.where(inside, models + 7.0, models)
    for score in (
        lambda values: formulas.rmia(target, values, inside, population),
        lambda values: formulas.lira(target, values, inside, online=False),
    ):
        assert np.array_equal(score(models), score(other))
        assert not np.array_equal(score(models), score(np.where(inside, models, models + 7.0)))


def test_lira_online_is_the_ratio_of_two_normal_densities() -> None:
    target, models, inside, population = drawn(3)
    got = formulas.lira(target, models, inside)

    def side(wanted: bool) -> tuple[dict[int, float], float]:
        means, squares, free = {}, 0.0, 0
        for unit in range(len(target)):
            own = [models[k, unit] for k in range(len(models)) if inside[k, unit] == wanted]
            if own:
                means[unit] = sum(own) / len(own)
                squares += sum((value - means[unit]) ** 2 for value in own)
                free += len(own) - 1
        return means, math.sqrt(squares / free)

    (there, s_in), (gone, s_out) = side(True), side(False)
    for unit in np.flatnonzero(~population):
        expected = stats.norm.logpdf(target[unit], there[unit], s_in) - stats.norm.logpdf(
            target[unit], gone[unit], s_out
        )
        assert got[unit] == pytest.approx(expected)


def test_of_spare_pictures_only_models_without_the_person_enter(target: Target) -> None:
    """A model that has the person was trained on the very pictures that are asked about, and on no spare one."""
    asked = people.asked_of(target.federation, 42, 2, 1)
    inside = references.halves(asked, 2, 3)
    index, rng = np.flatnonzero(asked.scored), np.random.default_rng(10)
    values, others = rng.normal(size=index.size), rng.normal(size=(2, index.size))
    told_apart = others + 9.0 * (inside[:, asked.person[index]] & asked.trained[index])

    def table(models: np.ndarray) -> trials.Table:
        shown = [trials.Shown({"norm": model}, {}) for model in models]
        return trials.of_images(asked, trials.Rules(0.3, 1.0), trials.Shown({"norm": values}, {}), shown, inside)

    assert asked.spare
    for rule in ("rmia", "lira"):
        assert np.allclose(table(others)[rule]["norm"].scores, table(told_apart)[rule]["norm"].scores)


def test_lira_without_models_on_both_sides_is_offline() -> None:
    target, models, inside, _ = drawn(4)
    inside[:, 0] = True  # one unit that every model had: nothing is known of it
    got = formulas.lira(target, models, inside)
    assert np.isnan(got[0])
    assert np.array_equal(got[1:], formulas.lira(target, models, inside, online=False)[1:])
    two = formulas.lira(target, models[:2], np.array([[True] * 30, [False] * 30]), online=False)
    assert np.allclose(two, (target - models[1]) / models[1].std())  # one model a side: one deviation for all


def test_standardised_scores_are_those_of_unknown_people() -> None:
    scores = np.array([[1.0, 2.0, 3.0], [10.0, 20.0, 60.0]])
    got = formulas.standardised(scores, np.array([True, True, False]))
    assert np.allclose(got, [[-1, 1, 3], [-1, 1, 9]])


def test_pairs_of_a_person_are_the_mean_over_a_loop() -> None:
    rng = np.random.default_rng(5)
    embeddings = rng.normal(size=(7, 3, 4)).astype(np.float32)
    person = np.array([0, 0, 0, 1, 2, 2, 2])
    got = signals.of_people(embeddings, person, 3)
    unit = embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)
    means = unit.sum(1) / np.linalg.norm(unit.sum(1), axis=-1, keepdims=True)
    for who in (0, 2):
        own = np.flatnonzero(person == who)
        pairs = [means[i] @ means[j] for i in own for j in own if i < j]
        assert got["pairs"][who] == pytest.approx(np.mean(pairs), abs=1e-6)
        views = [unit[i, 0] @ unit[i, view] for i in own for view in (1, 2)]
        assert got["views"][who] == pytest.approx(np.mean(views), abs=1e-6)
    assert np.isnan(got["pairs"][1])
    assert got["norm"][1] == pytest.approx(math.log(np.linalg.norm(embeddings[3, 0])), abs=1e-6)


def test_variants_move_the_picture() -> None:
    pixels = np.random.default_rng(6).integers(0, 255, (2, 3, 8, 8), np.uint8)
    assert np.array_equal(signals.variant(signals.variant(pixels, 1), 1), pixels)
    for view, (down, right) in {2: (0, 1), 3: (1, 0), 4: (0, -1), 5: (-1, 0), 6: (0, 2)}.items():
        moved = np.roll(pixels, (down, right), (2, 3))
        assert np.array_equal(signals.variant(pixels, view)[..., 2:-2, 2:-2], moved[..., 2:-2, 2:-2])


def test_whoever_holds_vaults_scores_nobody_without_a_row(target: Target) -> None:
    asked = people.asked_of(target.federation, 42, 2, 1)
    index = np.flatnonzero(asked.scored)
    rng = np.random.default_rng(7)
    embeddings = rng.normal(size=(index.size, 5)).astype(np.float32)
    rows = rng.normal(size=(4, 5)).astype(np.float32)
    stranger = int(np.flatnonzero(~asked.is_member)[0])
    got = trials.of_heads(asked, embeddings, {3: (rows, 2), 8: (rows, 0), stranger: (rows, 1)}, 16.0)
    assert set(got["loss"].person) == {3, 8}
    unit = torch.nn.functional.normalize(torch.from_numpy(embeddings[np.isin(asked.person[index], [3, 8])]))
    logits = 16.0 * unit @ torch.nn.functional.normalize(torch.from_numpy(rows)).T
    right = torch.from_numpy(np.where(got["loss"].person == 3, 2, 0))
    loss = torch.nn.functional.cross_entropy(logits, right, reduction="none").numpy()
    assert np.allclose(got["loss"].scores, -loss, atol=1e-4)
    chance = np.exp(-loss.astype(np.float64))
    assert np.allclose(got["logit"].scores, np.log(chance / (1 - chance)), atol=1e-2)
    assert trials.of_heads(dataclasses.replace(asked, spare=False), embeddings, {3: (rows, 2)}, 16.0) == {}


# --- rates -------------------------------------------------------------------------------------------------------


def scored(seed: int, present: int = 40, absent: int = 50, signal: float = 0.5) -> rates.Trials:
    rng = np.random.default_rng(seed)
    there = np.repeat([True, False], [present, absent])
    return rates.Trials(np.round(rng.normal(size=there.size) + signal * there, 1), there, np.arange(there.size))


def test_rates_are_those_of_naive_loops_ties_and_weights_included() -> None:
    one = scored(8)
    weights = np.random.default_rng(9).integers(0, 4, (3, one.scores.size)).astype(float)
    for row, area in zip(weights, rates.auc(one, weights), strict=True):
        assert area == pytest.approx(roc_auc_score(one.present, one.scores, sample_weight=row))
    for fpr in (0.02, 0.1):
        best = [0.0, 0.0, 0.0]
        for number, row in enumerate(weights):
            for threshold in [*one.scores, -np.inf]:
                above = one.scores > threshold
                if (row * (above & ~one.present)).sum() <= fpr * row[~one.present].sum() + 1e-9:
                    best[number] = max(best[number], (row * (above & one.present)).sum() / row[one.present].sum())
        assert np.allclose(rates.tpr_at(one, fpr, weights), best)
    threshold = rates.best_threshold(one)
    gains = [(one.scores > t)[one.present].mean() - (one.scores > t)[~one.present].mean() for t in one.scores]
    assert rates.advantage(one, threshold)[0] == pytest.approx(max(gains))


def test_those_who_choose_are_not_those_who_are_measured() -> None:
    present = np.tile([True, True, False], 30)
    one = rates.Trials(np.arange(90.0), present, np.arange(90) // 3)  # people with trials on both sides
    chooses, test = one.parted()
    assert not set(chooses.person) & set(test.person)
    assert np.unique(chooses.person).size == 10
    assert np.unique(test.person).size == 20
    assert test.one_each().person.size == 40  # one trial a person and side


def test_resamples_keep_people_together() -> None:
    one = rates.Trials(np.arange(60.0), np.tile([True, False], 30), np.arange(60) // 4)
    weights = np.concatenate(rates.resamples(one, np.random.default_rng(1), 150))
    assert weights.shape == (150, 60)
    assert np.allclose(weights.sum(1), 60)
    assert np.array_equal(weights, np.repeat(weights[:, ::4], 4, axis=1))


def test_the_strongest_of_many_signals_of_noise_is_still_noise() -> None:
    """Chosen on the people that it is measured on, the best of 20 signals of noise would look like a leak."""
    found = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        there = np.repeat([True, False], 60)
        table = {"threshold": {
            f"s{i}": rates.Trials(rng.normal(size=120), there, np.arange(120)) for i in range(20)
        }}  # fmt: skip
        measures, _ = told.measured("identity", table, told.Bound(None, 1e-5, ""), rng, 50)
        value = {one.name: one.value for one in measures}
        found.append((value["identity_auc"], value["identity_advantage"], value["identity_epsilon_lower"]))
    auc, advantage, epsilon = np.array(found, float).T
    error = math.sqrt(81 / (12 * 40 * 40) / 30)  # of a mean of 30 areas over 40 and 40
    assert abs(auc.mean() - 0.5) < 3 * error
    assert abs(advantage.mean()) < 0.06
    assert (epsilon > 0).mean() <= 0.1


def test_the_empirical_epsilon_stays_below_a_known_one() -> None:
    """Randomised response of epsilon 1: a fair mechanism, and a score that tells all that it tells."""
    limits: list[float] = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        there = np.repeat([True, False], 300)
        told_truth = rng.random(600) < math.e / (1 + math.e)
        score = np.where(told_truth, there, ~there) + 1e-6 * rng.random(600)
        one = rates.Trials(score.astype(float), there, np.arange(600))
        measures, _ = told.measured("identity", {"threshold": {"s": one}}, told.Bound(1.0, 0.0, ""), rng, 20)
        lower = next(one for one in measures if one.name == "identity_epsilon_lower")
        assert lower.value is not None
        assert ("ABOVE" in lower.said) == (lower.value > 1.0)
        limits.append(lower.value)
    assert sum(limit > 1.0 for limit in limits) <= 3
    assert np.mean(limits) > 0.3


def test_few_trials_give_no_number() -> None:
    measures, curves = told.measured(
        "client", {"threshold": {"s": scored(1, 12, 50)}}, told.Bound(None, 1e-5, ""), np.random.default_rng(1), 20
    )
    assert [one.value for one in measures] == [None, None]
    assert curves == {}
    assert "fewer than 20" in measures[0].said
    measures, _ = told.measured(
        "client", {"threshold": {"s": scored(1, 30, 1600)}}, told.Bound(None, 1e-5, ""), np.random.default_rng(1), 20
    )
    assert {one.name: one.value for one in measures}["client_tpr_at_fpr_0.001"] is not None


def test_clients_are_means_over_their_people(target: Target) -> None:
    asked = people.asked_of(target.federation, 42, 2, 1)
    asked = dataclasses.replace(asked, client=np.where(asked.is_member, np.arange(asked.people) // 2, -1))
    values = np.random.default_rng(2).normal(size=asked.people)
    one = trials.Shown({}, {"pairs": values})
    table = trials.of_clients(asked, trials.Rules(0.3, 1.0), one, [], np.zeros((0, asked.people), bool))
    got = table["threshold"]["pairs"]
    assert got.present.sum() == 21
    assert got.scores[3] == pytest.approx(values[6:8].mean())
    assert got.scores[21] == pytest.approx(values[42:44].mean())
    assert (~got.present).sum() == 21


# --- bad input ---------------------------------------------------------------------------------------------------


def test_private_people_are_not_asked_about(target: Target) -> None:
    private = target.federation.over(dataclasses.replace(target.federation.split, public_benchmark=False))
    with pytest.raises(checks.UserError, match=r"private\. Train the same recipe on a public benchmark"):
        ATTACK.run(dataclasses.replace(target, federation=private))


def test_too_few_people_are_refused() -> None:
    few = Federation.of([*WORDS, "data.identities=12"])
    with pytest.raises(checks.UserError, match="Membership needs 20 people who trained"):
        people.asked_of(few, 200, 3, 1)
    nobody = few.over(dataclasses.replace(few.split, strangers=None))
    with pytest.raises(checks.UserError, match="whom the system never saw"):
        people.asked_of(nobody, 200, 3, 1)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"references": 3}, "to be even"), ({"members": 10}, "attack.members"), ({"views": 1}, "attack.views"),
     ({"offline": 1.5}, "attack.offline"), ({"gamma": 0.0}, "gamma")],
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(checks.UserError, match=said):
        Membership(**wrong)  # type: ignore[arg-type]


def test_strangers_of_synthetic_people_are_of_the_same_generator(tmp_path: Path) -> None:
    """Drawn people would be told from a generator's by how they look, and not by who trained."""
    faces = draw_faces(1, 50, 80, 2, 32)
    made = Provenance("public", "a" * 64, "drawn faces")
    synthetic_set.write(tmp_path / "set.npz", faces.images(), faces.labels, made)
    words = ["data=synthetic", f"data.path={tmp_path / 'set.npz'}", "data.pairs=20", "protection=none",
             "train.clients=1"]  # fmt: skip
    with pytest.raises(checks.UserError, match="held_out"):
        people.asked_of(Federation.of(words), 30, 2, 1)
    held = Federation.of([*words, "data.evaluation=held_out", "data.evaluation_fraction=0.6"])
    asked = people.asked_of(held, 30, 2, 1)
    assert asked.strangers > 0
    assert all(name.startswith("s0") for name in asked.faces.present_names)
