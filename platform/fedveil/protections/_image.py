"""Mode image: one weighted norm over the whole critically sampled transform, hence one epsilon for the whole image."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fedveil import checks, frequency
from fedveil.device import on_host
from fedveil.frequency import colour
from fedveil.privacy import clipping, gaussian
from fedveil.privacy.noise import Kind, Noise
from fedveil.protections import base
from fedveil.protections._learn import Draft, unit_noise
from fedveil.protections._linear import LinearMap
from fedveil.randomness import public_torch

_CHUNK = 64
_DC, _AC = [0, 64, 128], [index for index in range(192) if index % 64]


@dataclass(frozen=True)
class ImageMechanism:
    """Clip sum |w z| (Laplace) or |w z|_2 (Gaussian) to a public radius R, then noise of scale 2 R / (budget w).

    Any two images are then at most 2 R apart in the weighted norm, so the loss between them is at most `total_epsilon`
    (Laplace), or the release is mu-GDP with mu from (`total_epsilon`, `delta`) (Gaussian), whatever w and R are; they
    decide how much is left to recognise. State: `weights` (189, a, b), mean 1, with a = b = 1 or the grid of blocks;
    `variance`, the same shape; `mean` (192, h, w), the mean public face in coefficients; `radius` ().
    """

    total_epsilon: float
    law: str
    delta: float
    radius_quantile: float
    input_layout: str
    align_corners: bool

    @property
    def order(self) -> int:
        """The norm that matches the noise."""
        return 1 if self.law == "laplace" else 2

    @property
    def budget(self) -> float:
        """Largest distance of two images in units of the noise: epsilon for Laplace, mu for Gaussian."""
        return self.total_epsilon if self.law == "laplace" else gaussian.mu_of(self.total_epsilon, self.delta)

    def representation(self, size: tuple[int, int]) -> base.Shape:
        """Return (189, H / 8, W / 8)."""
        checks.multiple_of(8, height=size[0], width=size[1])
        return (189, size[0] // 8, size[1] // 8)

    def layout(self, size: tuple[int, int]) -> base.Shape:
        """Return (3, H, W) for pixels, (189, H, W) for the upsampled layout."""
        return (3 if self.input_layout == "pixels" else 189, *size)

    def check_state(self, state: base.State, size: tuple[int, int], spatial: bool) -> None:
        """Raise `UserError` unless `state` is one of this mechanism at this size."""
        channels, height, width = self.representation(size)
        shape = (channels, height, width) if spatial else (channels, 1, 1)
        shapes = {"weights": shape, "variance": shape, "mean": (192, height, width), "radius": ()}
        if self.input_layout == "upsampled":
            shapes["whitening"] = (189,)
        base.check_state(state, shapes)
        if torch.compiler.is_compiling():  # as there
            return
        state = on_host(state)
        checks.positive(radius=float(state["radius"]), smallest_weight=float(state["weights"].min()))
        checks.non_negative(smallest_variance=float(state["variance"].min()))

    def coefficients(self, images: torch.Tensor) -> torch.Tensor:
        """Return the clean AC coefficients (B, 189, h, w), float32."""
        return frequency.block_dct(images, frequency.AC)

    def scales(self, state: base.State, size: tuple[int, int]) -> torch.Tensor:
        """Return the noise scales b or sigma, float64 (189, H / 8, W / 8)."""
        scales = 2.0 * state["radius"].double() / (self.budget * state["weights"].double())
        return scales.expand(self.representation(size))

    def clipped(self, images: torch.Tensor, state: base.State) -> torch.Tensor:
        """Return the clipped coefficients, float64 (B, 189, h, w): what the noise is added to."""
        host = on_host(state)
        return clipping.clip_norm(self.coefficients(images), host["weights"], float(host["radius"]), self.order)

    def noise(self, kind: Kind, state: base.State, size: tuple[int, int]) -> Noise:
        """Return what one image's clipped coefficients get.

        The clipping margin of 1e-6 is far above what float64 rounds in the norm, the radius and the scales.
        """
        return Noise(kind, "laplace" if self.law == "laplace" else "gaussian", self.scales(state, size))

    def noise_variance(self, state: base.State) -> torch.Tensor:
        """Return the variance of the noise, in the shape of the weights; differentiable in weights and radius."""
        scale = 2.0 * state["radius"] / (self.budget * state["weights"])
        return scale.square() * (2.0 if self.law == "laplace" else 1.0)

    def shrunk(self, released: torch.Tensor, state: base.State) -> torch.Tensor:
        """Return the linear estimate of the clean coefficients minus the public mean face (Wiener shrinkage)."""
        gain = state["variance"] / (state["variance"] + self.noise_variance(state))
        return (released - state["mean"][_AC]) * gain

    def pixels(self, released: torch.Tensor, state: base.State) -> torch.Tensor:
        """Return the estimate in RGB without the mean face, at unit root mean square for public faces."""
        deviation = frequency.block_idct(self.shrunk(released, state), frequency.AC) - 128.0
        return deviation / self._amplitude(state)

    def _amplitude(self, state: base.State) -> torch.Tensor:
        """Return the root mean square over RGB values of what shrinkage leaves, from public numbers alone."""
        kept = state["variance"].square() / (state["variance"] + self.noise_variance(state))
        planes = kept.mean((1, 2)).view(3, 63).sum(1) / 64.0
        to_rgb = colour.inverse_matrix().to(kept)
        amplitude: torch.Tensor = (to_rgb.square() @ planes).mean().sqrt()
        return amplitude.clamp(min=1e-12)

    def features(self, released: torch.Tensor, state: base.State) -> torch.Tensor:
        """Return the recogniser's input in the chosen layout."""
        if self.input_layout == "pixels":
            return self.pixels(released, state)
        # Divided by the clean public scale of each channel: channels of little signal left stay quiet.
        images = self.pixels(released, state)
        layout = frequency.upsampled_dct(images, frequency.AC, self.align_corners)
        return layout.div_(state["whitening"].view(-1, 1, 1))

    def render(self, released: torch.Tensor, state: base.State) -> torch.Tensor:
        """Return the best linear guess at the image: mean public face plus what shrinkage leaves."""
        spectrum = state["mean"].repeat(released.shape[0], 1, 1, 1)
        spectrum[:, _AC] += self.shrunk(released, state)
        return base.to_uint8(frequency.block_idct(spectrum))

    def linear(self, state: base.State, size: tuple[int, int]) -> LinearMap:
        """Return the map and the variance of the noise, for a picture whose norm is within the radius."""
        law = 2.0 if self.law == "laplace" else 1.0
        return LinearMap("block", (frequency.AC,), noise=law * self.scales(state, size).square())

    def describe(self, state: base.State) -> dict[str, str | float | int | bool]:
        """Return the parameters that identify the mechanism beside its budget."""
        return {"radius": float(on_host(state)["radius"]), "total_epsilon": self.total_epsilon}

    def diameter(self, size: tuple[int, int]) -> float:
        """Return the budget: the weights and the radius cancel."""
        return self.budget

    def draft(self, images: torch.Tensor, spatial: bool) -> Draft:
        """Return the public statistics as a function from weights to a state, differentiable in the weights."""
        statistics = _statistics(images, spatial)
        first, second = statistics["magnitude"], statistics["second"]
        blocks = images.shape[2] // 8 * (images.shape[3] // 8) // (first.shape[1] * first.shape[2])

        def typical(weights: torch.Tensor) -> torch.Tensor:  # the norm of a mean face
            if self.order == 1:
                return blocks * (weights * first).sum()
            return (blocks * (weights.square() * second).sum()).sqrt()

        start = torch.ones_like(first)
        ratio = self._quantile(images, start) / max(float(typical(start)), 1e-12)

        def state(weights: torch.Tensor) -> dict[str, torch.Tensor]:
            public = {name: statistics[name] for name in ("variance", "mean")}
            return {"weights": weights, "radius": ratio * typical(weights), **public}

        return Draft(state, self.noise_variance, second)

    def finished(self, images: torch.Tensor, draft: Draft, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the state with the exact public radius of these weights."""
        state = draft.state(weights) | {"radius": torch.tensor(self._quantile(images, weights))}
        if self.input_layout == "upsampled":
            state["whitening"] = self._whitening(images, state)
        return state

    def simulated(self, images: torch.Tensor, state: base.State, generator: torch.Generator) -> torch.Tensor:
        """Return the network input of public faces under fresh *public* noise, differentiable in the weights."""
        fixed = {name: tensor.detach() for name, tensor in state.items()}
        scale = self.noise_variance(state).sqrt()
        released = self.clipped(images, fixed).float()
        return self.pixels(released + scale * unit_noise(released, self.law, generator), state)

    def _quantile(self, images: torch.Tensor, weights: torch.Tensor) -> float:
        """Return the public quantile of the weighted norm."""
        norms = [
            clipping.weighted_norms(self.coefficients(images[at : at + _CHUNK]), weights, self.order)
            for at in range(0, len(images), _CHUNK)
        ]
        return max(float(torch.cat(norms).quantile(self.radius_quantile)), 1e-3)

    def _whitening(self, images: torch.Tensor, state: base.State) -> torch.Tensor:
        """Return divisors of the upsampled channels: clean public scales, times one factor for unit features.

        So a channel whose signal was shrunk away stays quiet instead of being blown up to pure noise.
        """
        clean = {**state, "radius": torch.tensor(1e-6)}  # practically no noise: shrinkage keeps everything
        generator = public_torch(0, "dctdp", "whitening")
        totals = torch.zeros(2, 189, dtype=torch.float64, device=images.device)
        for at in range(0, len(images), _CHUNK):
            chunk = images[at : at + _CHUNK]
            pictures = (self.pixels(self.coefficients(chunk), clean), self.simulated(chunk, state, generator))
            for total, pixels in zip(totals, pictures, strict=True):
                layout = frequency.upsampled_dct(pixels, frequency.AC, self.align_corners)
                total += layout.square().mean((2, 3)).sum(0, dtype=torch.float64)
        exact, noised = (totals / len(images)).sqrt().clamp(min=1e-6)
        divisors: torch.Tensor = exact * (noised / exact).square().mean().sqrt()
        return divisors.float()


def _statistics(images: torch.Tensor, spatial: bool) -> dict[str, torch.Tensor]:
    """Return mean (192, h, w), and magnitude E|z|, second E z^2 and variance of the AC coefficients, (189, a, b)."""
    total = magnitude = second = torch.zeros(())
    for at in range(0, len(images), _CHUNK):
        spectrum = frequency.block_dct(images[at : at + _CHUNK]).double()
        total = total + spectrum.sum(0)
        magnitude = magnitude + spectrum[:, _AC].abs().sum(0)
        second = second + spectrum[:, _AC].square().sum(0)
    mean, magnitude, second = total / len(images), magnitude / len(images), second / len(images)
    variance = (second - mean[_AC].square()).clamp(min=0.0)
    if not spatial:
        magnitude, second, variance = (value.mean((1, 2), keepdim=True) for value in (magnitude, second, variance))
    found = {"mean": mean, "magnitude": magnitude, "second": second, "variance": variance.clamp(min=1e-6)}
    return {name: value.float() for name, value in found.items()}
