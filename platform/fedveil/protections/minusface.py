"""MinusFace: the image minus what a generator reproduces of it, channels shuffled, decoded to three colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedveil import checks
from fedveil.models import unet
from fedveil.privacy.events import NonPrivate
from fedveil.protections import _residue, base
from fedveil.randomness import SecretStream, public_torch, test_key

_SPREAD_IMAGES = 64  # public faces that tell the spread of protected images


@dataclass(frozen=True)
class MinusFace(base.Protection):
    """Shuffled residue of a generator, decoded to a 3-channel image (MinusFace, CVPR 2024); a student links people.

    Published at https://arxiv.org/abs/2403.12457. e is the x8-upsampled block DCT (192 channels), d its inverse as an
    affine map, g a U-Net. Phase 1 trains g with a recogniser f by 5 mean|X - X'| + the margin loss of f(r), with
    x = e(X), r = x - g(x), X' = 2 d(g(x)) - 1. Then g is frozen, and what leaves is X_p = d(pi(r)) clamped to [0, 1],
    with a fresh uniform order pi of all 192 channels, across colours, per image. r itself never leaves.

    It hides appearance from the eye, and not well: X_p is nearly grey, but with its contrast stretched the outlines of
    the face show, because channels of this transform are differences of neighbouring pixels in any order. 192! orders
    are no bound on anybody's loss: recognition must survive them, so does identity, and faces have been regenerated
    from such images (https://arxiv.org/abs/2602.02914).

    Departures from the paper, for clients without a GPU: g is an eighth as wide, starts as the map that copies block
    means, works in public units per channel, and is learnt on public faces. With `federated_rounds` it goes on learning
    on the clients' faces; then the g that everybody gets depends on those as well.

    Attributes:
        generator_width: channels of the first of g's five levels; 64 as published (34.6 M parameters), 8: 0.56 M.
        fit_steps: phase 1 on public faces, optimiser steps.
        fit_lr: Adam's learning rate of g on public faces.
        image_weight: weight of the image error mean|X - X'|; 5 as published.
        federated_rounds: further rounds of phase 1 on the clients' faces; 0: g is public.
        stacks: independently shuffled images of a face that leave together, as 3 channels each.
        views: passes over every face per epoch, each with its own order; 3 as published.
    """

    generator_width: int = 8
    fit_steps: int = 60
    fit_lr: float = 0.001
    image_weight: float = 5.0
    federated_rounds: int = 0
    stacks: int = 1
    views: int = 3

    def __post_init__(self) -> None:
        checks.positive(fit_steps=self.fit_steps, fit_lr=self.fit_lr, stacks=self.stacks, views=self.views)
        checks.within(1e-9, 100, fit_lr=self.fit_lr)
        checks.within(0, 1e6, image_weight=self.image_weight)
        checks.within(0, 1024, generator_width=self.generator_width)
        checks.non_negative(federated_rounds=self.federated_rounds)
        if self.generator_width < 2 * len(_residue.DC):
            raise checks.UserError(
                f"Expected generator_width={self.generator_width!r} >= {2 * len(_residue.DC)}: g starts by copying the "
                "block means of three colours, positive and negative parts apart."
            )

    @property
    def needs_fit(self) -> bool:
        """The generator, the channels' units and the spread of protected images."""
        return True

    @property
    def noise(self) -> str:
        """The order of the channels."""
        return "a drawn order of 192 channels"

    @property
    def phases(self) -> tuple[base.Phase, ...]:
        """The generator on the clients' faces, if asked for."""
        return (GeneratorPhase(self),) if self.federated_rounds else ()

    def representation(self, size: tuple[int, int]) -> base.Shape:
        """Return (3 * stacks, H, W); both sides must be multiples of 16, since g halves them four times."""
        checks.multiple_of(unet.DIVISOR, height=size[0], width=size[1])
        return (3 * self.stacks, *size)

    def layout(self, size: tuple[int, int]) -> base.Shape:
        """Return (3 * stacks, H, W)."""
        return self.representation(size)

    def fit(
        self,
        public: NDArray[np.uint8],
        labels: NDArray[np.int64],
        seed: int,
        progress: base.Progress | None = None,
        device: torch.device = base.CPU,
    ) -> dict[str, torch.Tensor]:
        """Return the public state: generator/*, `unit` (192,) of its channels, `spread` of protected images.

        Args:
            public: uint8 (N, 3, H, W) public or procedural faces; never a data owner's.
            labels: (N,) identities, for the margin loss.
            seed: public seed.
            progress: told after each step.
            device: where it is learnt.
        """
        images = base.placed(public, device)
        self.representation(base.check_images(images))
        checks.same_shape((len(images),), labels=labels.shape)
        identities, targets = np.unique(labels, return_inverse=True)
        if len(identities) < 2:
            raise checks.UserError(
                f"Expected public faces of at least 2 people to learn a generator from, got {len(images)} faces of "
                f"{len(identities)}; give more."
            )
        unit = _residue.units(images)
        tensors = _residue.trained(
            images,
            torch.from_numpy(targets.astype(np.int64)).to(device),
            unit,
            self.generator_width,
            self.image_weight,
            self.fit_steps,
            self.fit_lr,
            public_torch(seed, "minusface", "fit"),
            progress,
        )
        return base.fetched(self.completed(images, {**tensors, "unit": unit}, seed))

    def completed(self, public: torch.Tensor, state: base.State, seed: int) -> dict[str, torch.Tensor]:
        """Return the state with the `spread` that this generator gives public faces: uint8 (N, 3, H, W)."""
        chosen = public[:: max(len(public) // _SPREAD_IMAGES, 1)][:_SPREAD_IMAGES]
        draft = {**state, "spread": torch.tensor(1.0, device=public.device)}
        streams = [SecretStream(test_key(seed, "minusface", "spread", index)) for index in range(len(chosen))]
        spread = self.features(self.release(chosen, draft, streams), draft).square().mean().sqrt()
        return {**state, "spread": spread.clamp(min=1e-3)}

    def release(self, images: torch.Tensor, state: base.State, streams: Sequence[SecretStream]) -> torch.Tensor:
        """Return X_p in [0, 1], float32 (B, 3 * stacks, H, W); each image and each of its stacks has its own order."""
        self._checked(images, state)
        base.check_streams(images, streams)
        return self._decoded(images, state, streams, None)

    def clean(self, images: torch.Tensor, state: base.State) -> torch.Tensor:
        """Return d(r) clamped, without a shuffle, for each stack; it must never leave.

        It is nearly blank, since g is trained to leave nothing that decodes: a clean gallery shows what the order is
        worth to the recogniser, not how well an unprotected one would do.
        """
        self._checked(images, state)
        return self._decoded(images, state, None, None)

    def prepared(self, images: torch.Tensor, state: base.State) -> torch.Tensor:
        """Return what g's last layer is fed (`_residue.trunks`): all but that layer is the same whatever the order."""
        self._checked(images, state)
        return _residue.trunks(
            images, _residue.skeleton(self.generator_width), _residue.parameters(state), state["unit"]
        )

    def training_features(self, images: torch.Tensor, state: base.State, visit: base.Visit) -> torch.Tensor:
        """Return the features of a release, bit by bit."""
        self._checked(images, state)
        base.check_streams(images, visit.streams)
        return self.features(self._decoded(images, state, visit.streams, visit.prepared), state)

    @torch.no_grad()
    def _decoded(
        self,
        images: torch.Tensor,
        state: base.State,
        streams: Sequence[SecretStream] | None,
        trunks: torch.Tensor | None,
    ) -> torch.Tensor:
        height, width = int(images.shape[2]), int(images.shape[3])
        weights = _residue.parameters(state)
        out = torch.empty(len(images), self.stacks, 3, height, width, device=images.device)
        left, shuffled = torch.empty(2, 1, _residue.CHANNELS, height, width, device=images.device)
        for index in range(len(images)):
            image = images[index : index + 1]
            trunk = self.prepared(image, state)[0] if trunks is None else trunks[index]
            _residue.residue(image, trunk, weights, state["unit"], left)
            for stack in range(self.stacks):
                if streams is not None:
                    order = torch.from_numpy(_residue.permutation(streams[index])).to(images.device)
                    torch.index_select(left, 1, order, out=shuffled)
                out[index, stack] = _residue.decode(left if streams is None else shuffled)[0]
        return out.clamp_(0.0, 1.0).flatten(1, 2)

    def _checked(self, images: torch.Tensor, state: base.State) -> None:
        size = base.check_images(images)
        self.representation(size)
        self.check_state(state, size)

    def check_state(self, state: base.State, size: tuple[int, int]) -> None:
        """Raise `UserError` unless the state holds this generator, its unit and a spread."""
        base.check_state(state, self._shapes())

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {**_residue.shapes(self.generator_width), "unit": (_residue.CHANNELS,), "spread": ()}

    def features(self, released: torch.Tensor, state: base.State) -> torch.Tensor:
        """Return (X_p - grey) / spread: about unit scale."""
        self._check_released(released)
        return (released - _residue.GREY) / state["spread"]

    def _check_released(self, released: torch.Tensor) -> None:
        base.check_released(released, self.representation((int(released.shape[-2]), int(released.shape[-1]))))

    def render(self, released: torch.Tensor, state: base.State, size: tuple[int, int]) -> torch.Tensor:
        """Return X_p, the first one of a stack, as a picture."""
        base.check_released(released, self.representation(size))
        return base.to_uint8(255.0 * released[:, :3])

    def unprotected(self, state: base.State) -> NonPrivate:
        """Return a `NonPrivate` event that names the generator by the first half of its SHA-256, once there is one."""
        if state:
            base.check_state(state, self._shapes())
        reason = "a secret order of channels bounds no loss, and faces have been regenerated from such images; "
        if self.federated_rounds:  # one event for the whole run, whichever generator it has arrived at
            reason += "the generator learns from the clients' clean faces"
            return NonPrivate("image", "the shuffled images, any model update or anything computed from them", reason)
        reason += f"generator {_residue.fingerprint(state)[:32]}" if state else "a generator of public faces"
        return NonPrivate("image", "the shuffled images or anything computed from them", reason)


@dataclass(frozen=True)
class GeneratorPhase(base.Phase):
    """Phase 1 on the clients' faces: g goes on from its public values, together with an f of the configured backbone.

    The clients' class centres stay with them; f is discarded at the end. g is sent to everybody and has learnt from
    everybody's faces: only a guarantee on the updates, such as `privacy.client`, bounds what it tells.
    """

    settings: MinusFace

    @property
    def name(self) -> str:
        """What is learnt."""
        return "generator"

    @property
    def rounds(self) -> int:
        """As set."""
        return self.settings.federated_rounds

    def features(self, images: torch.Tensor, state: base.State, visit: base.Visit) -> torch.Tensor:
        """Return X in [-1, 1], float32 (B, 3, H, W): the network encodes it itself, 64 times less to keep."""
        self.settings.representation(base.check_images(images))
        return _residue.to_unit(images)

    def network(self, model: Any, size: tuple[int, int], state: base.State, generator: torch.Generator) -> nn.Module:
        """Return g with the state's values and a fresh f, `model` on 192 channels."""
        made = unet.build(_residue.CHANNELS, _residue.CHANNELS, self.settings.generator_width, generator)
        made.load_state_dict(_residue.parameters(state))
        recogniser = model.build(_residue.CHANNELS, size, generator)
        return _residue.GeneratorWithRecogniser(made, recogniser, state["unit"], self.settings.image_weight)

    def finish(
        self,
        tensors: Mapping[str, NDArray[np.float32]],
        state: base.State,
        public: NDArray[np.uint8],
        labels: NDArray[np.int64],
        seed: int,
        progress: base.Progress | None = None,
        device: torch.device = base.CPU,
    ) -> tuple[dict[str, torch.Tensor], dict[str, NDArray[np.float32]]]:
        """Return the state with the aggregated g, and {}: f is discarded and the recogniser of X_p starts afresh."""
        learnt = {
            _residue.PREFIX + name.removeprefix("generator."): torch.from_numpy(np.array(values, dtype=np.float32))
            for name, values in tensors.items()
            if name.startswith("generator.")
        }
        if set(learnt) != set(_residue.shapes(self.settings.generator_width)):
            raise checks.UserError("Expected every tensor of the generator from its phase; the plan was changed.")
        learnt = {name: tensor.to(device) for name, tensor in {**state, **learnt}.items()}
        return base.fetched(self.settings.completed(base.placed(public, device), learnt, seed)), {}


METHOD = MinusFace
