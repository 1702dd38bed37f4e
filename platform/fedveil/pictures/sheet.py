"""Sheets of synthetic faces: one person a row, and beside each synthetic face the nearest one that was learnt from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedveil import checks
from fedveil.data.faces import FaceSet
from fedveil.pictures.faces import face_grid


def people(
    path: Path, images: NDArray[np.uint8], labels: NDArray[np.int64], most: int = 12, pictures: int = 10,
    header: str = "Synthetic people, one a row",
) -> Path:  # fmt: skip
    """Draw synthetic people, one a row; where somebody has fewer pictures than the others the row ends white.

    Args:
        path: PNG to write.
        images: (N, 3, H, W) uint8.
        labels: (N,) who is on them.
        most: people who are drawn, evenly chosen.
        pictures: of each.
        header: what is seen.
    """
    checks.same_shape(labels.shape, images=images.shape[:1])
    checks.positive(faces=len(images), most=most, pictures=pictures)
    names = np.unique(labels)
    chosen = names[np.linspace(0, len(names) - 1, min(most, len(names))).astype(int)]
    width = min(pictures, int(np.unique(labels, return_counts=True)[1].max()))
    rows = {}
    for name in chosen.tolist():
        row = np.full((width, *images.shape[1:]), 255, np.uint8)
        some = images[labels == name][:width]
        row[: len(some)] = some
        rows[f"person {name}"] = row
    return face_grid(path, rows, header)


def neighbours(
    path: Path, images: NDArray[np.uint8], nearest: Sequence[Mapping[str, Any]], members: FaceSet, most: int = 24,
    columns: int = 8,
) -> Path:  # fmt: skip
    """Draw synthetic faces above the nearest face of the generator's training, the nearest pair first.

    It shows training faces: for looking at, never for a repository or a page.

    Args:
        path: PNG to write.
        images: (N, 3, H, W) uint8, the synthetic pictures.
        nearest: pairs as `fedveil.synthesis.leakage` lists them: `synthetic`, `position` and `cosine`.
        members: the faces that were learnt from.
        most: pairs that are drawn.
        columns: of the sheet.

    Raises:
        fedveil.checks.UserError: the training faces are neither drawn nor declared public.
    """
    if not (members.synthetic or members.public):
        raise checks.UserError(
            "Expected training faces that are drawn or declared public: a sheet of nearest neighbours shows them. Read "
            "the list of the leakage search instead, where they are."
        )
    pairs = list(nearest)[:most]
    checks.positive(pairs=len(pairs), columns=columns)
    rows: dict[str, NDArray[np.uint8]] = {}
    for start in range(0, len(pairs), columns):
        some = pairs[start : start + columns]
        empty = np.full((columns if len(pairs) > columns else len(some), *images.shape[1:]), 255, np.uint8)
        above, below = empty.copy(), empty.copy()
        above[: len(some)] = images[[pair["synthetic"] for pair in some]]
        below[: len(some)] = members.images([pair["position"] for pair in some])
        numbers = f"{start + 1} to {start + len(some)}"
        rows[f"synthetic {numbers}"] = above
        rows[f"learnt {numbers}, cosine {some[0]['cosine']:.2f} to {some[-1]['cosine']:.2f}"] = below
    return face_grid(path, rows, "Synthetic faces and the nearest ones that were learnt from")
