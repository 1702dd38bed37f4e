from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fedveil.data import decode
from fedveil.data.colours import BACKGROUND

SIZE = 16
NOISE = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(depth: int, colour: int, rows: list[bytes], width: int = SIZE, **chunks: bytes) -> bytes:
    """Return a PNG of kinds that Pillow does not write: `colour` 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0))
    extra = b"".join(chunk(name.encode(), data) for name, data in chunks.items())
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + head + extra + body + chunk(b"IEND", b"")


def pixels(data: bytes, size: int = SIZE) -> NDArray[np.uint8]:
    return decode.decode(data, size).pixels


def wide(values: NDArray[Any], samples: int = 1) -> list[bytes]:
    return [row.astype(">u2").tobytes() for row in values.reshape(SIZE, SIZE * samples)]


def hidden(kind: str, noise: NDArray[np.uint8]) -> bytes:
    """Return a picture that shows nothing: `noise` is only where it is transparent."""
    clear = np.zeros((SIZE, SIZE, 1), np.uint8)
    if kind == "RGBA":
        return saved(Image.fromarray(np.concatenate([noise, clear], 2)))
    if kind == "LA":
        return saved(Image.fromarray(np.concatenate([noise[..., :1], clear], 2), "LA"))
    if kind == "palette":
        return png(8, 3, [bytes([i % 4 for i in range(SIZE)])] * SIZE, PLTE=noise.tobytes()[:12], tRNS=bytes(4))
    if kind == "PA":
        image = Image.new("PA", (SIZE, SIZE))
        image.putpalette(noise.tobytes()[:12], "RGB")
        return saved(image, "TIFF")
    if kind == "webp":
        return saved(Image.fromarray(np.concatenate([noise, clear], 2)), "WEBP", lossless=True, exact=True)
    if kind == "RGBA, 16 bits":
        deep = np.concatenate([noise, clear], 2).astype(np.uint16) * 257
        return png(16, 6, wide(deep, 4))
    shade = int(noise[0, 0, 0])
    if kind == "RGB with a transparent colour":
        return png(8, 2, [bytes([shade, 7, 9]) * SIZE] * SIZE, tRNS=struct.pack(">HHH", shade, 7, 9))
    if kind == "grey with a transparent value":
        return png(8, 0, [bytes([shade]) * SIZE] * SIZE, tRNS=struct.pack(">H", shade))
    if kind == "grey of 16 bits with a transparent value":
        value = 20_000 + shade
        return png(16, 0, wide(np.full((SIZE, SIZE), value)), tRNS=struct.pack(">H", value))
    bits = {"grey of 2 bits with a transparent value": 2, "grey of 4 bits with a transparent value": 4}[kind]
    value = shade % (2**bits)
    packed = {2: value * 0b01010101, 4: value * 0x11}[bits]
    return png(bits, 0, [bytes([packed]) * (SIZE * bits // 8)] * SIZE, tRNS=struct.pack(">H", value))


@pytest.mark.parametrize(
    "kind",
    [
        "RGBA", "LA", "palette", "PA", "webp", "RGBA, 16 bits", "RGB with a transparent colour",
        "grey with a transparent value", "grey of 16 bits with a transparent value",
        "grey of 2 bits with a transparent value", "grey of 4 bits with a transparent value",
    ],
)  # fmt: skip
def test_hidden_colours_do_not_come_back(kind: str) -> None:
    for noise in (NOISE, NOISE[::-1] // 2):
        for size in (SIZE, 8, 40):
            assert (pixels(hidden(kind, noise), size) == BACKGROUND).all()


def test_half_transparent_is_half_the_background_and_opaque_is_untouched() -> None:
    alpha = np.full((SIZE, SIZE, 1), 255, np.uint8)
    np.testing.assert_array_equal(
        pixels(saved(Image.fromarray(np.concatenate([NOISE, alpha], 2)))), NOISE.transpose(2, 0, 1)
    )
    half = np.concatenate([np.full((SIZE, SIZE, 3), 228, np.uint8), alpha // 2], 2)
    assert abs(pixels(saved(Image.fromarray(half))).astype(int) - 178).max() <= 1
    # Blending comes before scaling: a hidden neighbour does not bleed into what is shown.
    striped = np.zeros((32, 32, 4), np.uint8)
    striped[::2] = 255
    striped[1::2, :, 0] = 255  # red, hidden
    red, green, _ = pixels(saved(Image.fromarray(striped)))
    np.testing.assert_array_equal(red, green)


RAMP = np.linspace(0, 1, SIZE * SIZE).reshape(SIZE, SIZE)


def test_sixteen_bits_are_scaled_by_their_type() -> None:
    deep = (RAMP * 65535).astype(np.uint16)
    wanted = np.stack([(deep >> 8).astype(np.uint8)] * 3)
    for kind in ("PNG", "TIFF", "PPM"):
        found = decode.decode(saved(Image.fromarray(deep), kind), SIZE)
        np.testing.assert_array_equal(found.pixels, wanted)
        assert found.grey
    colour = np.stack([deep, deep[::-1], deep.T], -1)
    for kind, samples in ((2, colour), (6, np.dstack([colour, np.full((SIZE, SIZE), 65535)]))):
        found = decode.decode(png(16, kind, wide(samples, samples.shape[2])), SIZE)
        np.testing.assert_array_equal(found.pixels, (colour >> 8).transpose(2, 0, 1).astype(np.uint8))
        assert not found.grey
    grey = decode.decode(png(16, 4, wide(np.dstack([deep, np.full((SIZE, SIZE), 65535)]), 2)), SIZE)
    np.testing.assert_array_equal(grey.pixels, wanted)
    assert grey.grey


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_fewer_bits_stored_in_sixteen_are_refused_not_shown_dark(bits: int) -> None:
    low = (RAMP * (2**bits - 1)).astype(np.uint16)
    kinds = [saved(Image.fromarray(low)), saved(Image.fromarray(low), "TIFF")]
    alpha = np.full((SIZE, SIZE), 65535)
    kinds += [png(16, 2, wide(np.dstack([low] * 3), 3))]
    kinds += [png(16, 6, wide(np.dstack([low, low, low, alpha]), 4)), png(16, 4, wide(np.dstack([low, alpha]), 2))]
    for data in kinds:
        with pytest.raises(decode.Undecodable, match=r"16 bits per channel.*convert it to 8 bits"):
            decode.decode(data, SIZE)


def test_a_declared_largest_value_is_believed() -> None:
    low = (RAMP * 1023).astype(">u2")
    found = pixels(b"P5 16 16 1023\n" + low.tobytes())
    assert (int(found.min()), int(found.max())) == (0, 255)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint32])
def test_numbers_without_a_known_range_are_refused_by_name(dtype: Any) -> None:
    values = (RAMP * 65535).astype(dtype) if dtype != np.float32 else RAMP.astype(dtype)
    image = Image.fromarray(values.view(np.int32) if dtype == np.uint32 else values)
    with pytest.raises(decode.Undecodable, match=r"no known range; convert it to 8 bits per channel"):
        decode.decode(saved(image, "TIFF"), SIZE)
    with pytest.raises(decode.Undecodable, match="kind LAB have no known range"):
        decode.decode(saved(Image.new("LAB", (SIZE, SIZE)), "TIFF"), SIZE)


def test_a_transparent_colour_of_sixteen_bits_is_refused() -> None:
    data = png(16, 2, wide(np.full((SIZE, SIZE, 3), 40_000), 3), tRNS=struct.pack(">HHH", 40_000, 40_000, 40_000))
    with pytest.raises(decode.Undecodable, match="transparent colour of 16 bits"):
        decode.decode(data, SIZE)


def test_cmyk_is_read_as_its_marker_says() -> None:
    inks = Image.new("CMYK", (SIZE, SIZE), (0, 255, 255, 0))  # cyan none, magenta and yellow full: red
    red = np.array([255, 0, 0])[:, None, None]
    jpeg = saved(inks, "JPEG", quality=95)
    for data in (jpeg, saved(inks, "TIFF")):
        assert abs(pixels(data).astype(int) - red).max() < 12
    start = jpeg.index(b"\xff\xee")
    plain = jpeg[:start] + jpeg[start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big") :]
    with pytest.raises(decode.Undecodable, match="CMYK without Adobe's marker"):
        decode.decode(plain, SIZE)


def test_palette_and_one_bit() -> None:
    colours = Image.fromarray(NOISE).quantize(16)
    np.testing.assert_array_equal(pixels(saved(colours)), np.asarray(colours.convert("RGB")).transpose(2, 0, 1))
    bits = NOISE[..., 0] > 128
    for kind in ("PNG", "TIFF", "BMP"):
        found = decode.decode(saved(Image.fromarray(bits), kind), SIZE)
        np.testing.assert_array_equal(found.pixels, np.stack([bits * np.uint8(255)] * 3))
        assert found.grey
