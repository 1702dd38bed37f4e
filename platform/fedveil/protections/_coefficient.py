"""Mode coefficient, as published: a mean budget per coefficient of the x8-upsampled transform."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch

from fedveil import checks, frequency
from fedveil.device import on_host
from fedveil.privacy.noise import Kind, Noise
from fedveil.protections import base
from fedveil.protections._learn import Draft, unit_noise
from fedveil.protections._linear import LinearMap

_CHUNK = 16
_SUMMED = 1e-9  # far above the rounding of a float64 sum over coefficients
_ROUNDING = 1e-5  # of a mean of float32 weights
_SMALLEST_WIDTH = 1e-6  # a coefficient that no pixel moves still needs a positive noise scale


@dataclass(frozen=True)
class CoefficientMechanism:
    """Clip every coefficient to its data-independent range, then Laplace noise of scale width_i / epsilon_i.

    epsilon_i = `mean_epsilon` * weight_i, so one image's release costs the *sum*, `mean_epsilon` times the number of
    coefficients (https://arxiv.org/abs/2207.07316 quotes the mean). Widths are 255 s_u s_v at the actual size; the
    ranges of AC coefficients are symmetric, so clipping is to +- half the width, and changes no real image. The paper's
    learnable centre of the noise is left out: a public constant added to every release protects nothing and harms
    nothing. State: `weights` (C, a, b), mean 1, and `variance` of the same shape.
    """

    mean_epsilon: float
    align_corners: bool

    @property
    def frequencies(self) -> tuple[int, ...]:
        """The AC frequencies that are not identically zero."""
        zero = frequency.identically_zero_channels(self.align_corners)
        return tuple(channel for channel in frequency.AC if channel not in zero)

    def representation(self, size: tuple[int, int]) -> base.Shape:
        """Return (189, H, W), or (144, H, W) with half-pixel upsampling."""
        checks.positive(height=size[0], width=size[1])
        return (3 * len(self.frequencies), *size)

    def layout(self, size: tuple[int, int]) -> base.Shape:
        """Return the representation's shape."""
        return self.representation(size)

    def _grid(self, size: tuple[int, int], spatial: bool) -> tuple[int, int]:
        if not spatial:
            return 1, 1
        checks.multiple_of(8, height=size[0], width=size[1])  # every cell of the map must cover equally many positions
        return size[0] // 8, size[1] // 8

    def check_state(self, state: base.State, size: tuple[int, int], spatial: bool) -> None:
        """Raise `UserError` unless `state` is one of this mechanism at this size."""
        shape = (self.representation(size)[0], *self._grid(size, spatial))
        base.check_state(state, {"weights": shape, "variance": shape})
        if torch.compiler.is_compiling():  # as there
            return
        state = on_host(state)
        checks.positive(smallest_weight=float(state["weights"].min()))
        mean = float(state["weights"].double().mean())
        if abs(mean - 1.0) > _ROUNDING:  # the composed epsilon is stated for mean 1
            raise checks.UserError(f"Expected state['weights'] of mean 1, got {mean:.6g}; fit this protection again.")
        checks.non_negative(smallest_variance=float(state["variance"].min()))

    def coefficients(self, images: torch.Tensor) -> torch.Tensor:
        """Return the clean coefficients (B, C, H, W), float32."""
        return frequency.upsampled_dct(images, self.frequencies, self.align_corners)

    def widths(self, size: tuple[int, int]) -> torch.Tensor:
        """Return the width of every coefficient's range, float64 (C, H, W)."""
        ranges = frequency.coefficient_ranges(size, self.align_corners)[list(self.frequencies)]
        return ranges.repeat(3, 1, 1).clamp(min=_SMALLEST_WIDTH)

    def _spread(self, values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Return (C, 1, 1) as it is and (C, h, w) repeated to (C, H, W)."""
        if values.shape[1:] == (1, 1):
            return values
        down, across = size[0] // values.shape[1], size[1] // values.shape[2]
        return values.repeat_interleave(down, 1).repeat_interleave(across, 2)

    def scales(self, state: base.State, size: tuple[int, int]) -> torch.Tensor:
        """Return the noise scales b, float64 (C, H, W)."""
        weights = self._spread(state["weights"].double(), size)
        return self.widths(size).to(weights.device) / (self.mean_epsilon * weights)

    def clipped(self, images: torch.Tensor, state: base.State) -> torch.Tensor:
        """Return the coefficients within their ranges, float64 (B, C, H, W); non-finite ones become 0."""
        half = self.widths((int(images.shape[2]), int(images.shape[3]))).to(images.device) / 2
        values = self.coefficients(images).double().nan_to_num(0.0, 0.0, 0.0)
        return torch.maximum(torch.minimum(values, half), -half)

    def noise(self, kind: Kind, state: base.State, size: tuple[int, int]) -> Noise:
        """Return what one image's clipped coefficients get."""
        scales = self.scales(state, size)
        if kind == "grid":
            # The weights' mean is 1 up to float32's rounding, and what is stated is the sum of the budgets.
            composed = float((self.widths(size) / scales).sum()) * (1 + _SUMMED)
            scales = scales * max(1.0, composed / self.diameter(size))
        return Noise(kind, "laplace", scales)

    def diameter(self, size: tuple[int, int]) -> float:
        """Return sum_i epsilon_i, the composed epsilon of one image: weights have mean 1, up to float32's rounding."""
        return self.mean_epsilon * math.prod(self.representation(size))

    def linear(self, state: base.State, size: tuple[int, int]) -> LinearMap:
        """Return the map and the variance of the noise; no picture's coefficient is clipped in this mode."""
        return LinearMap("upsampled", (self.frequencies,), self.align_corners, 2.0 * self.scales(state, size).square())

    def describe(self, state: base.State) -> dict[str, str | float | int | bool]:
        """Return the parameters that identify the mechanism beside its composed budget."""
        return {"align_corners": self.align_corners, "mean_epsilon": self.mean_epsilon}

    def noise_variance(self, state: base.State, size: tuple[int, int]) -> torch.Tensor:
        """Return the mean variance of the noise in each cell, in the shape of the weights; differentiable in them."""
        return 2.0 * (self._root_mean_square_widths(size, state["weights"]) / state["weights"]).square()

    def _root_mean_square_widths(self, size: tuple[int, int], like: torch.Tensor) -> torch.Tensor:
        """Return (C, a, b) widths over `mean_epsilon`."""
        grid = (int(like.shape[1]), int(like.shape[2]))
        return _root_mean_square_widths(self, size, grid).to(like.device)

    def _cells(self, values: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Return the means (..., a, b) over the cells of a grid, of values (..., H, W)."""
        height, width = values.shape[-2:]
        split = values.reshape(*values.shape[:-2], grid[0], height // grid[0], grid[1], width // grid[1])
        return split.mean((-3, -1))

    def _gain(self, variance: torch.Tensor, noise_variance: torch.Tensor) -> torch.Tensor:
        """Return sqrt(v) / (v + n) at unit root mean square: whitened signal, channels of little signal stay quiet."""
        gain = variance.sqrt() / (variance + noise_variance)
        amplitude = (variance / (variance + noise_variance)).mean().sqrt()
        return gain / amplitude.clamp(min=1e-12)

    def features(self, released: torch.Tensor, state: base.State) -> torch.Tensor:
        """Return the released coefficients times a public scale per channel."""
        size = (int(released.shape[2]), int(released.shape[3]))
        return released * self._spread(self._gain(state["variance"], self.noise_variance(state, size)), size)

    def render(self, released: torch.Tensor, state: base.State) -> torch.Tensor:
        """Return the exact linear inverse of the shrunk coefficients around mid-grey, image by image."""
        size = (int(released.shape[2]), int(released.shape[3]))
        variance = state["variance"]
        shrunk = released * self._spread(variance / (variance + self.noise_variance(state, size)), size)
        places = [frequency.AC.index(channel) for channel in self.frequencies]
        pictures = torch.empty((len(released), 3, *size), dtype=torch.uint8)
        for index, image in enumerate(shrunk):
            full = image.new_zeros(1, 3, 63, *size)
            full[0, :, places] = image.view(3, len(places), *size)
            inverse = frequency.exact_inverse(full.flatten(1, 2), frequency.AC, self.align_corners)
            pictures[index] = base.to_uint8(inverse)[0]
        return pictures

    def draft(self, images: torch.Tensor, spatial: bool) -> Draft:
        """Return the public statistics as a function from weights to a state."""
        size = (int(images.shape[2]), int(images.shape[3]))
        grid = self._grid(size, spatial)
        total = torch.zeros(2, self.representation(size)[0], *grid, dtype=torch.float64, device=images.device)
        for at in range(0, len(images), _CHUNK):
            values = self.coefficients(images[at : at + _CHUNK])
            for moment, power in enumerate((values, values.square())):
                total[moment] += self._cells(power, grid).sum(0, dtype=torch.float64)
        mean, second = total / len(images)
        variance = (second - mean.square()).clamp(min=1e-8).float()
        widths = self._root_mean_square_widths(size, variance)

        def noise_variance(state: base.State) -> torch.Tensor:
            return 2.0 * (widths / state["weights"]).square()

        return Draft(lambda weights: {"weights": weights, "variance": variance}, noise_variance, second.float())

    def finished(self, images: torch.Tensor, draft: Draft, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the state."""
        return draft.state(weights)

    def simulated(self, images: torch.Tensor, state: base.State, generator: torch.Generator) -> torch.Tensor:
        """Return the network input of public faces under fresh *public* noise, differentiable in the weights."""
        size = (int(images.shape[2]), int(images.shape[3]))
        values = self.coefficients(images)
        deviation = self.scales(state, size).float() * math.sqrt(2.0)
        gain = self._gain(state["variance"], self.noise_variance(state, size))
        return (values + deviation * unit_noise(values, "laplace", generator)) * self._spread(gain, size)


@functools.lru_cache(maxsize=4)
def _root_mean_square_widths(
    mechanism: CoefficientMechanism, size: tuple[int, int], grid: tuple[int, int]
) -> torch.Tensor:
    """Return what `CoefficientMechanism._root_mean_square_widths` does, in the host's memory; do not modify."""
    return (mechanism._cells(mechanism.widths(size).square(), grid).sqrt() / mechanism.mean_epsilon).float()
