"""What a picture's numbers mean as 8-bit RGB; where they do not say it, the picture is refused by name.

Policy, the same for every source:

* Transparent places show `BACKGROUND`, a middle grey, blended by their alpha before anything is scaled: the colours
  that a file hides there never come back.
* 16 bits are scaled by their type (the high byte). Where the brightest number stays below a quarter of the range they
  are refused: 10, 12 or 14 bits that were stored in 16 cannot be told from a dark picture, and would become one.
* 32-bit and floating-point pixels have no known range and are refused.
* CMYK is converted without its profile. In a JPEG it is inverted, as Adobe's marker says; without the marker it is
  refused. Other colour profiles are ignored.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BACKGROUND = 128
_USED = 2**14  # the brightest of 16 bits is at least this
_KNOWN = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr")
_CONVERT = "convert it to 8 bits per channel"


class Undecodable(ValueError):
    """These bytes are not a complete picture, or one whose numbers have no known meaning; the message says why."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """How a file keeps its pixels: such as `PNG`, `RGB;16B` (Pillow's raw mode), and whether it has Adobe's marker."""

    format: str
    raw: str
    adobe: bool


def stored(image: Image.Image) -> Stored:
    """Return how a file keeps its pixels; ask before they are decoded, when Pillow forgets it."""
    tiles: list[Any] = getattr(image, "tile", [])
    given = tiles[0][3] if tiles else ""
    raw = given[0] if isinstance(given, tuple) and given else given
    return Stored(image.format or "", str(raw), "adobe" in image.info)


def to_rgb(image: Image.Image, how: Stored) -> tuple[Image.Image, bool]:
    """Return decoded pixels as an RGB image of equal size, and whether the picture is grey.

    Raises:
        Undecodable: the numbers have no known meaning; the message says what to do.
    """
    if image.mode.startswith("I"):
        return Image.fromarray(_wide_grey(image, how)).convert("RGB"), True
    if image.mode not in _KNOWN:
        kind = "floating-point pixels" if image.mode == "F" else f"pixels of kind {image.mode}"
        raise Undecodable(f"{kind} have no known range; {_CONVERT}")
    if image.mode == "CMYK" and how.format in ("JPEG", "MPO") and not how.adobe:
        raise Undecodable("CMYK without Adobe's marker may be inverted or not; convert it to RGB")
    grey = image.mode in ("1", "L", "LA", "La") or how.raw.startswith("LA")
    if not image.has_transparency_data:
        opaque = image.convert("RGB")
        _refuse_unused_bits(np.asarray(opaque), how)
        return opaque, grey
    layers = _with_right_transparency(image, how).convert("RGBA")
    pixels = np.asarray(layers)
    _refuse_unused_bits(pixels[pixels[..., 3] > 0][:, :3], how)
    behind = Image.new("RGBA", layers.size, (BACKGROUND, BACKGROUND, BACKGROUND, 255))
    return Image.alpha_composite(behind, layers).convert("RGB"), grey


def _wide_grey(image: Image.Image, how: Stored) -> NDArray[np.uint8]:
    """Return 16-bit grey (H, W) as 8 bits."""
    declared = how.format == "PPM"  # such a file says what its largest value is, and Pillow scales by that
    if image.mode == "I" and not declared and how.format != "PNG":
        raise Undecodable(f"32-bit pixels have no known range; {_CONVERT}")
    values = np.asarray(image).astype(np.int64)
    if not declared and values.max() < _USED:
        raise Undecodable(_unused(int(values.max())))
    bright = (values >> 8).clip(0, 255).astype(np.uint8)
    if isinstance(image.info.get("transparency"), int):
        bright[values == image.info["transparency"]] = BACKGROUND
    return bright


def _refuse_unused_bits(pixels: NDArray[np.uint8], how: Stored) -> None:
    """Refuse what was stored in 16 bits, of which Pillow keeps the high byte, and hardly uses them."""
    if ";16" in how.raw and pixels.size and int(pixels.max()) < _USED >> 8:
        raise Undecodable(_unused(int(pixels.max()) << 8))


def _unused(brightest: int) -> str:
    return (
        f"16 bits per channel, but nothing brighter than about {brightest} of 65535: perhaps 14 bits or fewer, not "
        f"scaled; {_CONVERT}"
    )


def _with_right_transparency(image: Image.Image, how: Stored) -> Image.Image:
    """Return the image with a transparent colour in the units of its pixels, where Pillow leaves the file's."""
    clear = image.info.get("transparency")
    if how.raw in ("L;2", "L;4") and isinstance(clear, int):
        image.info["transparency"] = clear * (85 if how.raw == "L;2" else 17)
    if how.raw.startswith("RGB;16") and clear is not None:
        raise Undecodable(f"a transparent colour of 16 bits per channel; {_CONVERT}")
    return image
