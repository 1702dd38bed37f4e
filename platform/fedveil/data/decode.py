"""Picture files and bytes to aligned uint8 faces of one size.

Policy, the same for every source: the EXIF orientation is applied; grey is copied to all three colour channels; the
shorter side is scaled to the size (Lanczos, anti-aliased) and the longer side is cropped around its centre.
"""

from __future__ import annotations

import collections
import dataclasses
import io
import struct
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fedveil import checks
from fedveil.data.faces import Problem

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm"})
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


class Undecodable(ValueError):
    """These bytes are not a complete picture; the message says why."""


@dataclasses.dataclass(frozen=True)
class Decoded:
    """One decoded picture: pixels (3, size, size) uint8, its size in the file as (width, height), and whether grey."""

    pixels: NDArray[np.uint8]
    original: tuple[int, int]
    grey: bool


def decode(source: Path | bytes, size: int) -> Decoded:
    """Return the picture at `size`; raise `Undecodable` when it is truncated or no picture."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata; what matters raises
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                original = image.size
                # A JPEG far larger than needed is decoded at a half, a quarter or an eighth, never below twice `size`.
                image.draft("RGB", (2 * size, 2 * size))
                upright = ImageOps.exif_transpose(image)
                grey = upright.mode in ("1", "L", "LA", "F") or upright.mode.startswith("I")
                pixels = fit(_rgb(upright), size)
    except _BROKEN as error:
        raise Undecodable(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from error
    return Decoded(pixels, original, grey)


def pictures(
    source: Path, size: int, count: int | None = None
) -> tuple[NDArray[np.uint8], list[str], list[Problem]]:
    """Return pixels (N, 3, size, size) and names of a picture file, or of the first `count` readable ones of a folder.

    The third is what could not be read on the way, with the reasons.

    Raises:
        fedveil.checks.UserError: nothing readable at `source`; the message names a file.
    """
    if not source.exists():
        raise checks.UserError(f"No such image or folder: {source}")
    files = [source]
    if source.is_dir():
        files = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise checks.UserError(f"{source} holds no image ({', '.join(sorted(SUFFIXES))}).")
    found: list[NDArray[np.uint8]] = []
    names: list[str] = []
    problems: list[Problem] = []
    for path in files:
        if len(found) == count:
            break
        name = str(path.relative_to(source)) if source.is_dir() else path.name
        try:
            found.append(decode(path, size).pixels)
            names.append(name)
        except Undecodable as error:
            problems.append(Problem(name, str(error)))
    if not found:
        raise checks.UserError(f"No readable image: {source}: {problems[0]}")
    return np.stack(found), names, problems


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits; a plain conversion would clip at 255
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


def fit(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Return (3, size, size): the largest centred square of an RGB image, scaled with Lanczos."""
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    return np.ascontiguousarray(np.asarray(image, np.uint8).transpose(2, 0, 1))


def fit_array(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return (3, size, size) from one grey (H, W) or colour (H, W, 3) array."""
    return fit(Image.fromarray(pixels).convert("RGB"), size)


def check_jpeg(data: NDArray[np.uint8]) -> str | None:
    """Return why bytes cannot be a complete JPEG, from their first and last marker alone, or None."""
    if data.size < 4 or (data[0], data[1]) != (0xFF, 0xD8):
        return "not a JPEG"
    return None if (data[-2], data[-1]) == (0xFF, 0xD9) else "truncated JPEG"


def notes(originals: list[tuple[int, int]], grey: int, size: int) -> tuple[str, ...]:
    """Return what was changed, in words, counted; empty when nothing was."""
    resized = collections.Counter(original for original in originals if original != (size, size))
    found = []
    if resized:
        shown = ", ".join(f"{w}x{h} ({n})" for (w, h), n in resized.most_common(3))
        more = f" and {len(resized) - 3} more sizes" if len(resized) > 3 else ""
        found.append(f"{resized.total()} of {len(originals)} images resized to {size}x{size} from {shown}{more}")
    if grey:
        found.append(f"{grey} of {len(originals)} images are grey, copied to three channels")
    return tuple(found)


def summary(problems: list[Problem]) -> str:
    """Return `3 files skipped, for example a.jpg: truncated`, for messages."""
    return f"{len(problems)} files skipped, for example {problems[0]}" if problems else "no file skipped"
