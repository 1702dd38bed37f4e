"""Nobody is in two groups, whatever the settings; who is where depends on names alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedveil import checks
from fedveil.attacks import _people
from fedveil.attacks.base import OnFaces
from fedveil.federation.federation import Federation

WORDS = ["protection=none", "data.identities=12", "data.evaluation_identities=12", "data.public_identities=12"]


@pytest.fixture(scope="module")
def federation() -> Federation:
    return Federation.of(WORDS)


def pictures(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


@pytest.mark.parametrize(("victims", "images", "seed"), [(40, 80, 1), (40, 300, 2), (200, 1000, 3)])
def test_no_picture_is_in_two_groups(federation: Federation, victims: int, images: int, seed: int) -> None:
    people = _people.people_of(federation, OnFaces(victims=victims, images=images, seed=seed))
    assert people.judged is not None
    groups = [people.taken, people.other, people.attacker, people.judged.images(), federation.split.train.images()]
    seen = [pictures(group) for group in groups]
    assert sum(map(len, seen)) == len(set().union(*seen))
    assert len(people.taken) == len(people.other) == victims
    assert images - 8 < len(people.attacker) <= images
    assert len({group["digest"] for group in people.groups.values()}) == len(people.groups) == 5


def test_the_two_pictures_of_a_victim_show_one_person(federation: Federation) -> None:
    strangers = federation.split.strangers
    assert strangers is not None
    who = {image.tobytes(): int(label) for image, label in zip(strangers.images(), strangers.labels, strict=True)}
    people = _people.people_of(federation, OnFaces(victims=20, far=0.1, images=100))
    first, second = ([who[image.tobytes()] for image in part] for part in (people.taken, people.other))
    assert first == second
    assert len(set(first)) == 20


def test_groups_are_a_function_of_names_and_seed(federation: Federation) -> None:
    wanted = OnFaces(victims=20, far=0.1, images=100)
    again = _people.people_of(Federation.of([*WORDS, "protection=dct", "train.rounds=2"]), wanted)
    assert again.groups == _people.people_of(federation, wanted).groups
    other = _people.people_of(federation, dataclasses.replace(wanted, seed=2)).groups
    assert other["victims"]["digest"] != again.groups["victims"]["digest"]


def faces(folder: Path, names: list[str]) -> Path:
    rng = np.random.default_rng(1)
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(4):
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / name / f"{number}.png")
    return folder


def test_own_people_of_the_attacker_are_read_from_a_folder(federation: Federation, tmp_path: Path) -> None:
    place = faces(tmp_path / "own", [f"somebody {number}" for number in range(15)])
    people = _people.people_of(federation, OnFaces(victims=20, far=0.1, people=str(place)))
    assert people.groups["attacker"]["people"] == 15
    assert sorted(set(people.labels.tolist())) == [*range(15)]


def test_an_attack_set_that_overlaps_the_victims_is_refused(federation: Federation, tmp_path: Path) -> None:
    strangers = federation.split.strangers
    assert strangers is not None
    place = faces(tmp_path / "own", [f"somebody {number}" for number in range(14)] + list(strangers.present_names))
    with pytest.raises(checks.UserError, match=r"attack\.people=.* holds 20 of victims, .* Take these people out"):
        _people.people_of(federation, OnFaces(victims=20, far=0.1, images=10000, people=str(place)))


def test_too_few_people_are_refused(federation: Federation, tmp_path: Path) -> None:
    place = faces(tmp_path / "own", ["somebody"])
    with pytest.raises(checks.UserError, match=r"4 pictures of people of his own, and an attack needs 50"):
        _people.people_of(federation, OnFaces(people=str(place), victims=40))
    words = ["protection=none", "data=folder", f"data.root={faces(tmp_path / 'few', ['a', 'b', 'c', 'd'])}",
             "data.declared_public_evaluation=true", "data.evaluation_fraction=0.5", "train.clients=1"]  # fmt: skip
    with pytest.raises(checks.UserError, match=r"2 people whom the system never saw have two pictures"):
        _people.people_of(Federation.of(words), OnFaces())
