"""Frequency transforms of face images, their inverses and their public ranges.

Two transforms, never to be confused:

* `block_dct`: **critically sampled**, the 8x8 block DCT of the image itself; as many numbers as pixels, orthonormal per
  colour plane, exactly inverted by `block_idct`. The mechanism with an image-level guarantee works on it.
* `upsampled_dct`: the **published** one of the DCT face-recognition papers: upsample by 8, then 8x8 block DCT, so 64
  numbers per pixel and colour, all of them linear functions of a 3x3 neighbourhood of the original pixels. Recognisers
  like this layout; privacy does not: `exact_inverse` gets the image back from it, even without the DC channel.

Conventions of both: RGB values in 0..255; JPEG full-range YCbCr with every plane centred on 0; channel index
`64 * colour + 8 * u + v` (colour-major; u is the vertical and v the horizontal frequency).
"""

from fedveil.frequency.block import block_dct, block_idct, block_ranges
from fedveil.frequency.colour import to_rgb, to_ycc
from fedveil.frequency.inverse import exact_inverse, published_decode, published_inverse
from fedveil.frequency.mirror import mirrored
from fedveil.frequency.upsampled import (
    coefficient_ranges,
    identically_zero_channels,
    to_upsampled_layout,
    upsampled_dct,
    upsampled_dct_each,
)

AC = tuple(range(1, 64))
"""The 63 frequencies without the block's mean."""

VERSION = 1
"""Version of the transforms; part of every mechanism's identity. Changes whenever a coefficient's meaning changes."""

__all__ = [
    "AC",
    "VERSION",
    "block_dct",
    "block_idct",
    "block_ranges",
    "coefficient_ranges",
    "exact_inverse",
    "identically_zero_channels",
    "mirrored",
    "published_decode",
    "published_inverse",
    "to_rgb",
    "to_upsampled_layout",
    "to_ycc",
    "upsampled_dct",
    "upsampled_dct_each",
]
