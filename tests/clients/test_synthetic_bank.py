"""Synthetic negatives at an owner: its own copy of the coordinator's set, the same faces or no round."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from fedveil import checks
from fedveil.commands import simulate
from fedveil.data import synthetic_set
from fedveil.data.provenance import Provenance
from fedveil.data.sources.procedural import draw_faces
from fedveil.federation import instruction, synthetic
from fedveil.federation.federation import Federation
from fedveil.federation.tensors import get_tensors
from fedveil_clients import check, node, sites, training
from fedveil_clients.node import NodeError

SMALL = (
    "data.identities=6", "data.images_per_identity=3", "data.evaluation_identities=4", "data.evaluation_images=2",
    "data.pairs=8", "data.public_identities=4", "data.public_images=2", "protection=none", "model.width=8",
    "model.embedding=8", "train.clients=3", "train.local.steps=2", "train.batch_size=4",
)  # fmt: skip
BANK = ("train.identity_bank=synthetic", "train.bank_identities=2", "train.synthetic=set.npz")


def write(path, first=50):
    faces = draw_faces(3, first, 4, 3, 32)
    synthetic_set.write(Path(path), faces.images(), faces.labels, Provenance("public", "a" * 64, "drawn faces"))
    synthetic._faces.cache_clear()
    return faces


@pytest.fixture
def faces(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write("set.npz")


def received():
    return instruction.from_wire(instruction.to_wire(Federation.of([*SMALL, *BANK]).settings))


def own(**words):
    return {"client-id": "c0002", "vault-root": "vault", **words}


def test_a_node_without_a_copy_refuses_and_names_the_word(faces):
    with pytest.raises(NodeError, match="set identity-bank=FILE"):
        node.here(received(), own())
    plain = Federation.of([*SMALL, "train.bank_identities=2"])
    assert node.here(plain, own()).home is plain  # of public faces nobody needs a file


def test_a_relative_place_of_a_file_of_words_starts_at_its_folder(tmp_path):
    (tmp_path / "node.toml").write_text('identity-bank = "set.npz"\n')
    assert node.read(tmp_path / "node.toml") == {"identity-bank": str(tmp_path / "set.npz")}


def test_a_node_trains_against_its_own_copy(faces, tmp_path):
    run = received()
    (tmp_path / "set.npz").rename("mine.npz")
    here = node.here(run, own(**{"identity-bank": "mine.npz"}))
    site = sites.open_site(run, "run", "c0002", here.node, {})
    site.booked.on_disk()
    people = here.run.faces_of("c0002").identities.size
    assert site.classes == people + 2
    bank = torch.from_numpy(faces.images()[:6]).float()
    count = int(site.people.size)
    fed = site.features(np.arange(count, count + 6), 0)
    assert torch.equal(fed, (bank - 127.5) / 127.5)
    update = training.train_round(site, 1, get_tensors(run.backbone()))
    assert all(np.isfinite(value).all() for value in update.tensors.values())


def test_a_copy_of_other_faces_is_refused_before_anything_is_booked(faces):
    run = received()
    write("set.npz", first=90)
    here = node.here(run, own(**{"identity-bank": "set.npz"}))
    with pytest.raises(checks.UserError, match="other faces than this run was planned with"):
        sites.open_site(run, "run", "c0002", here.node, {})
    assert not (here.node.vault() / "ledger.sqlite").exists()


def test_a_simulation_says_where_the_set_is_to_its_own_nodes_alone(faces):
    run = Federation.of([*SMALL, *BANK])
    assert simulate.node_words(run.settings)["identity-bank"] == "set.npz"
    assert "identity-bank" not in simulate.node_words(Federation.of(SMALL).settings)
    started = Federation.of([*SMALL, "train.warm_start=synthetic", "train.synthetic=set.npz"])
    assert "identity-bank" not in simulate.node_words(started.settings)
    (found,) = {node.here(received(), simulate.node_words(run.settings) | {"partition-id": 1}).home.bank.present_names}
    assert found == ("s000000", "s000001")


def test_a_check_says_what_the_owners_copy_of_synthetic_faces_means(faces):
    shared = dataclasses.replace(Provenance("public", "a" * 64, "one clinic"), mode="shared")
    synthetic_set.write(Path("set.npz"), faces.images(), faces.labels, shared)
    run = received()
    synthetic_set.write(Path("mine.npz"), faces.images(), faces.labels, shared)
    said = " ".join(check.check(own(**{"identity-bank": "mine.npz"}), run).text.split())
    assert "one clinic" in said
    assert "verdict: accepted" in said
