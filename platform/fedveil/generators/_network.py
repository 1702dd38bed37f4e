"""ID3's network: a noise predictor with its frozen recogniser and the public statistics that sampling needs."""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import nn

from fedveil.generators import _attributes as attributes
from fedveil.generators._denoiser import Denoiser
from fedveil.generators.base import Network

_FIRST, _LAST = 1e-4, 2e-2  # the linear schedule of DDPM, https://arxiv.org/abs/2006.11239
_SIGNAL = 0.02  # of the variance that is left of a face where a run evaluates what the generator makes of it
_WINDOW = 1009  # different noises that an evaluated face may get


def schedule(times: int) -> torch.Tensor:
    """Return (times,) float32: abar_t, the share of a face's variance that is left at time t; t = 0 has least noise."""
    steps = torch.linspace(_FIRST, _LAST, times, dtype=torch.float64) * (1000 / times)
    return torch.cumprod(1 - steps.clamp(max=0.999), 0).float()


class Generator(Network):
    """A conditional diffusion model of faces: x_t = sqrt(abar_t) x + sqrt(1 - abar_t) eps, and eps_theta(x_t, t, y, a).

    Conditions are an identity y, of length one, by a frozen recogniser phi, and attributes a
    (`generators._attributes.NAMES`). See `generators.id3` for the loss.

    Attributes:
        size: height and width, pixels.
        alphas: (T,) abar_t.
        dimension: D, of an identity.
        attribute_names: A names.
        denoiser: eps_theta, all that is trained.
        recogniser: phi, public and frozen.
        attributes: psi, public and frozen.
        identity_mean: (D,), and `identity_factor` (D, D): a plausible identity is mean + factor n, normalised, n
            standard normal: a Gaussian that was fitted to public faces' identities.
    """

    def __init__(
        self, denoiser: Denoiser, recogniser: nn.Module, size: tuple[int, int], dimension: int, times: int,
        dropout: float, kappa: float, reconstruction: float, share: float,
    ) -> None:  # fmt: skip
        super().__init__()
        self.denoiser = denoiser
        self.recogniser = recogniser.requires_grad_(False)
        self.attributes = attributes.Attributes()
        self.identity_mean = nn.Parameter(torch.zeros(dimension), requires_grad=False)
        self.identity_factor = nn.Parameter(torch.eye(dimension), requires_grad=False)
        self.size, self.dimension, self.attribute_names = size, dimension, attributes.NAMES
        self.alphas = schedule(times)
        self.dropout, self.kappa, self.reconstruction, self.share = dropout, kappa, reconstruction, share

    # --- conditions -----------------------------------------------------------------------------------------------

    def embed(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return identities (B, D) of length one of pixels (B, 3, H, W) in [-1, 1], differentiable in the pixels."""
        return functional.normalize(self.recogniser(pixels).to(pixels.dtype), dim=1, eps=1e-6)

    def describe(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return attributes (B, A) of pixels, standardised."""
        found: torch.Tensor = self.attributes(pixels)
        return found

    @property
    def attribute_mean(self) -> torch.Tensor:
        """(A,) of the public distribution of standardised attributes."""
        return torch.zeros_like(self.attributes.mean)

    @property
    def attribute_factor(self) -> torch.Tensor:
        """(A, A): attributes are factor n, n standard normal."""
        return self.attributes.factor

    @torch.no_grad()
    def fit(self, pixels: torch.Tensor) -> None:
        """Learn from public pictures (N, 3, H, W) in [-1, 1] what identities and attributes are usual."""
        self.attributes.fit(pixels)
        found = torch.cat([self.embed(part) for part in torch.split(pixels, 256)]).double()
        mean = found.mean(0)
        values, vectors = torch.linalg.eigh((found - mean).T @ (found - mean) / len(found))
        self.identity_mean.copy_(mean)
        self.identity_factor.copy_(vectors * values.clamp(min=0).sqrt())

    # --- diffusion ------------------------------------------------------------------------------------------------

    def noise(
        self, noisy: torch.Tensor, time: torch.Tensor, identity: torch.Tensor, described: torch.Tensor,
        kept: torch.Tensor | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """Return the noise (B, 3, H, W) in x_t at times (B,) int64; `kept` (B, 2) is 1 for a condition that is told."""
        kept = noisy.new_ones(len(noisy), 2) if kept is None else kept
        found: torch.Tensor = self.denoiser(noisy, time, identity, described, kept)
        return found.to(noisy.dtype)  # which autocast may have lowered

    def at(self, time: torch.Tensor) -> torch.Tensor:
        """Return abar_t (B, 1, 1, 1)."""
        return self.alphas.to(time.device)[time][:, None, None, None]

    def clean(self, noisy: torch.Tensor, time: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Return (x_t - sqrt(1 - abar_t) eps) / sqrt(abar_t): what x_t comes to by Tweedie's formula."""
        left = self.at(time)
        return (noisy - (1 - left).sqrt() * noise) / left.sqrt()

    # --- training -------------------------------------------------------------------------------------------------

    def drawn(self, pixels: torch.Tensor, coins: torch.Generator) -> torch.Tensor:
        """Return rows (B, 7, H, W): pixels, noise, and a plane with the time and which conditions are told."""
        count, times = len(pixels), len(self.alphas)
        first = torch.rand(count, generator=coins) < self.share
        time = torch.randint(1, times, (count,), generator=coins).masked_fill(first, 0)
        kept = (torch.rand(count, 2, generator=coins) >= self.dropout).float()
        noise = torch.randn(pixels.shape, generator=coins)
        plane = torch.zeros(count, 1, pixels[0, 0].numel())
        plane[:, 0, 0], plane[:, 0, 1:3] = time.float(), kept
        told = plane.view(count, 1, *pixels.shape[2:])
        return torch.cat([pixels, noise.to(pixels.device), told.to(pixels.device)], 1)

    def losses(self, rows: torch.Tensor, identity: torch.Tensor | None = None) -> torch.Tensor:
        """Return the losses (B,) of rows; see `generators.id3.ID3`.

        Args:
            rows: as `drawn` makes them.
            identity: (B, D) of length one in the place of the pictures' own.
        """
        pixels, noise, told = rows[:, :3], rows[:, 3:6], rows[:, 6].flatten(1)
        time, kept = told[:, 0].long(), told[:, 1:3]
        with torch.no_grad():
            own = self.embed(pixels) if identity is None else identity
            described = self.describe(pixels)
        left = self.at(time)
        noisy = left.sqrt() * pixels + (1 - left).sqrt() * noise
        found = self.noise(noisy, time, own, described, kept)
        made = self.clean(noisy, time, found)
        denoising = (found - noise).square().mean((1, 2, 3)) / (1 - self.share)
        first = (pixels - made).square().mean((1, 2, 3)) * (self.reconstruction / self.share)
        total = torch.where(time == 0, first, denoising)
        if self.kappa:
            likeness = (own * self.embed(made.clamp(-1, 1))).sum(1)
            total = total - self.kappa * left.flatten() * kept[:, 0] * likeness
        return total

    # --- as a recogniser --------------------------------------------------------------------------------------------

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return phi (B, D) of faces made anew in one step, from where noise has left 2 % of their variance.

        What tells people apart there must have come through the identity that the generator was told. Noise is a
        function of the picture, so an evaluation can be repeated.
        """
        time = (self.alphas - _SIGNAL).abs().argmin().to(pixels.device).expand(len(pixels))
        buffer = torch.randn(_WINDOW + pixels[0].numel(), generator=torch.Generator().manual_seed(1))
        place = pixels.double().mul(127.5).abs().sum((1, 2, 3)).round().long() % _WINDOW
        where = place[:, None].cpu() + torch.arange(pixels[0].numel())
        noise = buffer[where].view(pixels.shape).to(pixels)
        left = self.at(time)
        noisy = left.sqrt() * pixels + (1 - left).sqrt() * noise
        found = self.noise(noisy, time, self.embed(pixels), self.describe(pixels))
        again: torch.Tensor = self.recogniser(self.clean(noisy, time, found).clamp(-1, 1))
        return again
