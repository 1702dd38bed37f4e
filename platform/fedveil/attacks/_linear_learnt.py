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
_VALUES, _BATCH = 8192, 16
RIDGES = (1e-6, 1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)
"""Ridge in parts of the mean eigenvalue; which one is chosen on people who were not trained on."""


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """What regression sees of a release: its channels, each divided by the root of its own size.

    At one size noise would drown faces; as they come, the largest channel does. Regression from whole releases writes a
    picture as a sum of the attacker's own, and finds the best sum where releases are alike when pictures are: channels
    that are differences of neighbouring pixels are so only after they were averaged over a few of them.

    Attributes:
        mean: (C,) of each channel.
        mixing: (C, c) what the c channels seen are made of; None: of one each, divided by `size`.
        size: (C,) divisors.
        coarse: pixels to a side that are averaged.
        by_energy: channels are put in the order of their energy first, which undoes a secret order in part.
    """

    mean: torch.Tensor
    size: torch.Tensor
    mixing: torch.Tensor | None
    coarse: int = 1
    by_energy: bool = False

    @classmethod
    def of(cls, released: torch.Tensor, coarse: int = 1, by_energy: bool = False) -> View:
        """Return a view that suits releases (N, C, h, w); of many fine channels the principal ones are seen."""
        values = _ordered(released) if by_energy else released
        mean, size = values.mean((0, 2, 3)), values.std((0, 2, 3)).clamp(min=_TINY).sqrt()
        mixing = None
        if coarse == 1 and values.shape[1] > _CHANNELS:
            scaled = ((values - mean[:, None, None]) / size[:, None, None]).movedim(1, 0).flatten(1)
            vectors = torch.linalg.eigh((scaled @ scaled.T).double())[1]
            mixing = (vectors[:, -_CHANNELS:] / size.double()[:, None]).float()
        return cls(mean, size, mixing, coarse, by_energy)

    def __call__(self, released: torch.Tensor) -> torch.Tensor:
        """Return (B, c, h / coarse, w / coarse) float32."""
        return torch.cat([self._part(part) for part in torch.split(released, _BATCH)])

    def _part(self, released: torch.Tensor) -> torch.Tensor:
        values = (_ordered(released) if self.by_energy else released) - self.mean[:, None, None]
        if self.mixing is None:
            values = values / self.size[:, None, None]
        else:
            values = torch.einsum("bchw,ck->bkhw", values, self.mixing)
        return functional.avg_pool2d(values, self.coarse, ceil_mode=True)


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
        gram = _inner(features, features, self._centre).double()
        deviations, against = targets - self._level, _inner(kept[0], features, self._centre).double()
        unit, eye = float(gram.diagonal().mean()), torch.eye(len(gram), dtype=torch.float64)
        best: tuple[float, torch.Tensor] | None = None
        for part in RIDGES:
            factor, wrong = torch.linalg.cholesky_ex(gram + part * unit * eye)
            if int(wrong):
                continue
            mixed = torch.cholesky_solve(against.T, factor).T.float() @ deviations  # few rows: cheaper than weights
            error = float((mixed + self._level - kept[1]).square().mean())
            if best is None or error < best[0]:
                best = (error, factor)
        assert best is not None  # a ridge as large as the matrix makes it positive definite
        self.error = best[0]
        self._weights = torch.cholesky_solve(deviations.double(), best[1]).float()

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
        unit = float(gram.diagonal().mean())
        best: tuple[float, torch.Tensor] | None = None
        for part in RIDGES:
            filters = torch.linalg.solve(gram + part * unit * torch.eye(len(gram), dtype=torch.float64), moments)
            self._filters = filters.float()
            error = float((self(kept[0]) - kept[1]).square().mean())
            if best is None or error < best[0]:
                best = (error, self._filters)
        assert best is not None
        self._filters = best[1]

    def _seen(self, features: torch.Tensor) -> torch.Tensor:
        """Return (B, c * (2 reach + 1)^2, H * W)."""
        deviations = functional.interpolate(features - self._centre, self._size, mode="nearest")
        return functional.unfold(deviations, 2 * self._reach + 1, padding=self._reach)

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Return (B, 3, H, W)."""
        parts = [(self._filters.T @ self._seen(image[None])[0]).view(3, *self._size) for image in features]
        return torch.stack(parts) + self._level
