"""A gallery of protected faces for a recognition service: from pictures, or from features that are stored already.

Only for protections without a formal guarantee: copies under a guarantee are drawn once, booked, and kept in the
owner's vault, which a file beside it would bypass.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedveil import checks, config, federation, protect, runs
from fedveil.console import Console
from fedveil.privacy import statements
from fedveil.privacy.events import NonPrivate
from fedveil.randomness import SecretStream, os_key

_AT_ONCE = 64  # rows between two steps of the bar


def enrol(root: Path, run_id: str, source: Path, out: Path) -> str:
    """Write the gallery of `source` under a finished run's protection, and return what was done, in sentences.

    `out` is an .npz file of `features` (N, C, h, w) float32, `names` (N,) of the pictures or row numbers, and the run
    and the model that they belong to: features of another model do not match them.

    Args:
        root: run store.
        run_id: a finished run of it, whose learnt state protects.
        source: a picture or a folder of them (online enrolment), or an .npy file of clean features (N, C, h, w) that
            this run's client layers made (offline enrolment: the pictures are not needed).
        out: file to write.

    Raises:
        fedveil.checks.UserError: no such run, one that has not ended, one with a formal guarantee, or a source that
            the protection cannot read.
    """
    run = runs.open_run(root, run_id)
    if not run.result.is_file():
        raise checks.UserError(f"Run {run_id} has not ended; `fedveil simulate --resume {run_id}` goes on with it.")
    settings = config.from_json(run.config.read_text())
    protection, size = config.build(settings, "protection"), federation.split(settings).train.size
    arrays, _ = runs.unpack(run.checkpoint)
    state = {name[6:]: torch.from_numpy(value) for name, value in arrays.items() if name.startswith("state/")}
    event = federation.release_event(settings, protection, size, state)
    name = settings.protection.name
    if not isinstance(event, NonPrivate):
        raise checks.UserError(
            f"Run {run_id} protects with {name}, under a formal guarantee: its copies are drawn once, booked and kept "
            "in the owner's vault. A gallery file of fresh copies would be another release that no ledger counts."
        )
    inputs: torch.Tensor
    if source.suffix == ".npy":
        if not hasattr(protection, "converted"):
            raise checks.UserError(
                f"{source} holds features, and {name} protects pictures alone; only advface converts stored features."
            )
        inputs, convert = torch.from_numpy(_table(source, protection.representation(size))), protection.converted
        names = [str(row) for row in range(len(inputs))]
    else:
        pixels, names = protect.read(source, size[0])
        inputs, convert = torch.from_numpy(pixels), protection.release
    features = _released(convert, inputs, state)
    result = json.loads(run.result.read_text())
    buffer = io.BytesIO()
    np.savez(
        buffer, features=features, names=np.array(names), run_id=np.array(run_id), protection=np.array(name),
        model_sha256=np.array(result["model_sha256"]),
    )  # fmt: skip
    runs.write_atomic(out, buffer.getvalue(), private=True)
    shape = "x".join(map(str, features.shape[1:]))
    lines = [f"{out}: {len(features)} protected by {name}, {shape} each, {features.nbytes / 1e6:.1f} MB"]
    lines += [statements.claim(statement) for statement in statements.price(event)]
    return "\n".join(lines)


def _table(source: Path, shape: Sequence[int]) -> NDArray[np.float32]:
    """Return the table of an .npy file, checked."""
    try:
        table = np.load(source, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise checks.UserError(f"{source} is not a readable .npy file: {error}") from error
    if table.shape[1:] != tuple(shape) or table.dtype.kind != "f" or not np.isfinite(table).all():
        raise checks.UserError(
            f"Expected {source} to hold finite floats of shape (N, {', '.join(map(str, shape))}), got {table.dtype} "
            f"{table.shape}; it must come from the client layers of this run."
        )
    return np.ascontiguousarray(table, np.float32)


def _released(convert: Any, inputs: torch.Tensor, state: dict[str, torch.Tensor]) -> NDArray[np.float32]:
    """Return what leaves, drawn from the operating system's randomness, a stream per row."""
    console, parts = Console(), []
    for start in range(0, len(inputs), _AT_ONCE):
        rows = inputs[start : start + _AT_ONCE]
        parts.append(convert(rows, state, [SecretStream(os_key()) for _ in range(len(rows))]).numpy())
        console.progress(start + len(rows), len(inputs))
    found: NDArray[np.float32] = np.concatenate(parts)
    return found
