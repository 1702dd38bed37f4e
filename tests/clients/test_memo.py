"""Memoised noise: one draw per image and mechanism, booked before it exists, and only that copy is read ever after."""

from __future__ import annotations

import hashlib
import multiprocessing
import sqlite3
import subprocess
import sys

import numpy as np
import pytest
import torch

from fedveil import checks, randomness
from fedveil_clients.memo import Listed, Memo, memo_id

KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 3, 4, 4), dtype=np.uint8)


def noised(images: torch.Tensor, streams: list[randomness.SecretStream]) -> torch.Tensor:
    pairs = zip(images.numpy(), streams, strict=True)
    rows = [image + stream.uniform(image.size).reshape(image.shape) for image, stream in pairs]
    return torch.from_numpy(np.stack(rows).astype(np.float32))


class Owner:
    """Counts and orders everything that touches clean images."""

    def __init__(self, folder, pixels=PIXELS):
        self.memo, self.pixels, self.read_images, self.events = Memo(folder), pixels, [], []

    def _read(self, index):
        self.events.append("read")
        self.read_images += index.tolist()
        return self.pixels[index]

    def _draw(self, images, streams):
        self.events.append("draw")
        return noised(images, streams)

    def open(self, names=None, mechanism=b"m", key=KEY, source="here"):
        names = names or [f"file{i}" for i in range(len(self.pixels))]
        # What caches go by changes with the picture, what a draw goes by does not.
        keys = [f"{name}:{hash(self.pixels[place].tobytes())}" for place, name in enumerate(names)]
        copies, drawn = self.memo.open(
            key, mechanism, Listed(source, names, keys), self._read, self._draw, lambda: self.events.append("booked")
        )
        return copies.batch(np.arange(len(copies))).numpy(), drawn


def expected(image, record, mechanism=b"m", key=KEY, source="here"):
    """The direct release, with the documented key derivation written out."""
    content = hashlib.sha256(image.tobytes()).digest()
    stream = randomness.SecretStream(randomness.subkey(key, "memo", source, record, content, mechanism, 0))
    return noised(torch.from_numpy(image[None]), [stream]).numpy()[0]


def test_clean_images_are_read_once_and_the_event_is_booked_first(tmp_path):
    owner = Owner(tmp_path)
    first, drawn = owner.open()
    assert (drawn, sorted(owner.read_images), owner.events) == (6, [0, 1, 2, 3, 4, 5], ["booked", "read", "draw"])
    again, drawn = owner.open()
    assert drawn == 0
    assert owner.events == ["booked", "read", "draw"]
    assert np.array_equal(first, again)


def test_copies_are_the_direct_release_and_differ_between_images(tmp_path):
    copies, _ = Owner(tmp_path).open()
    assert np.array_equal(copies, np.stack([expected(image, f"file{i}") for i, image in enumerate(PIXELS)]))
    noise = copies - PIXELS
    assert len({one.tobytes() for one in noise}) == 6


def test_another_process_reads_the_stored_copies_without_clean_images(tmp_path):
    copies, _ = Owner(tmp_path).open()
    code = """
import sys, hashlib, numpy as np
from pathlib import Path
from fedveil_clients.memo import Listed, Memo
def never(*_): raise SystemExit("a clean image was asked for")
listed = Listed("here", [f"file{i}" for i in range(6)], sys.argv[2:])
copies, drawn = Memo(Path(sys.argv[1])).open(bytes(range(32)), b"m", listed, never, never, never)
print(drawn, hashlib.sha256(copies.batch(np.arange(6)).numpy().tobytes()).hexdigest())
"""
    with sqlite3.connect(tmp_path / "index.sqlite") as connection:
        keys = sorted(row[0] for row in connection.execute("SELECT key FROM content"))
    connection.close()
    command = [sys.executable, "-c", code, str(tmp_path), *keys]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["0", hashlib.sha256(copies.tobytes()).hexdigest()], done.stderr


@pytest.mark.parametrize(("mechanism", "key"), [(b"other", KEY), (b"m", OTHER_KEY)])
def test_another_mechanism_or_owner_is_a_fresh_booked_draw(tmp_path, mechanism, key):
    owner = Owner(tmp_path)
    first, _ = owner.open()
    owner.events.clear()
    second, drawn = owner.open(mechanism=mechanism, key=key)
    assert (drawn, owner.events) == (6, ["booked", "read", "draw"])
    for one, other in zip(first - PIXELS, second - PIXELS, strict=True):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.6
        assert not np.any(one == other)
    kept, drawn = owner.open()
    assert drawn == 0
    assert np.array_equal(kept, first)


def test_equal_pictures_of_two_records_have_their_own_draws(tmp_path):
    """Equal copies would tell an adversary that two pictures are equal, at any epsilon; of one owner or of two."""
    owner = Owner(tmp_path, np.concatenate([PIXELS[:2], PIXELS[:1]]))
    copies, _ = owner.open(["a", "b", "again a"])
    assert np.array_equal(copies[0], expected(PIXELS[0], "a"))
    assert np.array_equal(copies[2], expected(PIXELS[0], "again a"))
    other, _ = Owner(tmp_path, PIXELS[:1]).open(["a"], source="elsewhere")
    assert len({copy.tobytes() for copy in (copies[0], copies[2], other[0])}) == 3


def test_a_draw_never_moves_to_another_record(tmp_path):
    """Whatever is added, removed, reordered or made equal: the copies of all other records stay what they were."""
    before, _ = Owner(tmp_path, PIXELS[:3]).open(["a", "b", "c"])
    equal = np.stack([PIXELS[0], PIXELS[0], PIXELS[0], PIXELS[2]])
    after, drawn = Owner(tmp_path, equal).open(["0", "a", "b", "c"])
    assert drawn == 2  # the new record, and the changed picture of b
    assert np.array_equal(after[1], before[0])
    assert np.array_equal(after[3], before[2])
    assert len({copy.tobytes() for copy in (*before, *after)}) == 5


def test_a_changed_picture_under_an_old_name_is_another_draw_and_the_old_one_is_kept(tmp_path):
    owner = Owner(tmp_path, PIXELS[:2].copy())
    before, _ = owner.open(["a", "b"])
    owner.pixels[0] = PIXELS[5]
    after, drawn = owner.open(["a", "b"])
    assert drawn == 1
    assert np.array_equal(after[0], expected(PIXELS[5], "a"))
    owner.pixels[0] = PIXELS[0]
    again, drawn = owner.open(["a", "b"])
    assert drawn == 0
    assert np.array_equal(again, before)


def test_a_renamed_picture_is_another_record_and_another_draw(tmp_path):
    owner = Owner(tmp_path, PIXELS[:2])
    copies, _ = owner.open(["a", "b"])
    later, drawn = owner.open(["moved a", "b"])
    assert drawn == 1
    assert not np.array_equal(later[0], copies[0])
    assert np.array_equal(later[1], copies[1])


def test_a_grown_set_draws_for_the_new_images_alone(tmp_path):
    owner = Owner(tmp_path)
    old, _ = owner.open([f"file{i}" for i in range(4)])
    owner.read_images.clear()
    new, drawn = owner.open()
    assert (drawn, owner.read_images) == (2, [4, 5])
    assert np.array_equal(new[:4], old)
    owner.pixels = PIXELS[::-1]
    turned, drawn = owner.open([f"file{i}" for i in reversed(range(6))])
    assert drawn == 0
    assert np.array_equal(turned, new[::-1])


def test_a_crash_between_draw_and_index_repeats_the_same_draw(tmp_path, monkeypatch):
    owner = Owner(tmp_path)
    write = Memo._write

    def crash(self, segment, values):
        write(self, segment, values)
        raise KeyboardInterrupt

    monkeypatch.setattr(Memo, "_write", crash)
    with pytest.raises(KeyboardInterrupt):
        owner.open()
    lost = np.load(next(tmp_path.glob("*.npy")))
    monkeypatch.undo()
    copies, drawn = owner.open()
    assert drawn == 6
    assert np.array_equal(copies, lost)


def test_a_lost_file_is_drawn_again_with_equal_noise(tmp_path):
    owner = Owner(tmp_path)
    copies, _ = owner.open()
    next(tmp_path.glob("*.npy")).unlink()
    again, drawn = owner.open()
    assert drawn == 6
    assert np.array_equal(copies, again)
    assert owner.open()[1] == 0


def _in_parallel(folder, barrier, found):
    barrier.wait(30)
    copies, _ = Owner(folder).open()
    found.put(hashlib.sha256(copies.tobytes()).hexdigest())


def test_two_processes_at_once_get_equal_copies(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, found = context.Barrier(2), context.Queue()
    workers = [context.Process(target=_in_parallel, args=(tmp_path, barrier, found)) for _ in range(2)]
    for worker in workers:
        worker.start()
    digests = {found.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join(30)
    assert digests == {hashlib.sha256(Owner(tmp_path).open()[0].tobytes()).hexdigest()}


def test_the_vaults_files_hold_no_key_and_are_the_owners_alone(tmp_path):
    folder = tmp_path / "copies"
    Owner(folder).open()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.glob("*.npy"))
    content = b"".join(path.read_bytes() for path in folder.iterdir())
    for record, image in zip([f"file{i}" for i in range(6)], PIXELS, strict=True):
        memo = memo_id(KEY, "here", record, hashlib.sha256(image.tobytes()).digest(), b"m")
        assert memo not in content
        assert memo.hex().encode() not in content
    assert KEY not in content
    with sqlite3.connect(folder / "index.sqlite") as connection:
        labels = [row[0] for row in connection.execute("SELECT memo FROM copy")]
    connection.close()
    assert len(set(labels)) == 6


DAMAGED = {
    "empty": b"",
    "text": b"\xff no array",
    "half": lambda whole: whole[: len(whole) // 2],
    "type": np.zeros((6, 3, 4, 4), np.float64),
    "fewer": np.zeros((2, 3, 4, 4), np.float32),
    "flat": np.zeros(600, np.float32),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_file_of_copies_is_named_and_the_remedy_draws_the_same_noise(tmp_path, how):
    before, _ = Owner(tmp_path).open()
    (path,) = tmp_path.glob("*.npy")
    damage = DAMAGED[how]
    if isinstance(damage, np.ndarray):
        np.save(path, damage)
    else:
        path.write_bytes(damage(path.read_bytes()) if callable(damage) else damage)
    with pytest.raises(checks.UserError, match=rf"{path.name} is not a readable file of noisy copies: .* Remove it: "):
        Owner(tmp_path).open()
    path.unlink()
    after, drawn = Owner(tmp_path).open()
    assert drawn == 6
    np.testing.assert_array_equal(after, before)


def test_altered_copies_are_not_trained_on_and_are_drawn_again_once_removed(tmp_path):
    owner = Owner(tmp_path)
    first, _ = owner.open()
    (path,) = tmp_path.glob("*.npy")
    whole = path.read_bytes()
    path.write_bytes(whole[:-4] + b"\0\0\0\0")
    with pytest.raises(checks.UserError, match=rf"{path.name} is not .* it is not what was written\. Remove it"):
        owner.open()
    path.unlink()
    again, drawn = owner.open()
    assert drawn == 6
    np.testing.assert_array_equal(again, first)


def test_copies_of_an_index_without_digests_are_read(tmp_path):
    owner = Owner(tmp_path)
    first, _ = owner.open()
    with sqlite3.connect(tmp_path / "index.sqlite") as connection:
        connection.execute("DROP TABLE digest")
    again, drawn = owner.open()
    assert drawn == 0
    np.testing.assert_array_equal(again, first)


def test_a_file_of_copies_is_compared_once_in_a_process(tmp_path, monkeypatch):
    owner = Owner(tmp_path)
    owner.open()
    owner.open()
    monkeypatch.setattr(hashlib, "file_digest", None)
    assert owner.open()[1] == 0
