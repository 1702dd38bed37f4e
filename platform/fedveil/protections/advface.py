"""Adversarial features: the first layers' output, moved to where a public inverter draws a wrong face."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedveil import checks
from fedveil.device import on_host
from fedveil.models.backbones import _ir
from fedveil.models.decoder import Decoder
from fedveil.privacy.events import NonPrivate
from fedveil.protections import _advface, base
from fedveil.randomness import SecretStream, public_torch

_CHUNK = 8  # images that one ascent holds, always: the same arithmetic for an image whoever comes with it


@dataclass(frozen=True)
class AdvFace(base.Protection):
    """First layers' features plus adversarial noise that spoils reconstruction (AdvFace, CVPR 2023); links linearly.

    The recogniser is split, f = f2 after f1. A shadow model S, trained on public faces, turns features z = f1(x) back
    into faces as an attacker would. What leaves is z' = z + delta, with delta found by projected sign-gradient ascent
    on the shadow model's error (https://arxiv.org/abs/2305.05391). That misleads inverters trained on clean features;
    one that is trained on protected features undoes most of it, so the event is `NonPrivate`.

    Published are the shadow model, its use in a loop (variant cycle) and a recogniser that is not changed. No code is
    public; these are ours:

    * The client adds the noise, not the server: who sees z needs no attack.
    * Radius, step rule and number of steps. The radius is in units of the features' standard deviation over public
      faces, as features have no natural range. It is no privacy budget.
    * Both variants start at a random delta, uniform within half the radius. Direct needs it: at zero its gradient is 0.
    * f1 is small, a convolution and one IR unit of stride 2 with GroupNorm. Its output is a residual sum of both signs,
      so negative values betray nothing and z' is not cut at zero.
    * The guard, which knows recognition through a public stand-in for f2.

    Attributes:
        width: channels of f1's output, a multiple of 8; with 64 a representation has the size that MinusFace
            (https://arxiv.org/abs/2403.12457) reports for this method.
        strength: largest change of one feature value, in standard deviations of the features over public faces.
        steps: ascent steps, each of 2.5 strength / steps.
        variant: "cycle" raises |S(f1(S(z)) + delta) - S(z)|^2, "direct" |S(z + delta) - S(z)|^2.
        guard: weight of 1 - cosine of a public network's embeddings of z' and z, which the noise then also keeps small,
            against the squared error per pixel value (pixels in -1..1); 0 is none.
        fine_tune: train the recogniser on protected features instead of clean ones; slow, and no longer the published
            plug-in that leaves recognition unchanged.
        split_rounds: federated rounds that train f1 and f2 together first; 0 keeps the f1 of public faces.
        shadow_width: channels of the shadow model, a multiple of 8.
        shadow_norm: power of the shadow model's pixel error, 1 or 2.
        fit_steps: training steps of f1 on public faces.
        shadow_ratio: training steps of the shadow model for each of those.
    """

    width: int = 16
    strength: float = 1.0
    steps: int = 20
    variant: Literal["cycle", "direct"] = "cycle"
    guard: float = 0.0
    fine_tune: bool = False
    split_rounds: int = 10
    shadow_width: int = 16
    shadow_norm: int = 2
    fit_steps: int = 60
    shadow_ratio: int = 3

    def __post_init__(self) -> None:
        checks.within(1e-9, 1e3, strength=self.strength)
        checks.within(1, 4096, width=self.width, shadow_width=self.shadow_width)
        checks.multiple_of(_ir.GROUP_CHANNELS, width=self.width, shadow_width=self.shadow_width)
        checks.positive(
            strength=self.strength, steps=self.steps, fit_steps=self.fit_steps, shadow_ratio=self.shadow_ratio
        )
        checks.one_of(("cycle", "direct"), variant=self.variant)
        checks.non_negative(guard=self.guard, split_rounds=self.split_rounds)
        if self.shadow_norm not in (1, 2):
            raise checks.UserError(f"Expected shadow_norm={self.shadow_norm!r} to be 1 or 2.")

    @property
    def needs_fit(self) -> bool:
        """The client's layers, the shadow model and the spread of the features."""
        return True

    @property
    def noise(self) -> str:
        """The law of the ascent's start; the rest is deterministic."""
        return "uniform start"

    @property
    def phases(self) -> tuple[base.Phase, ...]:
        """Return the joint training of f1 and f2, unless `split_rounds` is 0."""
        return (SplitPhase(self),) if self.split_rounds else ()

    def representation(self, size: tuple[int, int]) -> base.Shape:
        """Return (width, H / 2, W / 2)."""
        checks.multiple_of(2, height=size[0], width=size[1])
        return (self.width, size[0] // 2, size[1] // 2)

    def layout(self, size: tuple[int, int]) -> base.Shape:
        """Return (width, H / 2, W / 2): the recogniser is f2."""
        return self.representation(size)

    def fit(
        self,
        public: NDArray[np.uint8],
        labels: NDArray[np.int64],
        seed: int,
        progress: base.Progress | None = None,
        device: torch.device = base.CPU,
    ) -> dict[str, torch.Tensor]:
        """Return `f1/...`, `shadow/...`, `sigma`, `scale`, and with a guard `tail/...`.

        f1 is trained on public faces (N, 3, H, W) with a small tail by a margin softmax, then frozen for the shadow
        model's training. sigma, the unit of `strength`, and scale, by which the recogniser's input is divided, are the
        standard deviation of z.
        """
        images, targets = self._public(public, labels, device)
        generator = public_torch(seed, "advface", "fit")
        stem, tail = _advface.skeleton(_advface.Stem, self.width), _advface.skeleton(_advface.Tail, self.width)
        size = base.check_images(images)
        for network in (stem, tail):
            _ir.initialised(network, generator)
        shadow = self._decoder.build(self.width, self.representation(size)[1:], size, generator).to(device)
        stem, tail = stem.to(device), tail.to(device)
        tick = _advface.Ticker(progress, self.fit_steps * (1 + self.shadow_ratio))
        trained = [*stem.parameters(), *tail.parameters()]
        _advface.learn_recognition(stem, tail, trained, images, targets, self.fit_steps, generator, tick)
        state = self._finished(stem, shadow, tail if self.guard > 0 else None, images, generator, tick)
        return base.fetched({**state, "scale": state["sigma"].clone()})

    def _public(
        self, public: NDArray[np.uint8], labels: NDArray[np.int64], device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        images = base.placed(public, device)
        self.representation(base.check_images(images))
        checks.same_shape((len(images),), labels=labels.shape)
        people, targets = np.unique(labels, return_inverse=True)
        if len(people) < 2:
            raise checks.UserError(f"Expected public faces of at least 2 people, got {len(images)} of {len(people)}.")
        return images, torch.from_numpy(targets.astype(np.int64)).to(device)

    def _finished(
        self,
        stem: nn.Module,
        shadow: nn.Module,
        tail: nn.Module | None,
        images: torch.Tensor,
        generator: torch.Generator,
        tick: _advface.Ticker,
    ) -> dict[str, torch.Tensor]:
        """Return the state without `scale`, after the shadow model's training against this f1."""
        stem.requires_grad_(False)
        steps = self.fit_steps * self.shadow_ratio
        _advface.learn_shadow(stem, shadow, images, self.shadow_norm, steps, generator, tick)
        state = {**_advface.values(stem, "f1"), **_advface.values(shadow, "shadow")}
        if tail is not None:
            state |= _advface.values(tail, "tail")
        return {**state, "sigma": _advface.spread(stem, images)}

    @property
    def _decoder(self) -> Decoder:
        return Decoder(width=self.shadow_width)

    def _skeletons(self) -> dict[str, nn.Module]:
        """Return f1, the shadow model and, with a guard, the tail, without values."""
        networks: dict[str, nn.Module] = {
            "f1": _advface.skeleton(_advface.Stem, self.width),
            "shadow": self._decoder.skeleton(self.width, doublings=1),
        }
        if self.guard > 0:
            networks["tail"] = _advface.skeleton(_advface.Tail, self.width)
        return networks

    def check_state(self, state: base.State, size: tuple[int, int]) -> None:
        """Raise `UserError` unless the state holds these networks and two scales."""
        self._networks(state)

    def _networks(self, state: base.State) -> dict[str, nn.Module]:
        """Return the skeletons with the state's values, frozen; raise `UserError` for another's state."""
        networks = self._skeletons()
        shapes: dict[str, tuple[int, ...]] = {"sigma": (), "scale": ()}
        for prefix, network in networks.items():
            shapes |= {f"{prefix}/{name}": tuple(value.shape) for name, value in network.named_parameters()}
        base.check_state(state, shapes)
        return {prefix: _advface.with_values(network, state, prefix) for prefix, network in networks.items()}

    def release(self, images: torch.Tensor, state: base.State, streams: Sequence[SecretStream]) -> torch.Tensor:
        """Return z', every value within `strength` * sigma of the clean one (up to the rounding of the sum)."""
        return self.converted(self.clean(images, state), state, streams)

    def converted(self, table: torch.Tensor, state: base.State, streams: Sequence[SecretStream]) -> torch.Tensor:
        """Return z' of an existing table of clean features z = f1(x): offline enrolment, without the images.

        `release` is this on the features of its images, bit by bit, so pictures that are enrolled one by one and a
        table that is converted at once fit together in one gallery.

        Args:
            table: (N, width, h, w) float32, as `clean` makes it with this state.
            state: what `fit` and the phases returned.
            streams: one per row.
        """
        base.check_released(table, (self.width, *table.shape[2:]))
        base.check_streams(table, streams)
        networks = self._networks(state)
        radius = self.strength * float(on_host(state)["sigma"])
        out = torch.empty_like(table)
        for first in range(0, len(table), _CHUNK):
            rows = table[first : first + _CHUNK]
            z, start = torch.zeros(2, _CHUNK, *table.shape[1:], device=table.device)
            z[: len(rows)] = rows
            for index, stream in enumerate(streams[first : first + _CHUNK]):
                drawn = stream.uniform(start[index].numel()) - 0.5  # so U(-radius / 2, radius / 2)
                start[index] = radius * torch.from_numpy(drawn).reshape(start[index].shape)
            loss = _advface.objective(
                self.variant, z, networks["f1"], networks["shadow"], networks.get("tail"), self.guard
            )
            out[first : first + len(rows)] = (z + _advface.ascend(loss, start, radius, self.steps))[: len(rows)]
        return out

    def clean(self, images: torch.Tensor, state: base.State) -> torch.Tensor:
        """Return z, one image at a time; from it S and its like draw the face, so it must never leave."""
        shape = self.representation(base.check_images(images))
        found = torch.empty(len(images), *shape, device=images.device)
        stem = self._networks(state)["f1"]
        with torch.no_grad():
            for index in range(len(images)):
                found[index] = stem(_advface.unit(images[index : index + 1]))[0]
        return found

    def features(self, released: torch.Tensor, state: base.State) -> torch.Tensor:
        """Return released / scale."""
        base.check_released(released, (self.width, *released.shape[2:]))
        return released / state["scale"]

    def prepared(self, images: torch.Tensor, state: base.State) -> torch.Tensor | None:
        """Return the clean features; None with `fine_tune`, which does not read them."""
        return None if self.fine_tune else self.clean(images, state)

    def training_features(self, images: torch.Tensor, state: base.State, visit: base.Visit) -> torch.Tensor:
        """Return the clean features, as noise is for those who are recognised; protected ones with `fine_tune`."""
        left = self.prepared(images, state) if visit.prepared is None else visit.prepared
        return self.features(self.release(images, state, visit.streams) if left is None else left, state)

    def render(self, released: torch.Tensor, state: base.State, size: tuple[int, int]) -> torch.Tensor:
        """Return what the shadow model draws: what an attacker with a clean-feature inverter would see."""
        base.check_released(released, self.representation(size))
        with torch.no_grad():
            return base.to_uint8(127.5 * (self._networks(state)["shadow"](released) + 1.0))

    def unprotected(self, state: base.State) -> NonPrivate:
        """Return a `NonPrivate` event."""
        return NonPrivate(
            "image",
            "the adversarial features, any model update, and everything computed from them",
            "adversarial noise is aimed at inverters of clean features; one that is trained on protected features, "
            "which everybody can make of faces of his own, recovers the face; training reads clean features",
        )


@dataclass(frozen=True)
class SplitPhase(base.Phase):
    """Federated training of f1 and the recogniser as one network on clean pixels, inside the clients."""

    protection: AdvFace

    @property
    def name(self) -> str:
        """What is learnt."""
        return "split network"

    @property
    def rounds(self) -> int:
        """Return `split_rounds`."""
        return self.protection.split_rounds

    def features(self, images: torch.Tensor, state: base.State, visit: base.Visit) -> torch.Tensor:
        """Return the pixels in [-1, 1]."""
        base.check_images(images)
        return _advface.unit(images)

    def network(self, model: Any, size: tuple[int, int], state: base.State, generator: torch.Generator) -> nn.Module:
        """Return the configured backbone behind f1, which starts from its public values."""
        stem = self.protection._networks({name: value.clone() for name, value in state.items()})["f1"]
        behind = self.protection.network(model, size, generator)
        return _advface.Whole(stem.requires_grad_(True), behind, float(on_host(state)["scale"]))

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
        """Return the state with the aggregated f1, and the recogniser's tensors to go on from.

        The shadow model (and a guard's tail) learns the new f1 on public faces from where it was; sigma is measured
        again; scale stays, so that the recogniser goes on with the input that it was trained on.
        """
        method = self.protection
        images, targets = method._public(public, labels, device)
        generator = public_torch(seed, "advface", "finish")
        own = {name.removeprefix("f1."): value for name, value in tensors.items() if name.startswith("f1.")}
        aggregated = {f"f1/{name}": torch.from_numpy(np.array(value, np.float32)) for name, value in own.items()}
        before = {name: value.clone() for name, value in state.items()}
        aggregated = {name: value.to(device) for name, value in {**before, **aggregated}.items()}
        networks = method._networks(aggregated)
        stem, shadow = networks["f1"], networks["shadow"].requires_grad_(True)
        tail = networks.get("tail")
        tick = _advface.Ticker(progress, method.fit_steps * (method.shadow_ratio + (tail is not None)))
        if tail is not None:
            trained = list(tail.requires_grad_(True).parameters())
            _advface.learn_recognition(stem, tail, trained, images, targets, method.fit_steps, generator, tick)
        after = method._finished(stem, shadow, tail, images, generator, tick)
        following = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
        return base.fetched({**after, "scale": before["scale"]}), following


METHOD = AdvFace
