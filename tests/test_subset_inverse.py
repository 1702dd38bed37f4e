"""The least-squares image from a subset of channels, against a dense solver and against the exact inverse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedveil import checks, frequency
from fedveil.data.sources.procedural import draw_faces
from fedveil.frequency import colour, operators
from fedveil.frequency.subset import subset_inverse

DUET = tuple(k for k in range(64) if k not in (0, 1, 2, 3, 4, 5, 8, 9, 16, 24))
FACES = torch.from_numpy(draw_faces(1, 0, identities=2, images_per_identity=1, size=32).images(np.arange(2)))


def without_means(images: torch.Tensor) -> torch.Tensor:
    planes = colour.to_ycc(images.double())
    return planes - planes.mean((2, 3), keepdim=True)


@pytest.mark.parametrize("align_corners", [True, False])
def test_what_duetface_sends_is_the_picture_up_to_its_means(align_corners: bool) -> None:
    sent = frequency.upsampled_dct(FACES, DUET, align_corners)
    back = subset_inverse(sent, DUET, align_corners)
    torch.testing.assert_close(without_means(back), without_means(FACES), atol=0.5, rtol=0)
    assert colour.to_ycc(back).mean((2, 3)).abs().max() < 1e-9, "no mean is known"


def test_given_means_are_assumed() -> None:
    means = colour.to_ycc(FACES[:1].double()).mean((2, 3))[0].tolist()
    back = subset_inverse(frequency.upsampled_dct(FACES[:1], DUET), DUET, mean=means)
    torch.testing.assert_close(back, FACES[:1].double(), atol=0.6, rtol=0)


def test_it_agrees_with_the_exact_inverse() -> None:
    for channels in (tuple(range(64)), frequency.AC):
        sent = frequency.upsampled_dct(FACES, channels)
        both = subset_inverse(sent, channels), frequency.exact_inverse(sent, channels)
        torch.testing.assert_close(*both, atol=1e-4, rtol=0)


def test_few_channels_are_fitted_as_a_dense_solver_fits_them() -> None:
    """9 channels of an 8 x 8 image as a dense matrix, solved by singular values."""
    channels, side = (6, 12, 17, 26, 33, 38, 43, 52, 57), 8
    image = FACES[:1, :, 8:16, 12:20]
    sent = frequency.upsampled_dct(image, channels)
    down = operators.dense(side, True).numpy()
    matrix = np.concatenate([np.kron(down[k // 8], down[k % 8]) for k in channels])
    planes = np.stack([np.linalg.lstsq(matrix, sent.view(3, -1)[c].double().numpy(), rcond=1e-9)[0] for c in range(3)])
    back = colour.to_ycc(subset_inverse(sent, channels, steps=400))[0].reshape(3, -1).numpy()
    fitted = [matrix @ (plane - plane.mean()) for plane in planes]
    for plane, expected in zip(back, fitted, strict=True):
        np.testing.assert_allclose(matrix @ plane, expected, atol=1e-2)


def test_zero_steps_are_refused() -> None:
    with pytest.raises(checks.UserError, match="steps"):
        subset_inverse(torch.zeros(1, 3, 8, 8), [1], steps=0)
