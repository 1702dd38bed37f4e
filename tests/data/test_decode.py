from __future__ import annotations

import io
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


def test_orientation_is_applied() -> None:
    pixels = gradient(16, 16)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    found = decode.decode(encoded(pixels, exif=exif), 16).pixels
    np.testing.assert_array_equal(found, np.rot90(pixels, -1).transpose(2, 0, 1))


def test_large_jpeg_is_close_to_full_decoding() -> None:
    pixels = gradient(512, 512)
    found = decode.decode(encoded(pixels, "JPEG", quality=95), 32).pixels.astype(float)
    exact = decode.fit_array(pixels, 32).astype(float)
    assert abs(found - exact).max() < 6


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP"])
def test_truncated_files_are_refused(kind: str, tmp_path: Path) -> None:
    data = encoded(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), kind)
    for part in (data[: len(data) // 2], data[:5], b"", b"hello, I am a text file"):
        with pytest.raises(decode.Undecodable):
            decode.decode(part, 32)
        (tmp_path / "file").write_bytes(part)
        with pytest.raises(decode.Undecodable):
            decode.decode(tmp_path / "file", 32)


def test_jpeg_markers() -> None:
    data = np.frombuffer(encoded(gradient(16, 16), "JPEG"), np.uint8)
    assert decode.check_jpeg(data) is None
    assert decode.check_jpeg(data[:-7]) == "truncated JPEG"
    assert decode.check_jpeg(data[5:]) == "not a JPEG"
