"""Synthetic faces in a run: what is sent, compared, booked and claimed, whatever becomes of their file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from fedveil import checks, config
from fedveil.data import synthetic_set
from fedveil.data.provenance import Provenance
from fedveil.data.sources.procedural import draw_faces
from fedveil.federation import claims, instruction, planning, synthetic, warm_start
from fedveil.federation.federation import Federation
from fedveil.federation.tensors import get_tensors
from fedveil.privacy import statements
from fedveil.privacy.events import LocalRelease, Synthetic
from fedveil.privacy.ledger import Row
from fedveil.privacy.statements import Statement

FACES = draw_faces(3, 50, 5, 3, 32)
NOISY = Statement("client", "zero-out", "every released global model", "noise", 3.0, 1e-6, "formal", True).to_dict()
MADE = {
    "public": Provenance("public", "a" * 64, "drawn faces"),
    "federated": Provenance("federated", "b" * 64, "ten clinics", (NOISY,)),
    "shared": Provenance("shared", "c" * 64, "one clinic"),
}
SMALL = (
    "data.pairs=8", "protection=none", "model.width=8", "model.embedding=8", "train.clients=2", "train.rounds=2",
    "train.batch_size=4",
)  # fmt: skip
USES = {
    "data": ["data=synthetic", "data.path=set.npz"],
    "start": ["train.warm_start=synthetic", "train.synthetic=set.npz", "train.warm_steps=1"],
    "bank": ["train.identity_bank=synthetic", "train.bank_identities=3", "train.synthetic=set.npz"],
}
NOISE = ["privacy.client.epsilon=4", "privacy.client.delta=1e-6", "train.cohort.rate=0.5"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("public")
    return tmp_path


def write(mode, faces=FACES, path="set.npz"):
    synthetic_set.write(Path(path), faces.images(), faces.labels, MADE[mode])
    synthetic._faces.cache_clear()


def run_of(*words):
    return Federation.of([*SMALL, *words])


def rows(run, *more):
    learnt = [Row("r", "run", "spent", event) for event in synthetic.learnt(run.settings)]
    return [*learnt, *(Row("r", "run", "spent", event) for event in more)]


def rounds(run):
    return [run.release_of(number) for number in range(1, run.total_rounds + 1)]


# --- what is sent and compared


def test_no_place_of_a_set_is_sent_and_hashes_are(folder):
    run = run_of(*USES["data"], *USES["bank"])
    tree = json.loads(instruction.to_wire(run.settings))
    assert "set.npz" not in json.dumps(tree)
    assert tree["data"]["origin"] == MADE["public"].origin
    assert len(tree["train"]["bank_sha256"]) == 64
    started = json.loads(instruction.to_wire(run_of(*USES["start"]).settings))["train"]
    assert (started["warm_start"], started["synthetic"]) == (None, None)
    tree["train"]["synthetic"] = "/a/coordinators/place.npz"  # written back by a hostile one
    found = instruction.from_wire(json.dumps(tree)).settings
    assert (found.train.synthetic, found.data.settings["path"]) == (None, instruction.NOWHERE)


def test_a_coordinator_says_beside_a_bundle_where_its_sets_are(folder):
    wire = instruction.to_wire(run_of(*USES["data"], *USES["bank"]).settings)
    found = instruction.completed(wire, ["data.path=set.npz", "train.synthetic=set.npz", "train.warm_start=synthetic"])
    assert found.settings.data.settings["path"] == found.settings.train.synthetic == "set.npz"
    assert found.settings.train.warm_start == "synthetic"
    assert instruction.digest(found) == instruction.digest(instruction.from_wire(wire))


@pytest.mark.parametrize("use", ["data", "bank"])
def test_a_plan_finds_the_hashes_once_and_a_run_without_them_is_refused(use, folder):
    planned = run_of(*USES[use]).settings
    assert planning.planned(planned) == planned
    planning.check_planned(planned)
    with pytest.raises(checks.UserError, match=r"data\.origin|train\.bank_sha256"):
        planning.check_planned(config.load([*SMALL, *USES[use]]))


def test_a_bank_of_other_faces_than_planned_is_refused_on_every_machine(folder):
    run = run_of(*USES["bank"])
    assert run.bank.present_names == ("s000000", "s000001", "s000002")
    assert np.array_equal(run.bank.images(), FACES.images()[:9])
    write("federated")  # another account of equal faces: what is claimed is the coordinator's own file's
    assert len(Federation(run.settings).bank) == 9
    write("public", draw_faces(3, 60, 5, 3, 32))
    with pytest.raises(checks.UserError, match="bank_sha256"):
        _ = Federation(run.settings).bank
    write("public", draw_faces(3, 50, 5, 2, 32))
    with pytest.raises(checks.UserError, match="bank_sha256"):
        _ = Federation(run.settings).bank


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=synthetic"], r"data\.path"),
        (["data=synthetic", "data.path=none.npz"], r"none\.npz"),
        (["train.identity_bank=synthetic", "train.bank_identities=3"], r"train\.synthetic=FILE"),
        ([*USES["bank"], "train.bank_identities=6"], "bank_identities=6 exceeds the 5"),
        (["train.warm_start=synthetic"], r"train\.synthetic=FILE"),
        (["train.synthetic=set.npz"], "does nothing here"),
        (["train.identity_bank=synthetic"], "does nothing here"),
        (["train.identity_bank=synthetic", "train.bank_identities=0"], "does nothing here"),
        ([*USES["start"], "train.warm_start_is_public=true"], "does nothing here"),
    ],
)
def test_what_is_missing_is_named(words, message, folder):
    with pytest.raises(checks.UserError, match=message):
        warm_start.check(run_of(*words))


def test_a_start_of_one_person_is_refused_before_anything_is_written(folder):
    write("public", draw_faces(3, 50, 1, 3, 32))
    with pytest.raises(checks.UserError, match="2 synthetic people or more; there are 1"):
        warm_start.check(run_of(*USES["start"]))


def test_a_start_is_trained_on_the_set(folder):
    tensors = {}
    for name, words in (("set", USES["start"]), ("public", ["train.warm_start=public", "train.warm_steps=1"])):
        run = run_of(*words)
        backbone = run.backbone()
        before = get_tensors(backbone)
        tensors[name] = warm_start.initial(run, {}, backbone, lambda done, total: None)
        assert any((tensors[name][key] != before[key]).any() for key in before)
    assert any((tensors["set"][key] != tensors["public"][key]).any() for key in before)


# --- what is claimed


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("mode", MADE)
def test_rows_say_what_the_file_said_and_the_file_may_be_gone(use, mode, folder):
    write(mode)
    run = run_of(*USES[use], *NOISE)
    booked, plan = rows(run, *rounds(run)), claims.planned(run, run.planned_event)
    Path("set.npz").unlink()
    found = claims.of_run(run, booked)
    kept = {one.unit: one.epsilon for one in found.statements}
    assert kept == {one.unit: one.epsilon for one in plan.statements if one.unit in kept}
    if mode == "shared":
        assert {one.epsilon for one in found.statements} == {None}
        assert any(one.view == warm_start.VIEW for one in found.statements)
    elif use == "data":
        assert "representation" not in " ".join(one.view for one in plan.statements)
        assert (kept.get("identity", 0) is None) == (mode == "public")
    else:
        alone = claims.of_run(run_of(*NOISE), [Row("r", "run", "spent", event) for event in rounds(run)])
        (own,), (client,) = alone.statements, found.statements
        share = 3.0 if mode == "federated" else 0.0
        assert client.epsilon == pytest.approx((own.epsilon or 0) + share)


@pytest.mark.parametrize("use", USES)
def test_without_its_row_nothing_is_left_of_a_run_with_synthetic_faces(use, folder):
    run = run_of(*USES[use], *NOISE)
    found = claims.of_run(run, [Row("r", "run", "spent", event) for event in rounds(run)])
    assert {one.epsilon for one in found.statements} == {None}
    assert "does not say what they were made from" in found.statements[-1].mechanism


def test_inherited_statements_keep_what_their_own_run_said_of_their_delta(folder):
    """This run's public number of units is not that of the generator's training."""
    one = dataclasses.replace(MADE["federated"], statements=({**NOISY, "unit": "image"},))
    synthetic_set.write(Path("set.npz"), FACES.images(), FACES.labels, one)
    found = claims.planned(run := run_of(*USES["data"]), run.planned_event)
    assert [(one.unit, one.meaningful) for one in found.statements] == [("image", True)]
    assert run.units("image") is None
    assert found.private
    assert found.noise_source == "operating system"


def test_noise_on_synthetic_faces_is_claimed_of_them_and_of_nobody_else(folder):
    run = run_of(*USES["data"], "protection=dctdp", "protection.total_epsilon=8", "protection.fit_steps=0")
    assert isinstance(run.planned_event, LocalRelease)
    found = claims.planned(run, run.planned_event)
    image = next(one for one in found.statements if one.unit == "image")
    people = [one.epsilon for one in found.statements if one.unit == "identity"]
    assert (image.epsilon, None in people, found.private) == (8.0, True, False)
    assert "drawn faces" in image.not_covered[-1]
    assert claims.claimed("identity", found.statements)[0] is None


def test_fixed_noise_voids_what_is_inherited_beside_it(folder):
    write("federated")
    run = run_of(*USES["start"], *NOISE, "privacy.test_seed=1")
    assert {one.epsilon for one in claims.planned(run, run.planned_event).statements} == {None}


def test_a_gallery_of_real_faces_is_none_of_synthetic_ones(folder):
    """Its row is not the run's, whose faces are nobody's."""
    run = run_of(*USES["data"])
    found = claims.of_run(run, rows(run, run.planned_event))
    assert any("image itself" in one.mechanism for one in found.statements)
    assert not claims.tells(run, run.planned_event)
    assert claims.tells(run_of(), run.planned_event)


def test_one_event_a_use_names_what_reads_the_set(folder):
    run = run_of(*USES["data"], *USES["bank"], "train.warm_start=synthetic")
    assert synthetic.uses(run.settings) == ("data", "start", "bank")
    found = synthetic.learnt(run.settings)
    assert {type(event) for event in found} == {Synthetic}
    assert [event.use for event in found] == ["data", "start", "bank"]
    assert synthetic.uses(run_of("train.bank_identities=3").settings) == ()
    assert statements.NOBODY in claims.planned(run, run.planned_event).statements[0].mechanism
