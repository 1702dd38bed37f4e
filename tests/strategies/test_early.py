"""Updates that wait on disk: the same bits back, nothing readable in the file, room used again, no room at all."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedveil.records import Failure, Update
from fedveil_strategies import early, rounds

SHAPES = {"a": (3, 5), "empty": (0, 4), "scalar": (), "b": (7,)}
IDS = [f"c{n}" for n in range(6)]


def update(client, seed=0):
    rng = np.random.default_rng([int(client[1:]), seed])
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    tensors["b"][:3] = np.nan, np.inf, -0.0
    return Update(client, tensors)


def same(first, second):
    if isinstance(first, Failure):
        return first == second
    return first.client_id == second.client_id and all(
        first.tensors[name].tobytes() == second.tensors[name].tobytes()
        and first.tensors[name].shape == second.tensors[name].shape
        for name in SHAPES
    )


@given(st.permutations(IDS), st.sets(st.sampled_from(IDS)), st.booleans())
@settings(max_examples=30, deadline=None)
def test_any_order_is_put_in_order_with_equal_bits(tmp_path_factory, order, failing, small):
    """And two of one client are one, and whoever says nothing is late, as in memory."""
    folder = tmp_path_factory.mktemp("shelf")
    answers = [Failure(client, "no") if client in failing else update(client) for client in order[:5]]
    answers.insert(2, update(order[0], seed=1))
    shelf = early.Shelf(folder, SHAPES)
    found = list(rounds.ordered(iter(answers), IDS, shelf))
    expected = list(rounds.ordered(iter(answers), IDS))
    assert all(map(same, found, expected))
    assert len(found) == len(IDS)
    assert not [*folder.iterdir()]  # it never had a name
    shelf.close()


def test_what_is_written_tells_nothing_and_never_the_same_twice(tmp_path):
    shelf = early.Shelf(tmp_path, {"w": (1000,)})
    same_thing = np.ones(1000, np.float32)
    seen = []
    for client in ("c1", "c2"):
        shelf[client] = Update(client, {"w": same_thing})
    raw = shelf._file
    raw.seek(0)
    written = raw.read()
    first, second = written[:4000], written[4000:]
    for one in (first, second):
        assert same_thing.tobytes()[:16] not in one
        counts = np.bincount(np.frombuffer(one, np.uint8), minlength=256)
        assert counts.max() < 40  # 15.6 of each are expected
        seen.append(one)
    mixed = np.frombuffer(first, np.uint8) ^ np.frombuffer(second, np.uint8)
    assert np.count_nonzero(mixed) > 3900  # one key stream for both would leave zeros
    shelf.pop("c1")
    shelf["c3"] = Update("c3", {"w": same_thing})  # in c1's place
    raw.seek(0)
    third = raw.read()
    assert len(third) == 8000
    mixed = np.frombuffer(first, np.uint8) ^ np.frombuffer(third[:4000], np.uint8)
    assert np.count_nonzero(mixed) > 3900
    shelf.close()


def test_an_update_in_its_turn_is_never_written(tmp_path):
    shelf = early.Shelf(tmp_path, SHAPES)
    assert len(list(rounds.ordered([update(client) for client in IDS], IDS, shelf))) == 6
    assert shelf._file is None


def test_without_room_on_disk_updates_wait_in_memory(tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(early.tempfile, "TemporaryFile", lambda **_: Full())
    shelf = early.Shelf(tmp_path, SHAPES)
    answers = [update(client) for client in reversed(IDS)]
    found = list(rounds.ordered(answers, IDS, shelf))
    assert all(map(same, found, reversed(answers)))


def test_an_update_without_room_leaves_the_disk_as_it_was(tmp_path):
    """Half of it would fill what is left until the round ends, and others have their files there."""

    class Small(io.BytesIO):
        def write(self, data):
            if self.tell() + len(data) > 10_000:
                super().write(data[: max(0, 10_000 - self.tell())])
                raise OSError(28, "No space left on device")
            return super().write(data)

    shelf = early.Shelf(tmp_path, {"w": (500,), "v": (500,)})
    shelf._file = Small()
    clients = [f"c{number}" for number in range(4)]
    updates = {name: Update(name, {"w": np.full(500, 1, np.float32), "v": np.zeros(500, np.float32)})
               for name in clients}  # fmt: skip
    for name in clients:
        shelf[name] = updates[name]
    assert len(shelf._file.getvalue()) == 8000
    shelf.pop("c1")
    shelf._file.seek(0)
    for name in ("c0", "c2", "c3"):
        assert np.array_equal(shelf.pop(name).tensors["w"], updates[name].tensors["w"])


def test_a_file_that_ends_too_soon_is_that_clients_failure(tmp_path):
    shelf = early.Shelf(tmp_path, SHAPES)
    shelf["c1"] = update("c1")
    shelf._file.truncate(10)
    found = shelf.pop("c1")
    assert isinstance(found, Failure)
    assert "could not be read back" in found.reason
    shelf.close()


@pytest.mark.parametrize("pieces", [1, 7, 1 << 20])
def test_parts_of_any_size_give_the_same_back(tmp_path, monkeypatch, pieces):
    monkeypatch.setattr(early, "_PART", pieces)
    shelf = early.Shelf(tmp_path, SHAPES)
    shelf["c2"] = update("c2")
    assert "c2" in shelf
    assert same(shelf.pop("c2"), update("c2"))
    assert "c2" not in shelf
    shelf.close()
