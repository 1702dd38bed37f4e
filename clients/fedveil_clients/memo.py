"""Memoised noise: one draw per record, picture and mechanism; only that copy is read ever after.

The memo id of a copy is KDF(owner key, source, record id, hash of the decoded pixels, id of the whole mechanism, number
of the draw); it also keys the noise, so a crash before the copy was stored repeats the same draw instead of making a
second release. The record is in it because equal pictures of two records must not share a draw, or their equality would
show; the pixels, because a changed picture under an old name is another release; the mechanism, because one unit draw
used at two scales would reveal the image exactly. Each is another key and a fresh, counted draw.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import checks, randomness, runs
from fedveil.storage import databases

_SCHEMA = """
CREATE TABLE IF NOT EXISTS content (key TEXT PRIMARY KEY, hash BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS copy (memo BLOB PRIMARY KEY, segment TEXT NOT NULL, place INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS digest (segment TEXT PRIMARY KEY, hash BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS made (segment TEXT PRIMARY KEY, mechanism BLOB NOT NULL) WITHOUT ROWID;
"""
_CHUNK = 64  # images decoded and noised at a time
_LABEL = b"label"
_CHECKED: set[tuple[str, int, int]] = set()
"""Files of copies (path, size, time in ns) whose content this process has compared with the index."""
_AGAIN = "Remove it: the same noise is drawn again from the owner's key, which is no new release."

Read = Callable[[NDArray[np.int64]], NDArray[np.uint8]]
"""Image numbers (B,) -> clean images (B, 3, H, W), uint8."""
Draw = Callable[[torch.Tensor, list[randomness.SecretStream]], torch.Tensor]
"""Clean images (B, 3, H, W) and one stream each -> their noisy copies (B, ...)."""


@dataclasses.dataclass(frozen=True)
class Listed:
    """The images of one data set by name, none of them decoded.

    Attributes:
        source: where the pictures are; records of two sources are different records.
        records: (N,) public ids of the records, each once: their places in the source, whatever they show.
        keys: (N,) names that change when a file does, so that what a file shows need not be read to be known.
    """

    source: str
    records: Sequence[str]
    keys: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Copies:
    """The noisy copies of one data set, read from the vault's files on demand."""

    segments: tuple[NDArray[np.float32], ...]
    which: NDArray[np.int64]
    place: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.which.size)

    def batch(self, index: NDArray[np.int64]) -> torch.Tensor:
        """Return the copies (B, C, h, w), float32, at `index`."""
        rows = [self.segments[self.which[i]][self.place[i]] for i in index]
        return torch.from_numpy(np.stack(rows).astype(np.float32))


def memo_id(owner_key: bytes, source: str, record: str, content: bytes, mechanism: bytes, draw: int = 0) -> bytes:
    """Return the memo id, which also keys the noise of this one copy."""
    return randomness.subkey(owner_key, "memo", source, record, content, mechanism, draw)


class Memo:
    """The store of noisy copies in an owner's vault; safe for several processes at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path, what = self.folder / "index.sqlite", "index of noisy copies"
        with databases.opened(path, _SCHEMA, what, _AGAIN, private=True, isolation="DEFERRED") as connection:
            connection.executescript(_SCHEMA)
            yield connection

    def open(
        self,
        owner_key: bytes,
        mechanism: bytes,
        listed: Listed,
        read: Read,
        draw: Draw,
        before_drawing: Callable[[], None],
    ) -> tuple[Copies, int]:
        """Return the copies of the listed images, and how many were drawn now.

        Args:
            owner_key: the vault's secret key.
            mechanism: hash of everything the noise depends on but the image.
            listed: the N images.
            read: returns clean images; called once for an image whose copy is not stored, never otherwise.
            draw: clips and noises images with one stream each.
            before_drawing: called before the first draw: writes the event to the ledger.
        """
        drawn = 0
        with self._opened() as connection:
            while True:
                contents = self._known(connection, listed.keys)
                memos = [
                    None if content is None else memo_id(owner_key, listed.source, record, content, mechanism)
                    for content, record in zip(contents, listed.records, strict=True)
                ]
                missing = np.flatnonzero([memo is None or not self._has(connection, memo) for memo in memos])
                if not missing.size:
                    return self._copies(connection, memos), drawn
                before_drawing()
                self._draw(connection, owner_key, mechanism, listed, missing, read, draw)
                drawn += int(missing.size)

    def contents(self, keys: Sequence[str], read: Read) -> list[bytes]:
        """Return the content hash of each image named by `keys`; only those never seen before are read."""
        with self._opened() as connection:
            known = self._known(connection, keys)
        missing = np.flatnonzero([content is None for content in known])
        for start in range(0, missing.size, _CHUNK):
            chunk = missing[start : start + _CHUNK]
            for place, content in zip(chunk, content_hashes(read(chunk)), strict=True):
                known[place] = content
        return [content or b"" for content in known]

    def files(self) -> dict[Path, bytes | None]:
        """Return every file of copies and the mechanism that drew it; None where an earlier version wrote it."""
        if not (self.folder / "index.sqlite").exists():
            return {}
        with self._opened() as connection:
            known = dict(connection.execute("SELECT segment, mechanism FROM made"))
        return {path: known.get(path.name) for path in sorted(self.folder.glob("*.npy"))}

    def forget(self, files: Iterable[Path]) -> None:
        """Remove files of copies; each is drawn again from the owner's key, the same, when it is asked for."""
        names = [path.name for path in files]
        with self._opened() as connection, connection:
            for table in ("copy", "digest", "made"):
                connection.executemany(f"DELETE FROM {table} WHERE segment=?", [(name,) for name in names])
        for name in names:
            (self.folder / name).unlink(missing_ok=True)

    def _known(self, connection: sqlite3.Connection, keys: Sequence[str]) -> list[bytes | None]:
        found: list[bytes | None] = []
        for key in keys:
            row = connection.execute("SELECT hash FROM content WHERE key=?", (key,)).fetchone()
            found.append(row[0] if row else None)
        return found

    def _has(self, connection: sqlite3.Connection, memo: bytes) -> bool:
        row = connection.execute("SELECT segment FROM copy WHERE memo=?", (_label(memo),)).fetchone()
        return row is not None and (self.folder / row[0]).is_file()

    def _draw(
        self,
        connection: sqlite3.Connection,
        owner_key: bytes,
        mechanism: bytes,
        listed: Listed,
        missing: NDArray[np.int64],
        read: Read,
        draw: Draw,
    ) -> None:
        memos: list[bytes] = []
        contents: list[bytes] = []
        drawn: list[NDArray[np.float32]] = []
        for start in range(0, missing.size, _CHUNK):
            chunk = missing[start : start + _CHUNK]
            images = read(chunk)
            found = content_hashes(images)
            ids = [
                memo_id(owner_key, listed.source, listed.records[place], content, mechanism)
                for place, content in zip(chunk, found, strict=True)
            ]
            drawn.append(draw(torch.from_numpy(images), [randomness.SecretStream(memo) for memo in ids]).numpy())
            contents += found
            memos += ids
        segment = f"{secrets.token_hex(8)}.npy"
        digest = self._write(segment, np.concatenate(drawn))
        try:
            seen = [*zip((listed.keys[place] for place in missing), contents, strict=True)]
            self._remember(connection, segment, seen, memos, digest, mechanism)
        except BaseException:
            (self.folder / segment).unlink(missing_ok=True)  # nothing refers to it
            raise

    def _remember(
        self,
        connection: sqlite3.Connection,
        segment: str,
        contents: Sequence[tuple[str, bytes | None]],
        memos: Sequence[bytes],
        digest: bytes,
        mechanism: bytes,
    ) -> None:
        """Write to the index what a file of copies holds."""
        with connection:
            connection.execute("INSERT INTO digest VALUES (?,?)", (segment, digest))
            connection.execute("INSERT INTO made VALUES (?,?)", (segment, mechanism))
            connection.executemany("INSERT OR REPLACE INTO content VALUES (?,?)", contents)
            # Another process may have stored the same copy meanwhile: it is the same draw.
            connection.executemany(
                "INSERT OR REPLACE INTO copy VALUES (?,?,?)",
                [(_label(memo), segment, number) for number, memo in enumerate(memos)],
            )

    def _write(self, segment: str, values: NDArray[np.float32]) -> bytes:
        """Write a file of copies and return the SHA-256 of its content."""
        buffer = io.BytesIO()
        np.save(buffer, values)
        runs.write_atomic(self.folder / segment, buffer.getvalue(), private=True)
        return hashlib.sha256(buffer.getbuffer()).digest()

    def _copies(self, connection: sqlite3.Connection, memos: Sequence[bytes | None]) -> Copies:
        rows = [
            connection.execute("SELECT segment, place FROM copy WHERE memo=?", (_label(memo),)).fetchone()
            for memo in memos
            if memo is not None
        ]
        needed: dict[str, int] = {}
        for segment, place in rows:
            needed[segment] = max(place, needed.get(segment, 0))
        names = sorted(needed)
        asked = "SELECT hash FROM digest WHERE segment=?"
        known = {name: connection.execute(asked, (name,)).fetchone() for name in names}
        return Copies(
            tuple(self._segment(name, needed[name], known[name]) for name in names),
            np.array([names.index(segment) for segment, _ in rows], np.int64),
            np.array([place for _, place in rows], np.int64),
        )

    def _segment(self, name: str, last: int, known: tuple[bytes] | None) -> NDArray[np.float32]:
        """Return the copies in one file, which holds one at place `last`, and what was written.

        An index of an earlier version knows no digests. Copies that were altered would be trained on as if they were
        the release that was booked.
        """
        path = self.folder / name
        if known is not None and path.is_file():
            state = path.stat()
            seen = (str(path.absolute()), state.st_size, state.st_mtime_ns)
            if seen not in _CHECKED:
                with path.open("rb") as stream:
                    if hashlib.file_digest(stream, "sha256").digest() != known[0]:
                        raise checks.UserError(
                            f"{path} is not a readable file of noisy copies: it is not what was written. {_AGAIN}"
                        )
                _CHECKED.add(seen)
        found = runs.load_array(path, "file of noisy copies", _AGAIN)
        if found.dtype != np.float32 or found.ndim != 4 or len(found) <= last:
            shown = f"{found.dtype} {found.shape}"
            raise checks.UserError(f"{path} is not a readable file of noisy copies: it holds {shown}. {_AGAIN}")
        return found


class ReadOnce:
    """Images that are needed twice, to hash and to protect, and decoded once while they fit into memory."""

    def __init__(self, read: Read, limit: int = 1 << 28) -> None:
        self._read, self._left = read, limit  # bytes
        self._kept: dict[int, NDArray[np.uint8]] = {}

    def __call__(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images (B, 3, H, W) at `index`; each is kept for one more call."""
        if all(int(place) in self._kept for place in index):
            return np.stack([self._kept.pop(int(place)) for place in index])
        images = self._read(index)
        if images.nbytes <= self._left:
            self._left -= images.nbytes
            self._kept.update(zip(map(int, index), images, strict=True))
        return images


def content_hashes(images: NDArray[np.uint8]) -> list[bytes]:
    """Return a SHA-256 over the decoded pixels of each of the images (B, 3, H, W)."""
    return [hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest() for image in images]


def _label(memo: bytes) -> bytes:
    """Return what the index shows of a memo id: a hash, because the id itself keys the noise."""
    return hashlib.sha256(_LABEL + memo).digest()
