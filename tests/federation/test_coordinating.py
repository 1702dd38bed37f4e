"""The coordinator of real nodes opens public faces alone; what it needs and lacks is named with the words for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedveil import checks, config
from fedveil.data import decode
from fedveil.data.sources.folder import Folder
from fedveil.data.sources.procedural import draw_faces
from fedveil.federation import coordinating, instruction
from fedveil.federation.coordinating import AtCoordinator, NoTrainingFaces
from fedveil.federation.federation import Federation

SMALL = ["protection=none", "data.size=32", "data.pairs=12", "model.width=8", "model.embedding=8", "tracking=none",
         "train.clients=400"]  # fmt: skip
LFW = [*(word for word in SMALL if word != "data.pairs=12"), "data=lfw"]
DRAWN = [*SMALL, "data=folder", "data.evaluation=procedural"]
HELD = [*SMALL, "data=folder", "data.declared_public_evaluation=true", "data.evaluation_fraction=1"]


@pytest.fixture
def people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two people with two pictures each."""
    monkeypatch.chdir(tmp_path)
    for number, pixels in enumerate(draw_faces(1, 0, 2, 2, 32).images()):
        path = tmp_path / "public" / f"person{number // 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.transpose(1, 2, 0)).save(path)
    return tmp_path / "public"


def bundled(*words: str) -> str:
    return instruction.to_wire(Federation.of(words).settings)


def at(*words: str, own: tuple[str, ...] = ()) -> AtCoordinator:
    return coordinating.completed(bundled(*words), own)


def test_with_drawn_evaluation_no_place_is_needed_and_no_picture_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(*_: Any, **__: Any) -> Any:
        raise AssertionError("a coordinator opened faces")

    for name in ("load", "whole"):
        monkeypatch.setattr(Folder, name, touched)
    monkeypatch.setattr(decode, "decode", touched)
    run = at(*DRAWN)
    run.check()  # four hundred clients, and nobody to deal
    assert run.pairs.faces.synthetic
    assert run.public.synthetic
    assert len(run.registry) == 400


def test_two_public_people_suffice_whatever_the_registry(people: Path) -> None:
    run = at(*HELD, own=("data.root=public",))
    run.check()
    assert run.pairs.faces.present_names == ("person0", "person1")
    assert run.pairs.declared_public
    with pytest.raises(checks.UserError, match="leaves nobody to train on"):
        Federation(run.settings).check()


ASKS: dict[str, Callable[[AtCoordinator], Any]] = {
    "split": lambda run: run.split,
    "shares": lambda run: run.shares,
    "a client": lambda run: run.faces_of("c0001"),
    "a simulation's check": lambda run: run.check_clients(),
}


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS.keys())
@pytest.mark.parametrize("words", [SMALL, DRAWN], ids=["drawn people", "a folder"])
def test_whatever_asks_for_people_who_train_is_refused(ask: Callable[..., Any], words: list[str]) -> None:
    with pytest.raises(NoTrainingFaces):
        ask(at(*words))


def test_drawn_parts_are_those_of_a_simulation() -> None:
    run, simulated = at(*SMALL), Federation.of(SMALL)
    for name in ("left", "right", "same", "folds"):
        assert np.array_equal(getattr(run.pairs, name), getattr(simulated.pairs, name))
    assert run.pairs.faces.keys == simulated.pairs.faces.keys
    assert run.public.keys == simulated.public.keys


LACKS = {
    "own people": ([*HELD], "data.root", "procedural needs no face"),
    "a benchmark": (LFW, "data.root", "data=lfw"),
    "a public fold": ([*LFW, "data.public=people_fold"], "data.root", "data=lfw"),
    "synthetic faces": ([*SMALL, "data=synthetic", "data.origin=abc"], "data.path", "made from"),
    "a bank": (
        [*SMALL, "train.identity_bank=synthetic", "train.bank_identities=2", "train.bank_sha256=abc"],
        "train.synthetic", "synthetic faces",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("words", "key", "why"), LACKS.values(), ids=LACKS.keys())
def test_a_place_that_it_lacks_is_named_with_the_word(words: list[str], key: str, why: str) -> None:
    run = at(*words)
    assert [*coordinating.needed(run.settings)] == [key]
    with pytest.raises(checks.UserError) as error:
        run.check()
    assert f'set FEDVEIL_COORDINATOR="{key}=PLACE"' in str(error.value)
    assert why in str(error.value)


@pytest.mark.parametrize("data", ["folder", "packed", "rec", "lst"])
def test_nothing_is_needed_of_drawn_evaluation_or_of_a_file_of_pairs(data: str) -> None:
    words = [*SMALL, f"data={data}", "data.evaluation=procedural"]
    assert coordinating.needed(Federation.of(words).settings) == {}
    held = [*SMALL, f"data={data}", "data.declared_public_evaluation=true"]
    settings = config.compose([*held, "evaluation.pairs=pairs.csv", "evaluation.pairs_are_public=true"])
    assert coordinating.needed(settings) == {}
    assert [*coordinating.needed(config.compose(held))] == [f"data.{'root' if data == 'folder' else 'path'}"]


def test_a_file_of_pairs_is_all_that_is_read_and_no_folder_stands_for_an_unnamed_one(people: Path) -> None:
    listed = [(0, 0, 0, 1), (1, 2, 1, 3), (0, 0, 1, 2), (0, 1, 1, 3)]
    rows = ["left,right,same", *(f"person{a}/{i}.png,person{b}/{j}.png,{int(a == b)}" for a, i, b, j in listed)]
    (people / "pairs.csv").write_text("\n".join(rows) + "\n")
    own = ("evaluation.pairs=public/pairs.csv", "evaluation.pairs_are_public=true")
    run = at(*DRAWN, own=own)
    assert len(run.pairs) == 4  # in the folder where the command runs, which is nobody's training data
    simulated = at(*DRAWN, own=(*own, "data.root=public"))
    with pytest.raises(checks.UserError, match="train"):
        _ = simulated.pairs


def test_evaluation_that_nobody_declared_public_is_no_bundle() -> None:
    with pytest.raises(checks.UserError, match="declared_public_evaluation"):
        coordinating.left_out(Federation.of([*SMALL, "data=folder"]).settings)


def test_a_setting_that_a_bundle_left_out_has_to_be_said_again() -> None:
    words = ["train.warm_start=start.npz", "train.warm_start_is_public=true"]
    settings = Federation.of([*DRAWN, *words]).settings
    wanted, text = coordinating.left_out(settings), instruction.to_wire(settings)
    assert wanted == ["train.warm_start"]
    with pytest.raises(checks.UserError, match=r'FEDVEIL_COORDINATOR="train.warm_start=PLACE"'):
        coordinating.completed(text, [], wanted)
    assert coordinating.completed(text, words, wanted).settings.train == settings.train
    assert coordinating.completed(text, [], ["no.such.setting"]).settings.train.warm_start is None


def test_a_configuration_with_places_is_none_for_real_nodes() -> None:
    """Flower hands every node what the coordinator was given."""
    whole = config.to_json(Federation.of([*DRAWN, "data.root=/home/somebody/faces"]).settings)
    assert instruction.completed(whole).settings.data.settings["root"] == "/home/somebody/faces"
    with pytest.raises(checks.UserError, match="fedveil bundle"):
        coordinating.completed(whole)
