"""Synthetic faces as a source: of the planned generator alone, never as photographs of people."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from fedveil import checks, cli
from fedveil.data import synthetic_set
from fedveil.data.provenance import Provenance
from fedveil.data.sources.packed import Packed
from fedveil.data.sources.procedural import draw_faces
from fedveil.data.sources.synthetic import Synthetic
from fedveil.privacy.statements import Statement

FACES = draw_faces(3, 0, 6, 3, 40)
NOISY = Statement("client", "zero-out", "every released global model", "noise", 2.0, 1e-6, "formal", True).to_dict()
MADE = {
    "public": Provenance("public", "a" * 64, "drawn faces", seed=3, settings={"steps": 25}),
    "federated": Provenance("federated", "b" * 64, "ten clinics", (NOISY,)),
    "shared": Provenance("shared", "c" * 64, "one clinic"),
}


def made(path: Path, mode: str = "public", people: int = 6) -> Path:
    synthetic_set.write(path, FACES.images(range(3 * people)), FACES.labels[: 3 * people], MADE[mode])
    return path


def test_no_set_is_read_as_photographs_of_people(tmp_path: Path) -> None:
    """A protection's guarantee for its pictures would be none for the people behind them."""
    for mode in MADE:
        path = made(tmp_path / f"{mode}.npz", mode)
        with pytest.raises(checks.UserError, match="data=synthetic"):
            Packed(path=str(path), evaluation="procedural").load(1)
    with np.load(path) as archive:
        fields = {**archive, "provenance": np.array(['{"synthetic": "damaged"}'])}
    np.savez(path, **fields)
    with pytest.raises(checks.UserError, match="data=synthetic"):
        Packed(path=str(path), evaluation="procedural").load(1)
    assert len(Packed(path=str(path)).whole(1)) == 18  # an attacker's own people may be anybody


@pytest.mark.parametrize("mode", MADE)
def test_the_source_trains_on_synthetic_people_and_draws_the_rest(mode: str, tmp_path: Path) -> None:
    source = Synthetic(path=str(made(tmp_path / "set.npz", mode)), pairs=8, max_images_per_identity=2)
    split = source.load(1)
    assert (split.train.identities.size, len(split.train), split.train.size) == (6, 12, (32, 32))
    assert split.public_benchmark == (mode != "shared")
    assert split.public.synthetic
    assert split.strangers is not None
    assert split.evaluation.declared_public
    held = dataclasses.replace(source, evaluation="held_out", evaluation_fraction=0.4)
    if mode == "shared":
        with pytest.raises(checks.UserError, match="held_out"):
            held.load(1)
        return
    split = held.load(1)
    assert split.strangers is not None
    assert set(split.strangers.present_names).isdisjoint(split.train.present_names)
    assert len(split.strangers.present_names) == 2


def test_another_generator_than_the_planned_one_is_refused(tmp_path: Path) -> None:
    path = made(tmp_path / "set.npz", "federated")
    origin = MADE["federated"].origin
    assert len(Synthetic(path=str(path), pairs=8, origin=origin).load(1).train) == 18
    made(path, "public")
    with pytest.raises(checks.UserError, match="another generator"):
        Synthetic(path=str(path), pairs=8, origin=origin).load(1)
    for change in ({"mode": "shared"}, {"generator": "d" * 64}, {"learnt_from": "two"}, {"statements": ()}):
        assert dataclasses.replace(MADE["federated"], **change).origin != origin  # type: ignore[arg-type]  # of any field
    assert dataclasses.replace(MADE["federated"], seed=9, settings={"steps": 1}).origin == origin


def test_a_set_that_is_missing_or_too_small_is_refused_by_name(tmp_path: Path) -> None:
    for path, message in (("", "data.path=''"), (str(tmp_path / "none.npz"), "none.npz")):
        with pytest.raises(checks.UserError, match=message):
            Synthetic(path=path).load(1)
    with pytest.raises(checks.UserError, match="1 synthetic people"):
        Synthetic(path=str(made(tmp_path / "set.npz", people=1)), pairs=8).load(1)


def test_inspecting_says_what_a_set_was_made_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = made(tmp_path / "set.npz")
    assert cli.main(["data", "inspect", "data=synthetic", f"data.path={path}", "data.pairs=8"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "synthetic (public generator aaaaaaaaaaaa that learnt from drawn faces)" in said
    assert "public benchmark: yes" in said
