"""The folder of a set that is being drawn: whose it is, its anchors; its blocks are read and written by `_blocks`."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedveil import checks, config, runs
from fedveil.device import Place
from fedveil.synthesis.anchors import Anchors, far_from
from fedveil.synthesis.base import Generator

_REMEDY = "Choose another folder, or remove this one to begin anew."
_AGAIN = "Remove it: they are packed again."
_NUMBERS = [field.name for field in dataclasses.fields(Anchors) if field.name != "vectors"]


def digest_of(
    generator: Generator, settings: Mapping[str, Any], real: NDArray[Any], threshold: float, seed: int, place: Place
) -> str:
    """Return what stands for everything that a set depends on."""
    hasher = hashlib.sha256()
    for name, tensor in [("alphas", generator.alphas), *sorted(generator.state_dict().items())]:
        hasher.update(name.encode())
        hasher.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).data)
    hasher.update(np.ascontiguousarray(real).data)
    where = [place.device.type, place.precision, place.batch]
    return config.hashed([dict(settings), float(threshold), seed, where, hasher.hexdigest()])


def claim(folder: Path, digest: str) -> None:
    """Write whose folder it is.

    Raises:
        fedveil.checks.UserError: it is another set's.
    """
    path = folder / "set.json"
    if path.exists():
        if runs.read_json(path, "description of a synthetic set", {"digest": str}, _REMEDY)["digest"] != digest:
            raise checks.UserError(
                f"{folder} holds synthetic faces of another generator, seed, device or other settings. {_REMEDY}"
            )
    elif any(folder.glob("block-*.npz")):
        raise checks.UserError(f"{folder} holds synthetic faces that nothing describes. {_REMEDY}")
    else:
        runs.write_json(path, {"digest": digest})


def kept_anchors(path: Path, digest: str, real: NDArray[Any], threshold: float, pack: Callable[[], Anchors]) -> Anchors:
    """Return the anchors in a file, or pack and write them; what was kept must be far from real people, too.

    Raises:
        fedveil.checks.UserError: the file is damaged, or of another set.
    """
    if not path.is_file():
        packed = pack()
        runs.write_packed(path, {"vectors": packed.vectors}, {"digest": digest, "packing": numbers(packed)})
        return packed
    arrays, meta = runs.unpack(path, "file of anchors", _AGAIN)
    vectors, packing = arrays.get("vectors", np.zeros(())), meta.get("packing")
    sound = meta.get("digest") == digest and vectors.ndim == 2 and vectors.dtype == np.float32
    sound = sound and not runs.misfit(packing, dict.fromkeys(_NUMBERS, (int, float)), "packing")
    if not sound or not far_from(vectors, real, threshold).all():
        raise checks.UserError(f"{path} holds no anchors of this set. {_AGAIN}")
    return Anchors(vectors, **{name: meta["packing"][name] for name in _NUMBERS})


def numbers(packed: Anchors) -> dict[str, float]:
    """Return what is told of anchors beside themselves."""
    return {name: getattr(packed, name) for name in _NUMBERS}
