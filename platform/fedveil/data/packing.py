"""From any source to one packed .npz file (`data=packed`), picture by picture: memory does not grow with pictures.

What is packed is what training would read: upright, scaled to one size, cropped around the centre. A JPEG that is so
already is copied byte for byte; everything else is encoded once. Records, and so caps, held-out people and kept noise,
are the same as in the source. Equal input gives equal bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import fedveil
from fedveil import checks
from fedveil.data import decode
from fedveil.data.faces import FaceSet
from fedveil.data.stores import Problem
from fedveil.storage import disk

_UPRIGHT = (None, 1)  # what an EXIF orientation says when nothing is to be turned
_ORIENTATION = 0x0112
_PIECE = 1 << 24


@dataclasses.dataclass(frozen=True)
class Summary:
    """What was packed: pictures, people, how many JPEGs were copied as they were, and what could not be read."""

    pictures: int
    people: int
    copied: int
    problems: tuple[Problem, ...]


def pack(
    faces: FaceSet,
    out: Path,
    origin: Mapping[str, Any],
    quality: int = 95,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Summary:
    """Write all faces of a set to a new .npz file, and return what was done.

    A picture that cannot be read keeps its place, without bytes, so that damage to one moves no other one.

    Args:
        faces: the set; its pictures are read once, in order.
        out: a new file.
        origin: where the set comes from, kept as `provenance` beside what was done.
        quality: of JPEG, 1..100; colours are not reduced (4:4:4).
        progress: called with pictures done and all.

    Raises:
        fedveil.checks.UserError: `out` is there already or has no folder, or no picture can be read.
        OSError: naming `out`; nothing of it is left.
    """
    if not 1 <= quality <= 100:
        raise checks.UserError(f"Expected quality={quality} in 1..100.")
    if out.suffix != ".npz":
        raise checks.UserError(f"--out {out}: expected the name of an .npz file.")
    if os.path.lexists(out):
        raise checks.UserError(f"{out} is there already; name a new file with --out, or remove it.")
    if not out.absolute().parent.is_dir():
        raise checks.UserError(f"--out {out}: there is no folder {out.absolute().parent}.")
    with disk.named(out), _beside(out) as pictures, _beside(out) as archive:
        lengths, digest, copied, problems = _written(faces, pictures, quality, progress)
        if not lengths.any():
            raise checks.UserError(f"There is no picture that can be read: {decode.summary(list(problems))}.")
        done = {
            "made_by": f"fedveil {fedveil.__version__}", **origin, "size": faces.size[0], "quality": quality,
            "pictures": len(faces), "people": int(faces.identities.size), "copied": copied,
            "unreadable": [str(problem) for problem in problems], "jpeg_sha256": digest,
        }  # fmt: skip
        _assembled(archive, pictures, faces, lengths, json.dumps(done, sort_keys=True))
        archive.flush()
        os.fsync(archive.fileno())
        os.chmod(archive.name, 0o644)
        if os.path.lexists(out):
            raise checks.UserError(f"{out} has come to be there meanwhile; name a new file with --out.")
        os.replace(archive.name, out)
    return Summary(len(faces), int(faces.identities.size), copied, problems)


@contextlib.contextmanager
def _beside(out: Path) -> Iterator[IO[bytes]]:
    """Open a file beside `out` that is gone after the block, unless it has been renamed."""
    with tempfile.NamedTemporaryFile(dir=out.absolute().parent, prefix=f".{out.name}.", delete=False) as stream:
        try:
            yield cast(IO[bytes], stream)
        finally:
            Path(stream.name).unlink(missing_ok=True)


def _written(
    faces: FaceSet, stream: IO[bytes], quality: int, progress: Callable[[int, int], None]
) -> tuple[NDArray[np.int64], str, int, tuple[Problem, ...]]:
    """Write all pictures end to end; return their lengths, the hash of all, how many were copied, and problems."""
    lengths, digest, copied = np.zeros(len(faces), np.int64), hashlib.sha256(), 0
    problems = list(faces.skipped)
    for batch, images, found in faces.batches(64):
        problems += found
        for place, pixels in zip(batch.tolist(), images, strict=True):
            kept = faces.store.encoded(int(faces.index[place]))
            whole = kept is not None and _as_it_is(kept, faces.size[0])
            data = kept if kept is not None and whole else encoded(pixels, quality)
            copied += whole
            lengths[place] = stream.write(data)
            digest.update(data)
        progress(int(batch[-1]) + 1, len(faces)) if batch.size else None
    return lengths, digest.hexdigest(), copied, tuple(problems)


def encoded(pixels: NDArray[np.uint8], quality: int) -> bytes:
    """Return a picture (3, H, W), uint8 RGB, as a JPEG without reduced colours."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def _as_it_is(data: bytes, size: int) -> bool:
    """Return whether bytes, which have been decoded before, are a whole JPEG that reading changes nothing of."""
    if decode.check_jpeg(np.frombuffer(data, np.uint8)):
        return False
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        upright = image.getexif().get(_ORIENTATION) in _UPRIGHT
        return image.size == (size, size) and image.mode in ("RGB", "L") and upright


def _assembled(
    archive: IO[bytes], pictures: IO[bytes], faces: FaceSet, lengths: NDArray[np.int64], provenance: str
) -> None:
    """Write the .npz: small fields first, the pictures last and uncompressed, so that they can be read in place."""
    owners = (faces.names[label] for label in faces.labels.tolist())
    called = [record.removeprefix(f"{owner}/") for record, owner in zip(_records(faces), owners, strict=True)]
    fields = {
        "labels": faces.labels.astype(np.int64),
        "names": np.array([*faces.names], str),
        "files": np.array([name.encode() for name in called], bytes),
        "offsets": np.concatenate([[0], np.cumsum(lengths)]),
        "provenance": np.array([provenance]),
    }
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as members:
        for name, value in fields.items():
            with members.open(_member(name), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(value), allow_pickle=False)
        with members.open(_member("jpeg"), "w", force_zip64=True) as member:
            shape = {"descr": "|u1", "fortran_order": False, "shape": (int(lengths.sum()),)}
            np.lib.format.write_array_header_1_0(member, shape)
            pictures.seek(0)
            shutil.copyfileobj(pictures, member, _PIECE)


def _member(name: str) -> zipfile.ZipInfo:
    """Return a member without a date, which would make equal sets differ."""
    return zipfile.ZipInfo(f"{name}.npy")


def _records(faces: FaceSet) -> Iterator[str]:
    return (faces.store.record(index) for index in faces.index.tolist())
