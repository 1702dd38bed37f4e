"""One .npz file that holds a whole set of faces, decoded on demand.

Fields: `labels` (N,) indexes `names`; pictures are `images` uint8 (N, H, W) or (N, H, W, 3), or `jpeg` uint8 (all files
end to end) with `offsets` (N + 1,). `files` (N,), when there, names each picture in messages.
"""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedveil import checks
from fedveil.data import decode
from fedveil.data.faces import CachedStore, FaceSet, Problem


def open_archive(path: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of an .npz file; pickled objects are never loaded."""
    if not path or not Path(path).expanduser().is_file():
        raise checks.UserError(f"data.path={path!r} is not a file; expected an .npz with labels, names and images.")
    try:
        # NumPy leaves a file that it opened itself open when it is no archive.
        with Path(path).expanduser().open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise checks.UserError(f"{path} cannot be read as an .npz without pickles: {error}") from error


def require(fields: dict[str, NDArray[Any]], names: tuple[str, ...], path: str) -> None:
    """Refuse an archive without these fields."""
    missing = [name for name in names if name not in fields]
    if missing:
        raise checks.UserError(f"{path} lacks the fields {missing}; it has {sorted(fields)}.")


def faces_of(fields: dict[str, NDArray[Any]], path: str, size: int) -> FaceSet:
    """Return the faces of an opened archive; a JPEG without its first or last marker is skipped, listed."""
    require(fields, ("labels", "names"), path)
    if "images" not in fields:
        require(fields, ("jpeg", "offsets"), path)
    labels, names = fields["labels"], tuple(str(name) for name in fields["names"])
    count = len(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise checks.UserError(f"{path}: labels must be whole numbers (N,), got {labels.dtype} {labels.shape}.")
    if count and not 0 <= int(labels.min()) <= int(labels.max()) < len(names):
        raise checks.UserError(
            f"{path}: labels must lie in 0..{len(names) - 1} ({len(names)} names), got {labels.min()}..{labels.max()}."
        )
    reader = _ArrayReader(fields["images"], path, size) if "images" in fields else _JpegReader(fields, path, size)
    if reader.count != count:
        raise checks.UserError(f"{path}: {count} labels but {reader.count} images.")
    with Path(path).expanduser().open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    files = fields.get("files", np.arange(count)).astype(str)
    broken = reader.broken()
    good = np.setdiff1d(np.arange(count), list(broken))
    return FaceSet(
        store=CachedStore(count, (size, size), reader.make, lambda i: f"sha256:{digest}:{i}:{size}"),
        index=good,
        labels=labels.astype(np.int64)[good],
        names=names,
        size=(size, size),
        skipped=tuple(Problem(f"{path}:{files[i]}", reason) for i, reason in broken.items()),
        notes=reader.notes(),
    )


@dataclasses.dataclass(frozen=True)
class _ArrayReader:
    images: NDArray[np.uint8]
    path: str
    size: int

    def __post_init__(self) -> None:
        shape = self.images.shape
        if self.images.dtype != np.uint8 or len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] != 3):
            raise checks.UserError(
                f"{self.path}: images must be uint8 (N, H, W) or (N, H, W, 3), got {self.images.dtype} {shape}."
            )

    @property
    def count(self) -> int:
        return len(self.images)

    def broken(self) -> dict[int, str]:
        return {}

    def make(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.stack([decode.fit_array(self.images[i], self.size) for i in index])

    def notes(self) -> tuple[str, ...]:
        height, width = self.images.shape[1:3]
        grey = self.count if self.images.ndim == 3 else 0
        return decode.notes([(width, height)] * self.count, grey, self.size)


class _JpegReader:
    def __init__(self, fields: dict[str, NDArray[Any]], path: str, size: int) -> None:
        self.jpeg, self.offsets, self.path, self.size = fields["jpeg"], fields["offsets"], path, size
        ends = self.offsets
        if ends.ndim != 1 or ends.size < 1 or ends[0] < 0 or (np.diff(ends) < 0).any() or ends[-1] > self.jpeg.size:
            raise checks.UserError(
                f"{path}: offsets must ascend within the {self.jpeg.size} bytes of jpeg; the file is damaged."
            )
        self.count = ends.size - 1

    def _bytes(self, index: int) -> NDArray[np.uint8]:
        part: NDArray[np.uint8] = self.jpeg[self.offsets[index] : self.offsets[index + 1]]
        return part

    def broken(self) -> dict[int, str]:
        found = ((i, decode.check_jpeg(self._bytes(i))) for i in range(self.count))
        return {i: reason for i, reason in found if reason}

    def make(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.stack([self._one(int(i)) for i in index])

    def _one(self, index: int) -> NDArray[np.uint8]:
        try:
            return decode.decode(self._bytes(index).tobytes(), self.size).pixels
        except decode.Undecodable as error:
            raise checks.UserError(f"{self.path}: picture {index} cannot be decoded ({error}); repack it.") from error

    def notes(self) -> tuple[str, ...]:
        return ()
