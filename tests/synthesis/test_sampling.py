"""A whole set: what was asked is accounted for, an interruption changes nothing, and mistakes are said."""

from __future__ import annotations

import dataclasses
import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake import Fake

from fedveil import checks, runs
from fedveil.synthesis import _blocks
from fedveil.synthesis.sampling import Drawn, Sampling, generate

SMALL = Sampling(identities=10, images=4, ddim_steps=4, apart=0.9, packing_steps=20, batch=3, keep=0.6, duplicates=1.0)
REAL = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]


def made(folder: Path, sampling: Sampling = SMALL, seed: int = 1, **other: Any) -> Drawn:
    given = {"generator": Fake(), "real": REAL, "threshold": 0.85, **other}
    return generate(given.pop("generator"), sampling, given.pop("real"), given.pop("threshold"), folder, seed, **given)


def equal(first: Drawn, second: Drawn) -> bool:
    arrays = ("images", "labels", "anchors", "identities")
    same = all(np.array_equal(getattr(first, name), getattr(second, name)) for name in arrays)
    return same and first.counts == second.counts and first.packing == second.packing


def test_a_set_is_labelled_and_shows_its_people(tmp_path: Path) -> None:
    drawn = made(tmp_path / "set")
    assert drawn.images.dtype == np.uint8
    assert drawn.images.shape[1:] == (3, 8, 8)
    assert drawn.labels.dtype == np.int64
    assert np.array_equal(np.unique(drawn.labels), np.arange(len(drawn.anchors)))
    assert (np.diff(drawn.labels) >= 0).all()
    assert (np.bincount(drawn.labels) >= 2).all()
    seen = Fake().embed(_blocks.to_pixels(torch.from_numpy(drawn.images))).numpy()
    cosines = seen @ drawn.anchors.T
    assert cosines.argmax(1).tolist() == drawn.labels.tolist()
    assert cosines.max(1).min() >= 0.6 - 1e-6
    assert (drawn.anchors.astype(np.float64) @ REAL.T).max() <= 0.85
    assert drawn.counts["near_real"] == int(((seen.astype(np.float64) @ REAL.T).max(1) > 0.85).sum())


def test_every_picture_that_was_asked_for_is_accounted_for(tmp_path: Path) -> None:
    harsh = dataclasses.replace(SMALL, keep=0.85, attempts=2, duplicates=12.0)
    drawn = made(tmp_path, harsh)
    counts = dict(drawn.counts)
    dropped = [name for name in counts if name.startswith("dropped_") and name != "dropped_people"]
    assert counts["asked"] == 40 == len(drawn.images) + sum(counts[name] for name in dropped)
    refused = sum(count for name, count in counts.items() if name.startswith("refused_"))
    assert counts["drawn"] == len(drawn.images) + counts["dropped_few"] + refused
    assert counts["dropped_people"] == 10 - len(drawn.anchors)
    assert min(counts["refused_identity"], counts["refused_duplicate"], counts["dropped_identity"]) > 0
    assert 40 < counts["drawn"] <= 80


def test_a_second_draw_fills_what_the_first_missed(tmp_path: Path) -> None:
    kept = [
        len(made(tmp_path / str(n), dataclasses.replace(SMALL, keep=0.8, attempts=n)).images) for n in (1, 2, 6)
    ]  # fmt: skip
    assert kept[0] < kept[1] < kept[2]


def test_a_person_of_one_picture_is_dropped_and_counted(tmp_path: Path) -> None:
    drawn = made(tmp_path, dataclasses.replace(SMALL, keep=0.86, attempts=1))
    assert drawn.counts["dropped_few"] > 0
    assert drawn.counts["dropped_people"] > 0
    assert len(drawn.identities) == len(drawn.anchors) < 10
    whole = runs.unpack(tmp_path / "anchors.npz")[0]["vectors"]
    assert np.array_equal(whole[drawn.identities], drawn.anchors)


class Stop(Exception):
    pass


@pytest.mark.parametrize("after", [1, 4, 9])
def test_after_an_interruption_the_set_is_the_same(tmp_path: Path, after: int) -> None:
    told: list[tuple[int, int]] = []
    whole = made(tmp_path / "whole", progress=lambda what, done, total: told.append((done, total)))
    assert told == sorted(told)
    assert told[-1] == (40, 40)
    left = after

    def stop(what: str, done: int, total: int) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise Stop

    with pytest.raises(Stop):
        made(tmp_path / "parts", progress=stop)
    before = sorted((tmp_path / "parts").glob("block-*"))
    times = [path.stat().st_mtime_ns for path in before]
    assert equal(made(tmp_path / "parts"), whole)
    assert [path.stat().st_mtime_ns for path in before] == times
    fake = Fake()
    assert equal(made(tmp_path / "parts", generator=fake), whole)
    assert fake.calls == 0  # all of it was there


def test_the_seed_decides(tmp_path: Path) -> None:
    first, again, other = (made(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert equal(first, again)
    assert not np.array_equal(first.anchors[:2], other.anchors[:2])


def test_how_many_are_drawn_together_changes_rounding_alone(tmp_path: Path) -> None:
    one, many = (made(tmp_path / str(n), dataclasses.replace(SMALL, batch=n)) for n in (1, 40))
    assert np.array_equal(one.labels, many.labels)
    assert np.abs(one.images.astype(int) - many.images).max() <= 1


@pytest.mark.parametrize(
    "other",
    [{"seed": 2}, {"sampling": dataclasses.replace(SMALL, guidance=2.0)}, {"generator": Fake(times=90)},
     {"threshold": 0.8}, {"real": -REAL}],
    ids=lambda other: next(iter(other)),
)  # fmt: skip
def test_a_folder_of_another_set_is_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    made(tmp_path)
    with pytest.raises(checks.UserError, match="holds synthetic faces of another generator"):
        made(tmp_path, **other)


@pytest.mark.parametrize("name", ["block-00001.npz", "anchors.npz"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    made(tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(checks.UserError, match=rf"{name} is not a readable .* Remove it"):
        made(tmp_path)
    path.unlink()
    assert equal(made(tmp_path), made(tmp_path / "again"))


def test_kept_anchors_near_a_real_person_are_refused(tmp_path: Path) -> None:
    made(tmp_path)
    path = tmp_path / "anchors.npz"
    arrays, meta = runs.unpack(path)
    arrays["vectors"][3] = REAL[2]
    runs.write_packed(path, arrays, meta)
    with pytest.raises(checks.UserError, match="holds no anchors of this set"):
        made(tmp_path)


def test_a_block_of_another_place_is_refused(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "block-00001.npz").write_bytes((tmp_path / "block-00000.npz").read_bytes())
    with pytest.raises(checks.UserError, match="no block of this set"):
        made(tmp_path)
    (tmp_path / "set.json").unlink()
    with pytest.raises(checks.UserError, match="that nothing describes"):
        made(tmp_path)


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = np.savez

    def full(stream: Any, **contents: Any) -> None:
        if "a/images" in contents:
            stream.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(stream, **contents)

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="block-00000"):
        made(tmp_path / "set")
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == ["anchors.npz", "set.json"]
    monkeypatch.undo()
    assert equal(made(tmp_path / "set"), made(tmp_path / "whole"))


def test_a_generator_that_shows_nobody_is_said(tmp_path: Path) -> None:
    with pytest.raises(checks.UserError, match=r"None of identities=10 kept two .* Train the generator longer"):
        made(tmp_path, dataclasses.replace(SMALL, guidance=0.0, keep=0.95), generator=Fake(blind=True))


def test_fixed_attributes_are_shown(tmp_path: Path) -> None:
    free, fixed = (
        made(tmp_path / str(len(fixed)), dataclasses.replace(SMALL, attributes=fixed)) for fixed in ({}, {"yaw": 1.5})
    )
    yaw = [Fake().describe(_blocks.to_pixels(torch.from_numpy(drawn.images)))[:, 0] for drawn in (free, fixed)]
    assert yaw[1].mean() > 0.9
    assert yaw[1].std() < 0.3 < yaw[0].std()
    with pytest.raises(checks.UserError, match=r"Unknown attribute 'yow'.*Did you mean 'yaw'"):
        made(tmp_path / "none", dataclasses.replace(SMALL, attributes={"yow": 1.0}))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "wrong",
    [{"identities": 0}, {"images": 1}, {"ddim_steps": 0}, {"eta": 2.0}, {"guidance": -1.0}, {"nearest": 0.5},
     {"farthest": -0.1}, {"keep": 1.5}, {"duplicates": -1.0}, {"attempts": 0}, {"batch": 0}, {"packing_steps": 0},
     {"attributes": {"yaw": 7.0}}],
    ids=lambda wrong: next(iter(wrong)),
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(checks.UserError, match=rf"Expected {next(iter(wrong))}"):
        Sampling(**wrong)


def test_more_steps_than_times_are_refused_before_a_folder_is_made(tmp_path: Path) -> None:
    with pytest.raises(checks.UserError, match="ddim_steps=400"):
        made(tmp_path / "set", dataclasses.replace(SMALL, ddim_steps=400))
    assert not (tmp_path / "set").exists()
