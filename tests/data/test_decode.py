from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fedveil.data import decode


def encoded(pixels: NDArray[np.uint8], kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def gradient(height: int, width: int) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 200 // height, columns * 200 // width, rows * 0 + 90], -1).astype(np.uint8)


def test_right_size_is_untouched() -> None:
    pixels = gradient(16, 16)
    decoded = decode.decode(encoded(pixels), 16)
    np.testing.assert_array_equal(decoded.pixels, pixels.transpose(2, 0, 1))
    assert decoded.original == (16, 16)
    assert not decoded.grey


def test_shorter_side_is_scaled_and_the_middle_kept() -> None:
    pixels = np.zeros((40, 120, 3), np.uint8)
    pixels[:, 40:80] = 255  # only the central square is white
    found = decode.decode(encoded(pixels), 16).pixels
    assert found[:, :, 1:-1].min() > 250  # Lanczos looks a little beyond the edge of the square
    assert found.min() > 200


def test_scaling_averages_instead_of_picking() -> None:
    board = (np.indices((128, 128)).sum(0) % 2 * 255).astype(np.uint8)
    assert abs(decode.decode(encoded(board), 16).pixels.astype(float) - 127.5).max() < 3


def test_grey_and_sixteen_bits_and_alpha() -> None:
    grey = gradient(16, 16)[:, :, 0]
    for data in (encoded(grey), encoded(grey.astype(np.uint16) * 256)):
        decoded = decode.decode(data, 16)
        assert decoded.grey
        np.testing.assert_array_equal(decoded.pixels, np.stack([grey] * 3))
    alpha = np.dstack([gradient(16, 16), np.full((16, 16), 255, np.uint8)])
    assert not decode.decode(encoded(alpha), 16).grey


# What undoes each EXIF orientation, as NumPy says it.
UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored),
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientation_is_applied_exactly_once(kind: str, orientation: int) -> None:
    pixels = gradient(16, 16)
    exif = Image.Exif()
    exif[0x0112] = orientation
    more = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    found = decode.decode(encoded(pixels, kind, exif=exif, **more), 16).pixels
    difference = found.astype(int) - UPRIGHT[orientation](pixels).transpose(2, 0, 1)
    assert abs(difference).max() <= (4 if kind == "JPEG" else 0)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_no_reason_to_turn(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decode.decode(encoded(gradient(16, 16), exif=exif), 16).pixels
    np.testing.assert_array_equal(found, gradient(16, 16).transpose(2, 0, 1))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_or_page_is_read(kind: str) -> None:
    first, second = (Image.new("RGB", (16, 16), colour) for colour in ((200, 40, 40), (40, 40, 200)))
    buffer = io.BytesIO()
    more = {"lossless": True} if kind == "WEBP" else {}
    first.save(buffer, kind, save_all=True, append_images=[second], **more)
    found = decode.decode(buffer.getvalue(), 16).pixels
    np.testing.assert_array_equal(found, np.asarray(first).transpose(2, 0, 1))


def test_large_jpeg_is_close_to_full_decoding() -> None:
    pixels = gradient(512, 512)
    found = decode.decode(encoded(pixels, "JPEG", quality=95), 32).pixels.astype(float)
    exact = decode.fit_array(pixels, 32).astype(float)
    assert abs(found - exact).max() < 6


@pytest.mark.parametrize("kind", ["JPEG", "progressive JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "GIF"])
def test_truncated_files_are_refused(kind: str, tmp_path: Path) -> None:
    options = {"progressive": True} if kind.startswith("progressive") else {}
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encoded(pixels, kind.split()[-1], **options)
    for part in (data[: len(data) // 2], data[:5], b"", b"hello, I am a text file"):
        with pytest.raises(decode.Undecodable):
            decode.decode(part, 32)
        (tmp_path / "file").write_bytes(part)
        with pytest.raises(decode.Undecodable):
            decode.decode(tmp_path / "file", 32)


def test_damaged_bytes_never_raise_anything_else() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (24, 24, 3), np.uint8)
    said = []
    for kind in ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "GIF"):
        good = np.frombuffer(encoded(pixels, kind), np.uint8)
        for _ in range(60):
            bad = good.copy()
            bad[rng.integers(0, min(200, bad.size), 4)] = rng.integers(0, 256, 4)
            try:
                assert decode.decode(bad.tobytes(), 16).pixels.shape == (3, 16, 16)
            except decode.Undecodable as error:
                said.append(str(error))
    assert len(said) > 100
    assert all(text.isprintable() and " at 0x" not in text for text in said)  # no address of this process


def test_huge_pictures_are_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    header = b"P5 %d %d 255\n"
    for side in (9_000, 20_000, 100_000):  # the last is beyond Pillow's own limit
        with pytest.raises(decode.Undecodable, match=r"more than 67,108,864 pixels"):
            decode.decode(header % (side, side), 16)
    # A large JPEG is decoded at a fraction of its size, and only that counts.
    monkeypatch.setattr(decode, "_MAX_PIXELS", 300 * 300)
    assert decode.decode(encoded(gradient(512, 512), "JPEG"), 32).original == (512, 512)
    with pytest.raises(decode.Undecodable, match="512x512"):
        decode.decode(encoded(gradient(512, 512), "PNG"), 32)


@pytest.mark.parametrize(("width", "height"), [(2000, 3), (1, 4000)])
def test_strips_are_refused(width: int, height: int) -> None:
    with pytest.raises(decode.Undecodable, match=f"{width}x{height} is a strip"):
        decode.decode(encoded(gradient(height, width)), 32)
    assert decode.odd_shape(20, 1) is None
    assert decode.odd_shape(0, 5) == "0x5 has no pixels"


@pytest.mark.parametrize("data", [b"P5 0 4 255\n", b"GIF89a" + bytes(7) + b";", b"P6 4 0 255\n"])
def test_pictures_without_pixels_are_refused(data: bytes) -> None:
    with pytest.raises(decode.Undecodable):
        decode.decode(data, 16)


def test_no_other_program_is_started_for_a_picture() -> None:
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n"
    with pytest.raises(decode.Undecodable, match="not a picture of a kind that is read"):
        decode.decode(page, 16)


def test_jpeg_markers() -> None:
    data = np.frombuffer(encoded(gradient(16, 16), "JPEG"), np.uint8)
    assert decode.check_jpeg(data) is None
    assert decode.check_jpeg(data[:-7]) == "truncated JPEG"
    assert decode.check_jpeg(data[5:]) == "not a JPEG"
