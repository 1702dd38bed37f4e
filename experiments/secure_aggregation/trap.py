"""One picture out of a perfect secure sum: what chosen weights get from owners who do as they are told.

Every owner gets the same tensors, so no comparison of what was sent would notice. The sum of all their updates is all
that the coordinator sees, without a mask, a share or a key: no protocol can give it less. Drawn faces only.

The trap is the network's own parts. In the first norm one channel carries the picture and others of its group a random
filter of it, so the norm divides one by the other: what comes out is a number of the whole picture, far larger than the
picture's ripple on it. A bias and a slope of 0 cut below a threshold. Pictures that fall below it give exactly nothing;
the next layers move the others' pixels side by side in front of the last map, whose gradient is a picture times a
vector. The coordinator moves the threshold until the sum of these products has rank one.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil.federation.federation import Federation
from fedveil.federation.tensors import get_tensors
from fedveil.records import Tensors
from fedveil_clients import local, sites
from fedveil_clients.policy import Node
from fedveil_clients.sites import Site

WORDS = ("tracking=none", "protection=none", "data=procedural", "model=tiny_ir")
QUIET = 1e-4  # of the filter beside it: how small the picture's own ripple on the gate is
STEEP = 1e4
EVEN = 0.003  # about the root of a norm's epsilon: maps of nothing but zeros are not blown up on the way back
SIDE = 16  # of the picture that fits in front of the last map


def trapped(start: Tensors, seed: int, threshold: float) -> Tensors:
    """Return tensors of the network's names and shapes that pass pictures above a threshold alone.

    Args:
        start: the round's honest tensors.
        seed: of the random filter.
        threshold: of -mean / deviation of the first norm's group, in (-1, 1).
    """
    made = {name: np.zeros_like(value) for name, value in start.items()}
    filter_ = np.random.default_rng(seed).normal(size=(start["stem.weight"].shape[1], 3, 3))
    made["stem.weight"][0, :, 1, 1] = QUIET
    made["stem.weight"][4:8] = filter_
    made["norm.weight"][0], made["norm.bias"][0] = STEEP, -STEEP * threshold
    for name in made:
        if name.startswith("units.") and "norm" in name and name.endswith("weight"):
            made[name][:] = EVEN
        if name.startswith("units.") and "act" in name:
            made[name][:] = 1
        if name.endswith("conv2.weight"):
            width = len(made[name])
            made[name][range(width), range(width), 1, 1] = 1
    for channel in range(8):  # four neighbours of each place, twice, so that they fill one group
        down, right = divmod(channel % 4, 2)
        made["units.0.conv1.weight"][channel, 0, 1 + down, 1 + right] = 1
    for channel in range(SIDE):
        of, phase = divmod(channel, 4)
        down, right = divmod(phase, 2)
        made["units.1.conv1.weight"][channel, of, 1 + down, 1 + right] = 1
    made["embed.bias"][0] = 1  # the map itself stays 0: nothing flows back, so no step changes what the next one sees
    return made


def picture(row: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the picture (SIDE, SIDE) that stands in front of the last map as (64, 4, 4), its pixels side by side."""
    found = np.zeros((SIDE, SIDE))
    for channel, part in enumerate(row.reshape(-1, 4, 4)[:SIDE]):
        of, phase = divmod(channel, 4)
        inner, outer = divmod(of, 2), divmod(phase, 2)
        down, right = inner[0] + 2 * outer[0], inner[1] + 2 * outer[1]
        found[down::4, right::4] = part
    return found


def summed(open_sites: Mapping[str, Site], number: int, tensors: Tensors) -> dict[str, NDArray[np.float64]]:
    """Return the sum of all owners' updates of a round, computed by their own code: the ideal secure sum."""
    total = {name: np.zeros(value.shape) for name, value in tensors.items()}
    for site in open_sites.values():
        for name, value in local.train_round(site.federation)(site, number, tensors).tensors.items():
            total[name] += value
    return total


def shown(total: Mapping[str, NDArray[np.float64]]) -> tuple[int, NDArray[np.float64]]:
    """Return how many pictures a sum holds, as its rank, and the largest of them (SIDE, SIDE), its sign unknown."""
    _, sizes, rows = np.linalg.svd(total["embed.weight"], full_matrices=False)
    return int((sizes > 1e-3 * max(sizes[0], 1e-20)).sum()), picture(rows[0])


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search ended with: the round, the threshold, the picture (SIDE, SIDE)."""

    round: int
    threshold: float
    picture: NDArray[np.float64]


def searched(open_sites: Mapping[str, Site], start: Tensors, seed: int, rounds: int) -> Found | None:
    """Return the first sum of at most `rounds` that shows one picture alone, whole; or None."""
    low, high = 0.0, 1.0
    for number in range(1, rounds + 1):
        threshold = (low + high) / 2
        rank, found = shown(summed(open_sites, number, trapped(start, seed, threshold)))
        values = np.unique((found / max(np.abs(found).max(), 1e-20)).round(5))
        if rank == 1 and len(values) > found.size / 2:  # places that are cut off are all alike
            return Found(number, threshold, found)
        low, high = (low, threshold) if rank < 2 else (threshold, high)
    return None


def likeness(found: NDArray[np.float64], pictures: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the correlation of a picture with each of (n, SIDE, SIDE), its sign by the likeness to their mean."""
    flat = pictures.reshape(len(pictures), -1)
    sign = np.sign(np.corrcoef(found.reshape(-1), flat.mean(0))[0, 1])
    return np.array([sign * np.corrcoef(found.reshape(-1), one)[0, 1] for one in flat])


def opened(words: list[str], folder: str) -> tuple[dict[str, Site], Tensors, NDArray[np.float64]]:
    """Return a federation's owners, honest tensors, and all pictures as the first layer sees them (n, SIDE, SIDE)."""
    run = Federation.of([*WORDS, *words, f"vault.root={folder}/vault"])
    node = dataclasses.replace(Node("here"), vault_root=run.settings.vault.root, simulated=True)
    open_sites = {client: sites.open_site(run, "run", client, node, {}) for client in run.registry}
    fed = [site.features(np.arange(len(site.labels)), 0) for site in open_sites.values()]
    thumbs = torch.cat(fed).mean(1)[:, ::2, ::2].numpy().astype(np.float64)
    return open_sites, get_tensors(run.backbone()), thumbs


def main() -> None:
    """Run the search with some random filters; the same sums of owners with an image budget are beside it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="settings of the federation")
    parser.add_argument("--filters", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--pictures", default="", help="where to draw what was found beside what it is of")
    given = parser.parse_args()
    kept = []
    with tempfile.TemporaryDirectory() as folder:
        plain, start, thumbs = opened(given.words, f"{folder}/plain")
        budget = ["privacy.image.epsilon=8", "privacy.image.sampling_rate=0.2"]
        private, _, _ = opened([*given.words, *budget], f"{folder}/private")
        print(f"{len(plain)} owners, {len(thumbs)} pictures")
        for seed in range(given.filters):
            got = searched(plain, start, seed, given.rounds)
            if got is None:
                print(json.dumps({"filter": seed, "found": False}), flush=True)
                continue
            alike = likeness(got.picture, thumbs)
            best, second = np.argsort(alike)[::-1][:2]
            rank, noisy = shown(summed(private, got.round, trapped(start, seed, got.threshold)))
            row = {
                "filter": seed, "found": True, "round": got.round, "most like": alike[best].round(4),
                "next": alike[second].round(4), "mean face": likeness(thumbs.mean(0), thumbs)[best].round(4),
                "rank at epsilon 8": rank, "most like at epsilon 8": likeness(noisy, thumbs).max().round(4),
                "the same picture": likeness(noisy, thumbs)[best].round(4),
            }  # fmt: skip
            print(json.dumps(row), flush=True)
            sign = np.sign(np.corrcoef(got.picture.ravel(), thumbs[best].ravel())[0, 1])
            kept.append((thumbs[best], sign * got.picture))
    if given.pictures:
        draw(kept[:6], given.pictures)


def draw(pairs: list[tuple[NDArray[np.float64], NDArray[np.float64]]], path: str) -> None:
    """Write the originals above what the sum gave."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.1 * len(pairs), 2.3), dpi=110)
    for at, pair in enumerate(pairs):
        for row, values in enumerate(pair):
            place = figure.add_subplot(2, len(pairs), at + 1 + row * len(pairs))
            place.imshow(values, cmap="gray")
            place.set_axis_off()
    figure.tight_layout(pad=0.2)
    figure.savefig(path)


if __name__ == "__main__":
    main()
