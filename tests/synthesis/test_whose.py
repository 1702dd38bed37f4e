"""Whose faces a set tells of: what data, recognisers and generators that are read make of a claim."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedveil.checks import UserError
from fedveil.data import synthetic_set
from fedveil.data.provenance import Provenance
from fedveil.federation.federation import Federation
from fedveil.privacy.statements import Statement
from fedveil.synthesis import _whose
from fedveil.synthesis.checkpoint import Origin
from fedveil.synthesis.making import Making

CLAIM = Statement("client", "zero-out", "every released global model", "noise", 2.0, 1e-6, "formal", True).to_dict()
DRAWN = ["protection=none", "data.identities=4", "data.images_per_identity=2"]


def private(path: Path) -> Federation:
    for who in range(2):
        for number in range(2):
            place = path / f"person{who}" / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.default_rng(2 * who + number).integers(0, 255, (32, 32, 3), np.uint8)).save(place)
    return Federation.of(["protection=none", "data=folder", f"data.root={path}", "data.evaluation=procedural"])


def made_of(path: Path, mode: str) -> Federation:
    pixels = np.random.default_rng(1).integers(0, 255, (6, 3, 32, 32), np.uint8)
    statements = (CLAIM,) if mode == "federated" else ()
    synthetic_set.write(path, pixels, np.repeat([0, 1], 3), Provenance(mode, "1" * 64, "ten clinics", statements))
    return Federation.of(["protection=none", "data=synthetic", f"data.path={path}"])


def test_faces_of_a_federated_generator_hand_on_what_was_claimed_of_it(tmp_path: Path) -> None:
    """A generator of a generator's faces is post-processing of the first one: neither more private nor public."""
    found = _whose.origin(made_of(tmp_path / "set.npz", "federated"), Making())
    assert (found.mode, found.statements) == ("federated", (CLAIM,))
    assert "ten clinics" in found.learnt_from
    assert _whose.origin(made_of(tmp_path / "open.npz", "public"), Making()).mode == "public"


@pytest.mark.parametrize("word", [Making(), Making(public=True), Making(generator="file")])
def test_nobodys_word_makes_faces_of_a_shared_generator_public(tmp_path: Path, word: Making) -> None:
    federation = made_of(tmp_path / "set.npz", "shared")
    with pytest.raises(UserError, match=r"shared generator.*synthesis\.shared=true"):
        _whose.origin(federation, word)
    assert _whose.origin(federation, Making(shared=True)).mode == "shared"


def test_a_finished_generator_is_drawn_from_beside_public_faces_alone(tmp_path: Path) -> None:
    federation, federated = private(tmp_path / "faces"), Origin("federated", "ten clinics", (CLAIM,))
    with pytest.raises(UserError, match="the generator's guarantee does not cover"):
        _whose.origin(federation, Making(generator="file"))
    with pytest.raises(UserError, match="federated generator"):
        _whose.origin(made_of(tmp_path / "set.npz", "federated"), Making(generator="file"))
    left = _whose.together(federated, _whose.origin(federation, Making(generator="file", shared=True)))
    assert (left.mode, left.statements) == ("shared", ())
    assert _whose.together(federated, _whose.origin(Federation.of(DRAWN), Making(generator="file"))) == federated


def test_a_recogniser_that_nobody_declared_public_is_refused() -> None:
    federation = Federation.of(DRAWN)
    with pytest.raises(UserError, match=r"a-run.*synthesis\.recogniser_is_public=true"):
        _whose.origin(federation, Making(recogniser="a-run"))
    assert _whose.origin(federation, Making(recogniser="a-run", recogniser_is_public=True)).mode == "public"
    assert _whose.origin(federation, Making(recogniser="a-run", shared=True)).mode == "shared"
