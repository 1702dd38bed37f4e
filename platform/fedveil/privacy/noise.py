"""Laplace and Gaussian noise from a secret stream: inverse distribution functions of float64 uniforms.

Floating-point limits, which a ledger states with every claim. A draw takes one of 2^52 values, so tails end at 36
Laplace scales or 8.2 standard deviations, and the low bits of `value + noise` depend on the value (Mironov, "On
significance of the least significant bits for differential privacy", CCS 2012). The guarantees elsewhere are those of
exact real noise; a discrete or snapped sampler would remove this gap. What holds here: the uniforms are cryptographic
and independent, no draw is infinite or zero, and each value consumes exactly one uniform, so a stream's position is
public.
"""

from __future__ import annotations

import torch

from fedveil import checks
from fedveil.randomness import SecretStream

VERSION = 1
"""Of what a stream's numbers become: a change that turns the same stream into other noise must raise it."""


def _scale(scale: torch.Tensor) -> torch.Tensor:
    scales = scale.to(torch.float64)
    if not bool((torch.isfinite(scales) & (scales > 0)).all()):
        raise checks.UserError("Expected every noise scale to be positive and finite; check the budget and the shape.")
    return scales


def laplace(stream: SecretStream, scale: torch.Tensor) -> torch.Tensor:
    """Return independent zero-mean Laplace noise, float64, of the shape and with the scales b of `scale`.

    The density of an element is exp(-|x| / b) / (2 b), its standard deviation sqrt(2) b.

    Raises:
        UserError: unless every scale is positive and finite.

    >>> from fedveil.randomness import SecretStream
    >>> laplace(SecretStream(bytes(32)), torch.full((2, 3), 10.0)).shape
    torch.Size([2, 3])
    """
    scales = _scale(scale)
    centred = torch.from_numpy(stream.uniform(scales.numel()) - 0.5).view(scales.shape)
    # 1 - 2|u - 1/2| is exact and at least 2^-52; log1p keeps full precision for the many draws near zero.
    return -scales * centred.sign() * torch.log1p(-2.0 * centred.abs())


def gaussian(stream: SecretStream, sigma: torch.Tensor) -> torch.Tensor:
    """Return independent zero-mean Gaussian noise, float64, of the shape and with the standard deviations `sigma`.

    Raises:
        UserError: unless every standard deviation is positive and finite.
    """
    sigmas = _scale(sigma)
    uniform = torch.from_numpy(stream.uniform(sigmas.numel())).view(sigmas.shape)
    draw: torch.Tensor = torch.special.ndtri(uniform)
    return sigmas * draw
