"""The best linear map from what leaves to the picture, learnt from an attacker's own people: for any method.

Two of them: one row of weights for each pixel over the whole release (ridge regression in its dual form, because there
are fewer pictures than values), and one row of weights for all pixels over a neighbourhood of each.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as functional

_CHANNELS = 27  # at most: a 3 x 3 neighbourhood of three colours, which is all that an upsampled layout hangs on
_TINY = 1e-12
_VALUES = 8192
RIDGES = (1e-6, 1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)
"""Ridge in parts of the mean eigenvalue; which one is chosen on people who were not trained on."""


@dataclasses.dataclass(frozen=True, eq=False)
class Channels:
    """A release as few channels of about unit size.

    Attributes:
        mean: (C,) of each channel.
        mixing: (C, c) what the c channels are made of.
        by_energy: channels are put in the order of their energy first, which undoes a secret order in part.
    """

    mean: torch.Tensor
    mixing: torch.Tensor
    by_energy: bool = False

    @classmethod
    def of(cls, released: torch.Tensor, by_energy: bool = False) -> Channels:
        """Return the channels that matter most on releases (N, C, h, w): principal ones where there are many."""
        values = _ordered(released) if by_energy else released
        mean, spread = values.mean((0, 2, 3)), values.std((0, 2, 3)).clamp(min=_TINY)
        if values.shape[1] <= _CHANNELS:
            return cls(mean, torch.diag(1.0 / spread), by_energy)
        scaled = ((values - mean[:, None, None]) / spread[:, None, None]).movedim(1, 0).flatten(1)
        found, vectors = torch.linalg.eigh((scaled @ scaled.T / scaled.shape[1]).double())
        kept = slice(len(found) - _CHANNELS, None)
        mixing = vectors[:, kept] / found[kept].clamp(min=_TINY).sqrt() / spread.double()[:, None]
        # Each at the root of its own size: all at one size would drown faces in noise, as they come the largest does.
        return cls(mean, (mixing * found[kept].clamp(min=_TINY) ** 0.25).float(), by_energy)

    def __call__(self, released: torch.Tensor) -> torch.Tensor:
        """Return (B, c, h, w) float32."""
        values = _ordered(released) if self.by_energy else released
        return torch.einsum("bchw,ck->bkhw", values - self.mean[:, None, None], self.mixing)


def _ordered(released: torch.Tensor) -> torch.Tensor:
    """Return releases with each one's channels from its loudest to its faintest."""
    order = released.square().mean((2, 3)).argsort(1, descending=True)
    return released.gather(1, order[:, :, None, None].expand_as(released))


class Dual:
    """Ridge regression from whole releases to whole pictures.

    Args:
        features: (N, D) float32.
        targets: (N, P) float32.
        kept: of other people, to choose the ridge: (M, D) and (M, P).
    """

    def __init__(
        self, features: torch.Tensor, targets: torch.Tensor, kept: tuple[torch.Tensor, torch.Tensor]
    ) -> None:
        self._features, self._centre = features, features.mean(0)
        self._level = targets.mean(0)
        gram = _inner(features, features, self._centre)
        deviations, against = targets - self._level, _inner(kept[0], features, self._centre)
        unit = float(gram.diagonal().mean())
        best: tuple[float, float, torch.Tensor] | None = None
        for part in RIDGES:
            shifted = gram.double() + part * unit * torch.eye(len(gram), dtype=torch.float64)
            factor, wrong = torch.linalg.cholesky_ex(shifted)
            if int(wrong):
                continue
            weights = torch.cholesky_solve(deviations.double(), factor).float()
            error = float((against @ weights + self._level - kept[1]).square().mean())
            if best is None or error < best[0]:
                best = (error, part, weights)
        assert best is not None  # a ridge as large as the matrix makes it positive definite
        self.ridge, self._weights = best[1], best[2]

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Return (B, P) of (B, D)."""
        return _inner(features, self._features, self._centre) @ self._weights + self._level


def _inner(first: torch.Tensor, second: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    """Return (B, N) inner products of rows without their common centre; parts of them, to copy little."""
    total = first.new_zeros(len(first), len(second))
    for start in range(0, first.shape[1], _VALUES):
        part = slice(start, start + _VALUES)
        total += (first[:, part] - centre[part]) @ (second[:, part] - centre[part]).T
    return total


class Local:
    """One linear filter for all pixels, from a neighbourhood of the release; ridge chosen on other people.

    Args:
        features: (N, c, h, w) float32; h, w as the pictures or a whole part of their sides.
        targets: (N, 3, H, W) float32.
        kept: the same of other people.
        reach: pixels to each side that a filter sees.
        samples: pixels that are learnt from.
        generator: public randomness of their choice.
    """

    def __init__(
        self, features: torch.Tensor, targets: torch.Tensor, kept: tuple[torch.Tensor, torch.Tensor], reach: int,
        samples: int, generator: torch.Generator,
    ) -> None:  # fmt: skip
        self._reach, self._size = reach, (int(targets.shape[2]), int(targets.shape[3]))
        self._centre, self._level = features.mean(0), targets.mean(0)
        per_image = max(1, samples // len(features))
        rows, answers = [], []
        for image, picture in zip(features, targets, strict=True):
            chosen = torch.randint(self._size[0] * self._size[1], (per_image,), generator=generator)
            rows.append(self._seen(image[None])[0][:, chosen].T)
            answers.append((picture - self._level).flatten(1)[:, chosen].T)
        seen, wanted = torch.cat(rows).double(), torch.cat(answers).double()
        gram, moments = seen.T @ seen, seen.T @ wanted
        unit, best = float(gram.diagonal().mean()), None
        for part in RIDGES:
            filters = torch.linalg.solve(gram + part * unit * torch.eye(len(gram), dtype=torch.float64), moments)
            self._filters = filters.float()
            error = float((self(kept[0]) - kept[1]).square().mean())
            if best is None or error < best[0]:
                best = (error, part, self._filters)
        assert best is not None
        self.ridge, self._filters = best[1], best[2]

    def _seen(self, features: torch.Tensor) -> torch.Tensor:
        """Return (B, c * (2 reach + 1)^2, H * W)."""
        deviations = functional.interpolate(features - self._centre, self._size, mode="nearest")
        return functional.unfold(deviations, 2 * self._reach + 1, padding=self._reach)

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Return (B, 3, H, W)."""
        parts = [(self._filters.T @ self._seen(image[None])[0]).view(3, *self._size) for image in features]
        return torch.stack(parts) + self._level
