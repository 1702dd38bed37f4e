"""Nine of the 54 high DCT channels per image, in a secretly drawn choice and order (PartialFace, ICCV 2023)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import checks, frequency
from fedveil.device import on_host
from fedveil.privacy.events import NonPrivate
from fedveil.protections import base
from fedveil.protections._linear import LinearMap
from fedveil.randomness import SecretStream, public_rng, subkey

KEPT = tuple(channel for channel in range(64) if channel // 8 + channel % 8 > 3)
"""The 54 frequencies 8u + v that are not pruned; the ten with u + v <= 3 never leave."""

SUBSETS, PERMUTATIONS, LENGTH = 6, 6, 9  # m, n and s of the paper: six subsets of nine channels are all 54
RANKS = SUBSETS * PERMUTATIONS

PUBLISHED = (
    (5, 34, 38, 21, 42, 55, 57, 50, 62),
    (45, 49, 54, 52, 19, 11, 47, 41, 63),
    (4, 60, 29, 13, 32, 61, 59, 33, 31),
    (48, 15, 35, 22, 27, 40, 14, 43, 18),
    (36, 39, 26, 6, 53, 23, 12, 20, 58),
    (46, 51, 56, 44, 25, 37, 28, 30, 7),
)
"""The reference code's subsets, as frequencies 8u + v in its order."""

_TRIPLES = tuple(itertools.combinations(range(SUBSETS), 3))
_SHAPES = {"subsets": (SUBSETS, LENGTH), "permutations": (PERMUTATIONS, LENGTH)}
_FLOOR = 1e-5  # root mean square; a face's faintest channels have 2e-4, the rounding of a grey face's chroma has 1e-7
_MID_GREY = 96.0  # brightness of average energy in a rendered picture


def allowed_subsets(identity: bytes) -> tuple[int, ...]:
    """Return the three of six subsets that a person's images are trained on, as a hash of the person's key.

    The reference code takes `label mod 20`; in a federation, label 0 of every client would then share one triple.

    >>> len({allowed_subsets(bytes([number])) for number in range(200)})
    20
    """
    return _TRIPLES[int.from_bytes(subkey(identity, "partialface", "triple"), "big") % len(_TRIPLES)]


@dataclass(frozen=True)
class PartialFace(base.Protection):
    """Nine high DCT channels per colour by a secret draw of 36 (PartialFace, ICCV 2023), which announces itself.

    "Privacy-Preserving Face Recognition Using Random Frequency Components" (https://arxiv.org/abs/2308.10461) prunes
    the ten channels u + v <= 3 of the upsampled DCT, cuts the other 54 into six public subsets of nine, and releases
    one subset in one of six public orders, the same for Y, Cb and Cr. Which of the 36 ranks it was is drawn per image
    and kept. There is **no formal guarantee**, and the event says so: 36 ranks are 5.2 bits, and the rank announces
    itself, because the nine channels over-determine the image and only the right rank solves them (a test does it).

    Training shows a person in three of the six subsets only. The triple is in the reference code and not in the paper,
    and hangs on a hash of the person's key here.

    Attributes:
        table: "drawn" draws the subsets from the public seed, as the paper lets every provider do; "published" takes
            the reference code's. The six orders are always drawn, since the code ships only three.
        identity_triples: train each person on three subsets, as the code does; False: on any, as the paper's text.
        views: visits of an image per pass in training, each with its own rank: r of the paper (18) and of its code
            (3, the default here: ranks are drawn anew at every visit, so rounds multiply them, and one pass costs r).
    """

    table: Literal["drawn", "published"] = "drawn"
    identity_triples: bool = True
    views: int = 3

    def __post_init__(self) -> None:
        checks.one_of(("drawn", "published"), table=self.table)
        checks.positive(views=self.views)
        if not isinstance(self.views, int):
            raise checks.UserError(f"Expected views={self.views!r} to be a whole number of visits.")

    @property
    def needs_fit(self) -> bool:
        """The table of subsets and orders."""
        return True

    @property
    def noise(self) -> str:
        """The law of the draw."""
        return "one of 36 ranks, uniform"

    def representation(self, size: tuple[int, int]) -> base.Shape:
        """Return (27, H, W), colour-major."""
        checks.positive(height=size[0], width=size[1])
        return (3 * LENGTH, *size)

    def layout(self, size: tuple[int, int]) -> base.Shape:
        """Return (27, H, W)."""
        return self.representation(size)

    def fit(
        self,
        public: NDArray[np.uint8],
        labels: NDArray[np.int64],
        seed: int,
        progress: base.Progress | None = None,
        device: torch.device = base.CPU,
    ) -> dict[str, torch.Tensor]:
        """Return the public table: `subsets` (6, 9) frequencies 8u + v, `permutations` (6, 9) places in a subset.

        It is a function of the seed alone; no face is read.
        """
        rng = public_rng(seed, "partialface", "table")
        subsets = rng.permutation(KEPT).reshape(SUBSETS, LENGTH)
        if self.table == "published":
            subsets = np.array(PUBLISHED)
        orders: list[NDArray[np.int64]] = []
        while len(orders) < PERMUTATIONS:
            order = rng.permutation(LENGTH)
            if not any(np.array_equal(order, other) for other in orders):
                orders.append(order)
        tables = {"subsets": subsets, "permutations": np.stack(orders)}
        return {name: torch.from_numpy(table.astype(np.float32)) for name, table in tables.items()}

    def release(self, images: torch.Tensor, state: base.State, streams: Sequence[SecretStream]) -> torch.Tensor:
        """Return 27 channels per image, float32 (B, 27, H, W), under a rank drawn uniformly from its own stream."""
        base.check_images(images)
        base.check_streams(images, streams)
        return _channels(images, state, [int(RANKS * stream.uniform(1)[0]) for stream in streams])

    def clean(self, images: torch.Tensor, state: base.State) -> torch.Tensor:
        """Return the channels under the first rank for every image: there is no rank-free value of this method."""
        base.check_images(images)
        return _channels(images, state, [0] * len(images))

    def training_features(self, images: torch.Tensor, state: base.State, visit: base.Visit) -> torch.Tensor:
        """Return the features of a drawn rank: one of the person's three subsets, any order, uniformly."""
        if not self.identity_triples:
            return self.features(self.release(images, state, visit.streams), state)
        base.check_images(images)
        base.check_streams(images, visit.streams)
        people = visit.identities
        if len(people) != len(images):
            raise checks.UserError(f"Expected one identity per image, got {len(people)} for {len(images)} images.")
        ranks = []
        for stream, identity in zip(visit.streams, people, strict=True):
            which, order = divmod(int(3 * PERMUTATIONS * stream.uniform(1)[0]), PERMUTATIONS)
            ranks.append(allowed_subsets(identity)[which] * PERMUTATIONS + order)
        return self.features(_channels(images, state, ranks), state)

    def features(self, released: torch.Tensor, state: base.State) -> torch.Tensor:
        """Return each image's channels half-way to equal size, about unit scale together.

        A receiver does not know which channels it has, and theirs differ a thousandfold in size, so each is divided by
        the root of its own root mean square in this image: what `_channels.scales` does with public faces. At equal
        size, noise drowns a real face; as they come, the largest channel does. The reference
        leaves the scale to a batch normalisation per place.
        """
        base.check_released(released, self.representation((int(released.shape[2]), int(released.shape[3]))))
        size = _sizes(released)
        return released / (size * size.mean(1, keepdim=True)).sqrt()

    def render(self, released: torch.Tensor, state: base.State, size: tuple[int, int]) -> torch.Tensor:
        """Return grey images of where the energy is: root mean square over the 27 features at each pixel.

        An inverse needs the rank; a guess would show noise and flatter the method. The energy needs no rank.
        """
        base.check_released(released, self.representation(size))
        energy = (released / _sizes(released)).square().mean(1, keepdim=True).sqrt()
        return base.to_uint8(_MID_GREY * energy).expand(-1, 3, -1, -1).contiguous()

    def check_state(self, state: base.State, size: tuple[int, int]) -> None:
        """Raise `UserError` unless the state holds a partition of the channels and its orders."""
        _table(state)

    def linear(self, size: tuple[int, int], state: base.State) -> LinearMap:
        """Return the map under each of the 36 public orders; which was drawn, is the secret."""
        subsets, orders = _table(state)
        ranks = [divmod(rank, PERMUTATIONS) for rank in range(RANKS)]
        return LinearMap("upsampled", tuple(tuple(subsets[s][orders[p]].tolist()) for s, p in ranks))

    def unprotected(self, state: base.State) -> NonPrivate:
        """Return a `NonPrivate` event: a secret of 5.2 bits that the release gives away is no guarantee."""
        return NonPrivate(
            "image",
            "the 27 released channels or anything computed from them",
            "the secret is which of 36 ranks was drawn (5.2 bits), and the rank announces itself: only the right one "
            "solves the channels, which are a linear image of the face",
        )


def _sizes(released: torch.Tensor) -> torch.Tensor:
    """Return each channel's root mean square, (B, 27, 1, 1)."""
    return (released.square().mean((2, 3), keepdim=True) + _FLOOR**2).sqrt()


def _table(state: base.State) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the checked (subsets, permutations) of a state."""
    base.check_state(state, _SHAPES)
    subsets, orders = (on_host(state)[name].numpy().astype(np.int64) for name in _SHAPES)
    if sorted(subsets.flat) != list(KEPT) or any(sorted(order) != list(range(LENGTH)) for order in orders):
        raise checks.UserError(
            "Expected a state whose subsets partition the 54 kept channels and whose permutations order 0..8; "
            "it is damaged: fit this protection again."
        )
    return subsets, orders


def _channels(images: torch.Tensor, state: base.State, ranks: Sequence[int]) -> torch.Tensor:
    """Return (B, 27, H, W): only the nine channels of each image's rank are computed, in the rank's order."""
    subsets, orders = _table(state)
    chosen = [subsets[rank // PERMUTATIONS][orders[rank % PERMUTATIONS]].tolist() for rank in ranks]
    if images.device.type != "cpu":
        return frequency.upsampled_dct_each(images, chosen)
    out = torch.empty((len(images), 3 * LENGTH, *images.shape[2:]))
    for index, channels in enumerate(chosen):
        frequency.upsampled_dct(images[index : index + 1], channels, out=out[index : index + 1])
    return out


METHOD = PartialFace
