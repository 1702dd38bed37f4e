"""Noise on block-DCT coefficients with a learnt budget: honest at the level of the image, or as published."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import checks, frequency
from fedveil.device import on_host
from fedveil.privacy.events import ON_GRID, LocalRelease
from fedveil.privacy.noise import Kind
from fedveil.protections import _learn, _shape, base
from fedveil.protections._coefficient import CoefficientMechanism
from fedveil.protections._image import ImageMechanism
from fedveil.protections._linear import LinearMap
from fedveil.randomness import SecretStream, public_torch

_START_STEPS, _START_LR = 300, 0.1
_QUIETEST = 3.0  # learning starts with no logit further below the loudest: a silent channel would get no gradient


@dataclass(frozen=True)
class DCTDP(base.Protection):
    """DCT coefficients without DC, clipped, with noise by a learnt public budget (DCTDP, ECCV 2022, made honest).

    Mode `image` (default) clips one weighted norm over the whole critically sampled transform: the loss between any two
    images is at most `total_epsilon` (delta 0 for Laplace, `delta` for Gaussian), in real arithmetic, or with
    `privacy.noise=grid` in a computer's (see `privacy.grid`). Mode `coefficient` is the published mechanism
    (https://arxiv.org/abs/2207.07316) with data-independent ranges: `mean_epsilon` per coefficient, millions per image;
    its event carries the sum.

    The shape of the budget is learnt from public or procedural faces and frozen, so all use of a memoised noisy copy is
    one release. Expect little at small budgets: at total_epsilon 8 the noise dwarfs the face.

    Attributes:
        mode: "image" or "coefficient".
        total_epsilon: privacy loss of one whole image; read by mode image.
        mean_epsilon: mean budget of one coefficient; read by mode coefficient.
        noise: "laplace", or "gaussian" (mode image only).
        delta: the delta of a Gaussian release.
        memoise: keep one draw per stored image and read only that ever after; otherwise every reading is a release.
        radius_quantile: which quantile of public faces' norms is the clipping radius (mode image).
        cap: largest weight of a coefficient, in units of the mean; at least 1.
        spatial: learn also one coarse map over the 8x8 blocks.
        input_layout: what the recogniser is fed in mode image: "pixels" (cheap) or "upsampled" (189 channels).
        align_corners: the upsampling's flag, for the upsampled layout and mode coefficient.
        init: where the shape starts: "zeros" (uniform, as published) or "energy" (least squared error of the shrunk
            coefficients on public faces at this budget).
        fit_steps: steps through the recognition loss; 0 keeps the start.
        fit_lr: Adam's learning rate of the logits.
    """

    noise_kind: ClassVar[Kind] = "real"

    mode: Literal["image", "coefficient"] = "image"
    total_epsilon: float = 1000.0
    mean_epsilon: float = 0.5
    noise: Literal["laplace", "gaussian"] = "laplace"
    delta: float = 1e-5
    memoise: bool = True
    radius_quantile: float = 0.9
    cap: float = 100.0
    spatial: bool = False
    input_layout: Literal["pixels", "upsampled"] = "pixels"
    align_corners: bool = True
    init: Literal["energy", "zeros"] = "energy"
    fit_steps: int = 60
    fit_lr: float = 0.2

    def __post_init__(self) -> None:
        checks.one_of(("image", "coefficient"), mode=self.mode)
        checks.one_of(("laplace", "gaussian"), noise=self.noise)
        checks.one_of(("pixels", "upsampled"), input_layout=self.input_layout)
        checks.one_of(("zeros", "energy"), init=self.init)
        checks.within(1e-6, 1e9, total_epsilon=self.total_epsilon, mean_epsilon=self.mean_epsilon)
        checks.within(1e-9, 100, fit_lr=self.fit_lr)
        checks.fraction(radius_quantile=self.radius_quantile, delta=self.delta)
        checks.non_negative(fit_steps=self.fit_steps)
        checks.positive(cap=self.cap)
        if self.delta >= 1:
            raise checks.UserError(f"Expected delta={self.delta!r} below 1.")
        if self.cap < 1:
            raise checks.UserError(f"Expected cap={self.cap!r} >= 1: it is the largest weight in units of the mean.")
        if self.mode == "coefficient" and self.noise != "laplace":
            raise checks.UserError(f"Expected noise={self.noise!r} to be 'laplace' in mode 'coefficient'.")

    def with_noise(self, kind: Kind) -> DCTDP:
        """Return this method with its noise drawn so; it is no setting of its own but the run's (`privacy.noise`)."""
        made: Any = _OnGrid if kind == "grid" else DCTDP
        found: DCTDP = made(**{field.name: getattr(self, field.name) for field in dataclasses.fields(self)})
        return found

    @property
    def _mechanism(self) -> ImageMechanism | CoefficientMechanism:
        if self.mode == "coefficient":
            return CoefficientMechanism(self.mean_epsilon, self.align_corners)
        return ImageMechanism(
            self.total_epsilon, self.noise, self.delta, self.radius_quantile, self.input_layout, self.align_corners
        )

    @property
    def _frequencies(self) -> tuple[int, ...]:
        """The frequencies 8u + v of the representation."""
        if self.mode == "image":
            return frequency.AC
        return CoefficientMechanism(self.mean_epsilon, self.align_corners).frequencies

    @property
    def needs_fit(self) -> bool:
        """The budget's shape, the radius and the public statistics."""
        return True

    def representation(self, size: tuple[int, int]) -> base.Shape:
        """Return (189, H / 8, W / 8) in mode image, (189 or 144, H, W) in mode coefficient."""
        return self._mechanism.representation(size)

    def layout(self, size: tuple[int, int]) -> base.Shape:
        """Return (3, H, W), or the channels of the upsampled layout at (H, W)."""
        self.representation(size)
        return self._mechanism.layout(size)

    def fit(
        self,
        public: NDArray[np.uint8],
        labels: NDArray[np.int64],
        seed: int,
        progress: base.Progress | None = None,
        device: torch.device = base.CPU,
    ) -> dict[str, torch.Tensor]:
        """Return the public state: `weights`, `variance`, and in mode image `mean` and `radius`.

        Args:
            public: uint8 (N, 3, H, W) public or procedural faces; never a data owner's.
            labels: (N,) identities, for the recognition loss.
            seed: public seed.
            progress: told after each step.
            device: where it is learnt.
        """
        images = base.placed(public, device)
        size = base.check_images(images)
        self.representation(size)
        checks.same_shape((len(images),), labels=labels.shape)
        identities, targets = np.unique(labels, return_inverse=True)
        if len(images) < 2 or (self.fit_steps > 0 and len(identities) < 2):
            raise checks.UserError(
                f"Expected public faces of at least 2 people to learn a budget from, got {len(images)} faces of "
                f"{len(identities)}; give more, or set fit_steps: 0 and give at least 2 faces."
            )
        mechanism = self._mechanism
        draft = mechanism.draft(images, self.spatial)
        parameters = self._start(draft)
        if self.fit_steps > 0:

            def features(index: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
                state = draft.state(self._weights(parameters))
                return mechanism.simulated(images[index], state, generator)

            generator = public_torch(seed, "dctdp", "fit")
            targets_tensor = torch.from_numpy(targets.astype(np.int64)).to(device)
            _learn.through_recognition(
                features, parameters, targets_tensor, generator, self.fit_steps, self.fit_lr, progress
            )
        return base.fetched(mechanism.finished(images, draft, self._weights(parameters).detach()))

    def _weights(self, parameters: Sequence[torch.Tensor]) -> torch.Tensor:
        return _shape.weights_of(sum(parameters[1:], parameters[0]), self.cap)

    def _start(self, draft: _learn.Draft) -> list[torch.Tensor]:
        """Return the starting logits: one per channel, and one per cell of the map if spatial."""
        second = draft.second.clamp(min=1e-8)
        parameters = [second.new_zeros(second.shape[0], 1, 1)]
        if self.spatial:
            parameters.append(second.new_zeros(1, *second.shape[1:]))
        if self.init == "energy":
            parameters[0] += second.mean((1, 2), keepdim=True).log()

        def error() -> torch.Tensor:
            state = draft.state(self._weights(parameters))
            noise = draft.noise_variance(state)
            return (state["variance"] * noise / (state["variance"] + noise)).sum() / state["variance"].sum()

        for parameter in parameters:
            parameter.requires_grad_(True)
        if self.init == "energy":
            _learn.minimise(error, parameters, _START_STEPS, _START_LR)
            if self.fit_steps > 0:
                with torch.no_grad():
                    parameters[0].clamp_(min=float(parameters[0].detach().max()) - _QUIETEST)
        return parameters

    def release(self, images: torch.Tensor, state: base.State, streams: Sequence[SecretStream]) -> torch.Tensor:
        """Return the noised coefficients, float32 (B, *representation); every image has its own independent draw."""
        size = self._checked(images, state)
        base.check_streams(images, streams)
        mechanism = self._mechanism
        noise = mechanism.noise(self.noise_kind, on_host(state), size)
        out = torch.empty((len(images), *self.representation(size)), device=images.device)
        for index, stream in enumerate(streams):  # one at a time: float64 intermediates of one image only
            clipped = mechanism.clipped(images[index : index + 1], state)[0]
            if self.noise_kind == "real":  # the noise alone crosses to the device, which nobody waits for
                nothing = torch.zeros(clipped.shape, dtype=torch.float64)
                out[index] = clipped + noise.added(stream, nothing).to(images.device)
            else:
                out[index] = noise.added(stream, noise.addend(clipped.cpu())).to(images.device)
        return out

    def clean(self, images: torch.Tensor, state: base.State) -> torch.Tensor:
        """Return the clipped coefficients without noise, for a clean gallery; they must never leave."""
        self._checked(images, state)
        return self._mechanism.clipped(images, state).float()

    def _checked(self, images: torch.Tensor, state: base.State) -> tuple[int, int]:
        size = base.check_images(images)
        self._mechanism.check_state(state, size, self.spatial)
        return size

    def _checked_release(self, released: torch.Tensor, state: base.State) -> tuple[int, int]:
        """Return the images' (H, W) of a representation."""
        factor = 8 if self.mode == "image" else 1
        size = (int(released.shape[2]) * factor, int(released.shape[3]) * factor)
        base.check_released(released, self.representation(size))
        self._mechanism.check_state(state, size, self.spatial)
        return size

    def features(self, released: torch.Tensor, state: base.State) -> torch.Tensor:
        """Return the recogniser's input, about unit scale: public shrinkage, then the chosen layout."""
        self._checked_release(released, state)
        return self._mechanism.features(released, state)

    @property
    def mirrors(self) -> bool:
        """Channels do not mix, in either mode."""
        return True

    def mirrored(self, released: torch.Tensor) -> torch.Tensor:
        """Return the noisy coefficients of the mirrored image, noise and all: post-processing of the one draw.

        With a budget that depends on the place (`spatial`) the noise goes to the mirrored place with its coefficient.
        """
        return frequency.mirrored(released, self._frequencies)

    def render(self, released: torch.Tensor, state: base.State, size: tuple[int, int]) -> torch.Tensor:
        """Return uint8 images: the inverse transform of the shrunk coefficients."""
        checks.same_shape(size, size_of_the_release=self._checked_release(released, state))
        return self._mechanism.render(released, state)

    def linear(self, size: tuple[int, int], state: base.State) -> LinearMap:
        """Return the map to coefficients, as if none were clipped, and the public variance of their noise."""
        return self._mechanism.linear(on_host(state), size)

    def shape_picture(self, state: base.State) -> NDArray[np.float64]:
        """Return the mean weight per frequency, (3, 8, 8) by colour, u, v; NaN where nothing is released."""
        return _shape.picture(state["weights"], self._frequencies)

    def check_state(self, state: base.State, size: tuple[int, int]) -> None:
        """Raise `UserError` unless `state` is one of this mode, size and layout."""
        self._mechanism.check_state(state, size, self.spatial)

    def planned(
        self, size: tuple[int, int], releases: int = 1, max_images_per_identity: int | None = None
    ) -> LocalRelease:
        """Return the release of one image: neither its law nor its diameter depends on what is learnt."""
        mechanism = self._mechanism
        detail: dict[str, str | float | int | bool] = {
            "cap": self.cap,
            "height": size[0],
            "width": size[1],
            "mode": self.mode,
            "protection": "dctdp",
            "transform_version": frequency.VERSION,
        }
        if self.noise_kind == "grid":
            detail |= [ON_GRID]
        return LocalRelease(
            mechanism="laplace" if self.noise == "laplace" else "gaussian",
            diameter=mechanism.diameter(size),
            releases=releases,
            delta=0.0 if self.noise == "laplace" else self.delta,
            max_images_per_identity=max_images_per_identity,
            detail=tuple(sorted(detail.items())),
        )

    def event(
        self,
        size: tuple[int, int],
        state: base.State,
        releases: int = 1,
        max_images_per_identity: int | None = None,
    ) -> LocalRelease:
        """Return the release of one image; its diameter is the composed loss (Laplace) or mu (Gaussian)."""
        self.check_state(state, size)
        planned = self.planned(size, releases, max_images_per_identity)
        detail = {**dict(planned.detail), **self._mechanism.describe(state)}
        return dataclasses.replace(planned, detail=tuple(sorted(detail.items())))


class _OnGrid(DCTDP):
    """The same with exact noise on a public grid."""

    noise_kind: ClassVar[Kind] = "grid"


METHOD = DCTDP
