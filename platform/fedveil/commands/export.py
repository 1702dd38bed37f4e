"""Take a finished run's recogniser out, as ONNX or as safetensors.

What a recognition service needs: the backbone and the public part of the protection. How faces are protected stays with
owners; what the run may claim is printed, and stands in the file of tensors.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from fedveil import checks, config, console, readback, runs
from fedveil.data.sources.procedural import draw_faces
from fedveil.federation.finished import Model, model_of
from fedveil.federation.tensors import get_tensors
from fedveil.models import recogniser
from fedveil.randomness import SecretStream, test_key
from fedveil.storage import safetensors

EXAMPLES = """examples:
  fedveil export 20260102-030405-dctdp-1f2e3d --onnx recogniser.onnx
  fedveil export 20260102-030405-dctdp-1f2e3d --safetensors model.safetensors
  A file of tensors is also a start: train.warm_start=model.safetensors
"""

READS = ("runs",)
_NEAR = 1e-3  # of embeddings of length one
_FACES = 3


def tensors(model: Model, run: runs.Run) -> bytes:
    """Return a run's backbone and its protection's state as one file of tensors, with what they are."""
    result, settings = readback.result_of(run), model.federation.settings
    arrays = {f"backbone.{name}": value for name, value in get_tensors(model.backbone).items()}
    arrays |= {f"protection.{name}": value.numpy() for name, value in model.state.items()}
    meta = {
        "run_id": run.run_id,
        "model": settings.model.name,
        "protection": settings.protection.name,
        "size": str(model.federation.size[0]),
        "model_sha256": str(result["model_sha256"]),
        "statements": json.dumps(result["statements"]),
    }
    return safetensors.pack(arrays, meta)


def drawn(model: Model) -> torch.Tensor:
    """Return releases of a few drawn faces, nobody's, to trace and to compare with."""
    protection, side = model.federation.protection, model.federation.size[0]
    images = draw_faces(1, 0, identities=_FACES, images_per_identity=1, size=side).images(np.arange(_FACES))
    streams = [SecretStream(test_key(1, "export", number)) for number in range(_FACES)]
    released: torch.Tensor = protection.release(torch.from_numpy(images), model.state, streams)
    return released.detach().to(torch.float32)


def onnx(model: Model) -> tuple[bytes, float | None]:
    """Return the recogniser as ONNX, and how far its embeddings are from torch's (None: nothing here runs it).

    Raises:
        fedveil.checks.UserError: the extra is missing, PyTorch cannot export it, or the export computes otherwise.
    """
    released = drawn(model)
    made = recogniser.Recogniser(model.federation.protection, model.state, model.backbone)
    data = recogniser.to_onnx(made, released[:2])
    apart = recogniser.difference(data, made, released)
    if apart is not None and not apart <= _NEAR:
        raise checks.UserError(
            f"The exported model's embeddings are {apart:.1e} off torch's; nothing is written. --safetensors writes "
            "the tensors."
        )
    return data, apart


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run_id", metavar="RUN_ID", help="a finished run of the run store")
    parser.add_argument("words", nargs="*", default=[], metavar="WORD", help="e.g. runs.root=elsewhere")
    parser.add_argument("--onnx", type=Path, metavar="FILE", help="a new file: from releases to embeddings")
    parser.add_argument("--safetensors", type=Path, metavar="FILE", help="a new file: backbone and protection's state")


def run(chosen: argparse.Namespace) -> int:
    """Write the files, and say what is in them and what may be claimed."""
    if chosen.onnx is None and chosen.safetensors is None:
        raise checks.UserError("Say what to write: --onnx FILE, --safetensors FILE, or both.")
    for option in ("onnx", "safetensors"):
        _new(option, getattr(chosen, option))
    if chosen.onnx is not None and chosen.onnx == chosen.safetensors:
        raise checks.UserError(f"--onnx and --safetensors name one file, {chosen.onnx}; name two.")
    if chosen.onnx is not None:
        recogniser.check_exporter()
    own = config.load(chosen.words)
    model, found = model_of(own, chosen.run_id), runs.open_run(Path(own.runs.root), chosen.run_id)
    shape = "x".join(map(str, model.federation.protection.representation(model.federation.size)))
    files = []
    if chosen.onnx is not None:
        data, apart = onnx(model)
        checked = "not run: onnxruntime is missing" if apart is None else f"within {apart:.0e} of torch"
        files.append((chosen.onnx, data, f"{recogniser.INPUT} (B, {shape}) to {recogniser.OUTPUT} (B, D), {checked}"))
    if chosen.safetensors is not None:
        data = tensors(model, found)
        files.append((chosen.safetensors, data, "backbone.* and protection.*"))
    for path, data, what in files:
        runs.write_atomic(path, data)
        console.tell(f"{path}: {what}, {len(data) / 1e6:.1f} MB")
    console.tell(f"What it may claim: fedveil ledger {chosen.run_id}")
    return 0


def _new(option: str, path: Path | None) -> None:
    if path is None:
        return
    if path.exists():
        raise checks.UserError(f"--{option} {path} is there already; name a new file, or remove it.")
    if not path.absolute().parent.is_dir():
        raise checks.UserError(f"--{option} {path}: there is no folder {path.absolute().parent}.")
