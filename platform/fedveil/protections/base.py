"""What a protection is: a client-side map from face images to the representation that may leave.

A protection is one frozen dataclass in one file. Its clean input is seen by `fit` (public faces only), `release`, and,
for a method without a formal guarantee, by `training_features` and its phases; everything after `release` is
post-processing of what left and never sees a clean value.

Tensors are computed where the images are: a state that is handed over is on their device (`device.Placed`), new tensors
are made there, and what a check reads is read of the state `on_host`. Noise is drawn on the host.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedveil import checks
from fedveil.device import on_host
from fedveil.frequency import colour
from fedveil.privacy.events import Event, NonPrivate
from fedveil.privacy.noise import Kind
from fedveil.protections._linear import LinearMap
from fedveil.randomness import SecretStream

State = Mapping[str, torch.Tensor]
"""Public tensors a protection needs beside its settings; saved with every checkpoint and sent to clients."""

CPU = torch.device("cpu")

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""

Shape = tuple[int, int, int]
"""Channels, height, width."""


@dataclasses.dataclass(frozen=True)
class Visit:
    """One use of a batch of images in training.

    Attributes:
        streams: one per image and use.
        identities: a key of each image's person: equal for one person of one client, else different.
        prepared: what the method `prepared` returned for these images; None: it is found now, with equal results.
    """

    streams: Sequence[SecretStream] = ()
    identities: Sequence[bytes] = ()
    prepared: torch.Tensor | None = None


class Phase(Protocol):
    """A federated training phase before the recogniser's own rounds: DuetFace's client net, for instance.

    It has rounds of the public schedule of its own, in which the clients train `network` instead of the recogniser on
    `features`, with their own class centres and the margin loss. A phase reads clean faces and its updates leave, so
    only a protection whose event is `NonPrivate` may have one.
    """

    @property
    def name(self) -> str:
        """What is learnt, in a word or two, for the terminal and the run's history."""
        ...

    @property
    def rounds(self) -> int:
        """Federated rounds of this phase, 1 or more."""
        ...

    def features(self, images: torch.Tensor, state: State, visit: Visit) -> torch.Tensor:
        """Return what the phase's network is fed, float32, from uint8 images (B, 3, H, W); see `training_features`."""
        ...

    def network(self, model: Any, size: tuple[int, int], state: State, generator: torch.Generator) -> nn.Module:
        """Return the network to train, from features to (B, D), with its first values.

        Its parameters are all aggregated and it has no buffers. A network with a method `with_penalty(features)`
        returns (embeddings, scalar) there, and the scalar is added to the margin loss.

        Args:
            model: the configured backbone's dataclass, for phases that train the recogniser too.
            size: height and width of the images.
            state: what `fit` and the phases before returned.
            generator: of the public seed.
        """
        ...

    def finish(
        self,
        tensors: Mapping[str, NDArray[np.float32]],
        state: State,
        public: NDArray[np.uint8],
        labels: NDArray[np.int64],
        seed: int,
        progress: Progress | None = None,
        device: torch.device = CPU,
    ) -> tuple[dict[str, torch.Tensor], dict[str, NDArray[np.float32]]]:
        """Return the state after the phase, and tensors that the next network starts from ({}: from its own values).

        The coordinator calls it once with the phase's aggregated tensors; it may train on the public faces, on
        `device`. What it takes and returns is in the host's memory.
        """
        ...


class Protection(Protocol):
    """The interface of every file in this folder; `size` is always the images' (height, width).

    A file's dataclass inherits from it and defines what has no default here.
    """

    @property
    def needs_fit(self) -> bool:
        """Whether `fit` returns a state that the other methods need."""
        return False

    @property
    def noise(self) -> str:
        """The law of the release's randomness; empty, hence false, when a release is deterministic."""
        return ""

    @property
    def noise_kind(self) -> Kind:
        """How the noise of a formal guarantee is drawn (see `privacy.noise`)."""
        return "real"

    def with_noise(self, kind: Kind) -> Protection:
        """Return this method with its formal guarantee's noise drawn so; a method without one is what it was."""
        return self

    @property
    def memoise(self) -> bool:
        """Whether one draw per stored image is kept and nothing else is ever read of that image."""
        return False

    @property
    def views(self) -> int:
        """How often a pass over the images visits each of them, every time with its own draw."""
        return 1

    @property
    def mirrors(self) -> bool:
        """Whether `mirrored` gives, from the release alone, what the mirrored face would have released."""
        return False

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Federated phases before the recogniser's rounds, in order."""
        return ()

    def representation(self, size: tuple[int, int]) -> Shape:
        """Return the shape of what leaves; raise `UserError` for a size that the protection cannot serve."""
        ...

    def layout(self, size: tuple[int, int]) -> Shape:
        """Return the shape of what the recogniser is fed."""
        ...

    def fit(
        self,
        public: NDArray[np.uint8],
        labels: NDArray[np.int64],
        seed: int,
        progress: Progress | None = None,
        device: torch.device = CPU,
    ) -> dict[str, torch.Tensor]:
        """Return the public state, learnt from public or procedural faces (N, 3, H, W) only; {} when none is needed.

        It is complete: everything else works with it, also before or without the method's federated phases. It may be
        learnt on `device`; what is returned is in the host's memory.
        """
        return {}

    def release(self, images: torch.Tensor, state: State, streams: Sequence[SecretStream]) -> torch.Tensor:
        """Return what leaves, float32 (B, *representation), of uint8 images (B, 3, H, W); one stream per image."""
        ...

    def clean(self, images: torch.Tensor, state: State) -> torch.Tensor:
        """Return the representation without its randomness, for `evaluation.gallery=clean`; it must never leave."""
        ...

    def features(self, released: torch.Tensor, state: State) -> torch.Tensor:
        """Return the recogniser's input, float32 (B, *layout), about unit scale, from what left and nothing else."""
        ...

    def mirrored(self, released: torch.Tensor) -> torch.Tensor:
        """Return what left, mirrored left to right: (B, *representation), exactly, from what left and nothing else.

        Without its randomness a release mirrored is the release of the mirrored face. Training and evaluation may use
        both, because the second is computed from the first and is no other draw.
        """
        raise NotImplementedError("Asked of a method whose `mirrors` is false.")

    def prepared(self, images: torch.Tensor, state: State) -> torch.Tensor | None:
        """Return what training reads of each clean image whatever the draw, (B, ...) float32; None: nothing dear.

        A client computes it once per image and keeps it in memory, where `training_features` finds it. It is as clean
        as the image, so it must never leave. Row i depends on image i alone, in every bit.
        """
        return None

    def training_features(self, images: torch.Tensor, state: State, visit: Visit) -> torch.Tensor:
        """Return the recogniser's input in training, inside the client, of a method without a formal guarantee.

        What leaves in training is the update, so a method that protects recognition alone may train on something else
        than what it releases. An owner's faces never come here under a formal guarantee, where only the one kept copy
        may be read; public negatives do.

        Args:
            images: (B, 3, H, W) uint8.
            state: the public state.
            visit: draws and people of this use of the images.
        """
        return self.features(self.release(images, state, visit.streams), state)

    def network(self, model: Any, size: tuple[int, int], generator: torch.Generator) -> nn.Module:
        """Return the recogniser: the configured backbone on `layout`, unless the method puts more around it."""
        channels, height, width = self.layout(size)
        built: nn.Module = model.build(channels, (height, width), generator)
        return built

    def payload(self, size: tuple[int, int]) -> int:
        """Return the bytes of one released image, float32 unless the method says otherwise."""
        return 4 * math.prod(self.representation(size))

    def render(self, released: torch.Tensor, state: State, size: tuple[int, int]) -> torch.Tensor:
        """Return uint8 images (B, 3, H, W): what the release looks like to a person."""
        ...

    def linear(self, size: tuple[int, int], state: State) -> LinearMap | None:
        """Return how what leaves depends on the pixels, where it does so linearly; None: not, or not known to."""
        return None

    def check_state(self, state: State, size: tuple[int, int]) -> None:
        """Raise `UserError` unless `state` is one that this method can work with at this size; {} when none is needed.

        States come from outside: a client asks before anything reads one.
        """
        check_state(state, {})

    def planned(
        self, size: tuple[int, int], releases: int = 1, max_images_per_identity: int | None = None
    ) -> Event:
        """Return what one image's release is going to be, from the settings alone, before anything is learnt.

        Owners decide by it whether they take part. A method with a formal guarantee returns a `LocalRelease`; without
        one, this returns `unprotected` of no state.
        """
        return self.unprotected({})

    def event(
        self, size: tuple[int, int], state: State, releases: int = 1, max_images_per_identity: int | None = None
    ) -> Event:
        """Return what one image's release is, with its public parameters, for the ledgers.

        It is `planned`, and differs in the detail (a `LocalRelease`) or the reason (a `NonPrivate`) at most.
        """
        planned = self.planned(size, releases, max_images_per_identity)
        return self.unprotected(state) if isinstance(planned, NonPrivate) else planned

    def unprotected(self, state: State) -> NonPrivate:
        """Return what leaves of an image without a formal guarantee, seen by whom, and why; {} is no state yet."""
        raise NotImplementedError("A method without a formal guarantee says why in `unprotected`.")

    def shape_picture(self, state: State) -> NDArray[np.float64] | None:
        """Return the budget's mean weight per frequency, (3, 8, 8) by colour, u, v; None without a budget."""
        return None


def placed(public: NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    """Return public images as a tensor on a device."""
    return torch.from_numpy(np.ascontiguousarray(public)).to(device)


def fetched(state: State) -> dict[str, torch.Tensor]:
    """Return a learnt state in the host's memory."""
    return {name: tensor.cpu() for name, tensor in state.items()}


def check_images(images: torch.Tensor) -> tuple[int, int]:
    """Return (H, W); raise `UserError` unless `images` is uint8 of shape (B, 3, H, W)."""
    colour.check_images(images)
    if images.dtype != torch.uint8:
        raise checks.UserError(f"Expected images of type uint8, got {images.dtype}; a protection takes decoded pixels.")
    return int(images.shape[2]), int(images.shape[3])


def check_streams(images: torch.Tensor, streams: Sequence[SecretStream]) -> None:
    """Raise `UserError` unless there is one distinct stream per image: shared noise cancels in a difference."""
    if len(streams) != images.shape[0] or len({id(stream) for stream in streams}) != len(streams):
        raise checks.UserError(f"Expected one stream per image, all distinct, got {len(streams)} for {len(images)}.")


def check_released(released: torch.Tensor, shape: Shape) -> None:
    """Raise `UserError` unless `released` is a batch of representations of this shape."""
    if tuple(released.shape[1:]) != shape:
        raise checks.UserError(f"Expected released of shape (B, *{shape}), got {tuple(released.shape)}.")


def check_state(state: State, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise `UserError` unless the state holds exactly these float tensors, finite and of these shapes.

    While a network is exported there are no values to ask: the state was checked by whoever read it.
    """
    traced = torch.compiler.is_compiling()
    state = on_host(state)
    if set(state) != set(shapes):
        raise checks.UserError(f"Expected a state with {sorted(shapes)}, got {sorted(state)}; fit it again.")
    for name, shape in shapes.items():
        tensor = state[name]
        right = tuple(tensor.shape) == shape and tensor.is_floating_point()
        if not right or not (traced or bool(torch.isfinite(tensor).all())):
            raise checks.UserError(
                f"Expected state[{name!r}] finite floats of shape {shape}, got {tensor.dtype} {tuple(tensor.shape)}; "
                "it belongs to another size or other settings: fit this protection again."
            )


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Return images rounded and clamped to uint8 0..255; NaN becomes 0."""
    return images.nan_to_num(0.0).round().clamp(0, 255).to(torch.uint8)
