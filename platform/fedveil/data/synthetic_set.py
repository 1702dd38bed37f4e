"""A set of synthetic faces as one packed .npz: written whole or not at all, read with what it was made from."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedveil import checks
from fedveil.data import archive, packed_faces, provenance
from fedveil.data.faces import FaceSet
from fedveil.data.provenance import Provenance
from fedveil.storage import disk

_AT_ONCE = 512  # pictures


def write(path: Path, images: NDArray[np.uint8], labels: ArrayLike, made: Provenance) -> None:
    """Write a set, in the place of a file that is there; equal input gives equal bytes.

    Args:
        path: an .npz file.
        images: (N, 3, H, W) RGB; read a few at a time, so they may be in a file.
        labels: (N,) whole numbers from 0; person k is called s00000k, also where others were left out.
        made: what the set was made from.

    Raises:
        fedveil.checks.UserError: nobody in it, or arrays of another shape or type.
        OSError: naming `path`, which is as it was before; nothing half-written is left.
    """
    given = np.asarray(labels)
    if path.suffix != ".npz":
        raise checks.UserError(f"Expected {path} to be the name of an .npz file.")
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != np.uint8:
        raise checks.UserError(f"Expected images (N, 3, H, W) of uint8, got {images.shape} of {images.dtype}.")
    if not len(images):
        raise checks.UserError(f"{path} would hold nobody: a set needs one face or more.")
    if given.dtype.kind not in "iu" or given.shape != images.shape[:1]:
        raise checks.UserError(f"Expected labels ({len(images)},) of whole numbers, got {given.dtype} {given.shape}.")
    if given.min() < 0:
        raise checks.UserError(f"Expected labels of people who are numbered from 0, got {given.min()}.")
    fields = {
        "labels": given.astype(np.int64),
        "names": np.array([f"s{number:06d}" for number in range(int(given.max()) + 1)]),
        provenance.FIELD: np.array([made.to_text(int(images.shape[2]))]),
    }
    count, _, height, width = images.shape

    def written(stream: BinaryIO) -> None:
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as members:
            for name, value in fields.items():
                with members.open(_member(name), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, value, allow_pickle=False)
            with members.open(_member("images"), "w", force_zip64=True) as member:
                shape = {"descr": "|u1", "fortran_order": False, "shape": (count, height, width, 3)}
                np.lib.format.write_array_header_1_0(cast(Any, member), shape)
                for start in range(0, count, _AT_ONCE):
                    part = images[start : start + _AT_ONCE].transpose(0, 2, 3, 1)
                    member.write(np.ascontiguousarray(part).tobytes())

    disk.write_atomic(path, written)


def _member(name: str) -> zipfile.ZipInfo:
    """Return a member without a date, which would make equal sets differ."""
    return zipfile.ZipInfo(f"{name}.npy")


def read(path: str, size: int, setting: str = "data.path") -> tuple[FaceSet, Provenance]:
    """Return the faces of a set at `size` pixels, scaled as every packed file is, and what they were made from.

    A shared set's faces are neither synthetic nor public: private people may be on them.

    Raises:
        fedveil.checks.UserError: no such file, a damaged one, or one that does not say what it was made from.
    """
    if not path:
        raise checks.UserError(f"{setting}={path!r} says nothing: where are the synthetic faces? Write {setting}=FILE.")
    opened = archive.open_archive(path, packed_faces.FIELDS, setting)
    made = provenance.of_archive(opened)
    faces = packed_faces.faces_of(opened, size)
    return dataclasses.replace(faces, synthetic=made.is_public, public=made.is_public), made


def first_people(faces: FaceSet, count: int, what: str) -> FaceSet:
    """Return the faces of the first `count` people.

    Raises:
        fedveil.checks.UserError: there are fewer; `what` names the setting and its value.
    """
    people = faces.identities
    if count > people.size:
        raise checks.UserError(f"{what} exceeds the {people.size} synthetic people of the file.")
    return faces.subset(np.isin(faces.labels, people[:count]))


def digest(faces: FaceSet) -> str:
    """Return a SHA-256 of who and what is on the faces: equal on every machine that reads the same ones."""
    return _digest(faces)


@functools.lru_cache(maxsize=4)
def _digest(faces: FaceSet) -> str:
    found = hashlib.sha256()
    for label, key in zip(faces.labels.tolist(), faces.keys, strict=True):
        found.update(f"{faces.names[label]}\0{key}\0".encode())
    return found.hexdigest()
