"""Picture files and bytes to aligned uint8 faces of one size.

Policy, the same for every source: the first frame or page; the EXIF orientation is applied once; colours become RGB as
`colours` says, grey is copied to all three channels; the shorter side is scaled to the size (Lanczos, anti-aliased) and
the longer side is cropped around its centre.
"""

from __future__ import annotations

import collections
import dataclasses
import io
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from fedveil import checks
from fedveil.data import colours, files
from fedveil.data.colours import Undecodable as Undecodable
from fedveil.data.stores import Problem

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm"})
# Pillow knows dozens of kinds, some of which start other programs: only those that pictures of faces come in are tried.
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "GIF")
_MAX_PIXELS = 2**26  # decoded at once, 200 MB of colours; a large JPEG is decoded at a fraction of its size
_MAX_ASPECT = 20  # a strip is no face, and its centred square shows next to nothing

_Found = TypeVar("_Found")

logging.getLogger("PIL").addHandler(logging.NullHandler())  # it prints what it thinks of a damaged file


@dataclasses.dataclass(frozen=True)
class Decoded:
    """One decoded picture: pixels (3, size, size) uint8, its size in the file as (width, height), and whether grey."""

    pixels: NDArray[np.uint8]
    original: tuple[int, int]
    grey: bool


def decode(source: Path | bytes, size: int) -> Decoded:
    """Return the picture at `size`.

    Raises:
        Undecodable: no regular file, truncated, no picture, or one that cannot be read without guessing.
    """
    return _read(source, lambda stream: _decoded(stream, size))


def upright(source: Path | bytes) -> Image.Image:
    """Return a whole picture, RGB, its EXIF orientation applied: what landmarks are measured in.

    Raises:
        Undecodable: as for `decode`.
    """
    return _read(source, lambda stream: _opened(stream, None)[0])


def _read(source: Path | bytes, read: Callable[[BinaryIO], _Found]) -> _Found:
    """Return what `read` makes of a picture; whatever it raises becomes `Undecodable`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata; what matters raises
            with io.BytesIO(source) if isinstance(source, bytes) else files.opened(source) as stream:
                return read(stream)
    except Undecodable:
        raise
    except UnidentifiedImageError as error:
        raise Undecodable(f"not a picture of a kind that is read ({', '.join(_FORMATS)})") from error
    except Image.DecompressionBombError as error:
        raise Undecodable(f"more than {_MAX_PIXELS:,} pixels; scale it down") from error
    except OSError as error:
        raise Undecodable(files.reason(error)) from error
    except Exception as error:  # what decoders raise on damaged bytes is no closed list
        raise Undecodable(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from error


def _decoded(stream: BinaryIO, size: int) -> Decoded:
    rgb, original, grey = _opened(stream, size)
    return Decoded(fit(rgb, size), original, grey)


def _opened(stream: BinaryIO, size: int | None) -> tuple[Image.Image, tuple[int, int], bool]:
    """Return an upright RGB picture, its size in the file and whether it is grey; all pixels without `size`."""
    with Image.open(stream, formats=_FORMATS) as image:
        original, how = image.size, colours.stored(image)
        if reason := odd_shape(*original):
            raise Undecodable(reason)
        if size is not None:  # a far larger JPEG is decoded at a half, a quarter or an eighth, never below twice `size`
            image.draft("RGB", (2 * size, 2 * size))
        if image.width * image.height > _MAX_PIXELS:
            raise Undecodable(f"{original[0]}x{original[1]} is more than {_MAX_PIXELS:,} pixels; scale it down")
        rgb, grey = colours.to_rgb(ImageOps.exif_transpose(image), how)
        return rgb, original, grey


def odd_shape(width: int, height: int) -> str | None:
    """Return why a picture of this shape is no face, or None.

    >>> odd_shape(400, 4)
    '400x4 is a strip, more than 20 times as long as wide'
    """
    if min(width, height) < 1:
        return f"{width}x{height} has no pixels"
    if max(width, height) > _MAX_ASPECT * min(width, height):
        return f"{width}x{height} is a strip, more than {_MAX_ASPECT} times as long as wide"
    return None


def pictures(source: Path, size: int, count: int | None = None) -> tuple[NDArray[np.uint8], list[str], list[Problem]]:
    """Return pixels (N, 3, size, size) and names of a picture file, or of the first `count` readable ones of a folder.

    The third is what could not be read on the way, with the reasons.

    Raises:
        fedveil.checks.UserError: nothing readable at `source`; the message names a file.
    """
    kind = files.kind(source)
    if kind == "missing":
        raise checks.UserError(f"No such image or folder: {source}")
    if kind not in (files.FILE, files.FOLDER):
        raise checks.UserError(f"{source} is {kind}; expected a picture or a folder of pictures.")
    paths = [source]
    if kind == files.FOLDER:
        paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise checks.UserError(f"{source} holds no image ({', '.join(sorted(SUFFIXES))}).")
    found: list[NDArray[np.uint8]] = []
    names: list[str] = []
    problems: list[Problem] = []
    for path in paths:
        if len(found) == count:
            break
        name = str(path.relative_to(source)) if kind == files.FOLDER else path.name
        try:
            found.append(decode(path, size).pixels)
            names.append(name)
        except Undecodable as error:
            problems.append(Problem(name, str(error)))
    if not found:
        raise checks.UserError(f"No readable image: {source}: {problems[0]}")
    return np.stack(found), names, problems


def fit(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Return (3, size, size): the largest centred square of an RGB image, scaled with Lanczos."""
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
    return np.ascontiguousarray(np.asarray(image, np.uint8).transpose(2, 0, 1))


def fit_array(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return (3, size, size) from one grey (H, W) or colour (H, W, 3) array."""
    if pixels.shape == (size, size, 3):  # as it is wanted: Pillow would copy it three times
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))
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
