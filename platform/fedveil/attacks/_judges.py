"""Who decides whether a recovered face is its person: a recogniser of the attacker's, or one from an ONNX file.

It is never the attacked system, whose own opinion is a measure by itself (`replayed`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from torch import nn

from fedveil import checks, config, randomness, runs
from fedveil.attacks.base import Progress, silent
from fedveil.evaluation import verification
from fedveil.evaluation.identification import unit
from fedveil.federation import training
from fedveil.federation.tensors import get_tensors, set_tensors
from fedveil.models.backbones.tiny_ir import TinyIR
from fedveil.models.embedding import embed
from fedveil.models.heads.cosface import CosFace

_SCALINGS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "(p - 127.5) / 127.5": ((127.5,) * 3, (127.5,) * 3),
    "(p - 127.5) / 128": ((127.5,) * 3, (128.0,) * 3),
    "ImageNet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "p / 255": ((0.0,) * 3, (255.0,) * 3),
}
"""How recognisers read pixels 0..255: (p - mean) / scale by colour, RGB."""
_PHASES = ((1000, 0.05), (150, 0.005))
"""Steps and learning rates of a network of our own."""
_BATCH, _MOMENTUM = 48, 0.9
_TRIED = 150  # people whose pictures choose the scaling


class Judge(Protocol):
    """A recogniser of clean pictures."""

    @property
    def said(self) -> dict[str, Any]:
        """What it is, for the finding."""
        ...

    def embed(self, images: NDArray[np.uint8] | torch.Tensor) -> NDArray[np.float64]:
        """Return (B, D) embeddings of length one of pictures (B, 3, H, W), 0..255."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A network of our own, trained on clean pictures."""

    backbone: nn.Module
    device: torch.device
    said: dict[str, Any]

    def embed(self, images: NDArray[np.uint8] | torch.Tensor) -> NDArray[np.float64]:
        """Return (B, D) embeddings of length one of pictures (B, 3, H, W), 0..255."""
        return unit(embed(self.backbone, pixels(images).to(self.device)).cpu().numpy())


def pixels(images: NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
    """Return pictures as a network of ours reads them: (p - 127.5) / 127.5, float32."""
    tensor = torch.from_numpy(np.array(images)) if isinstance(images, np.ndarray) else images
    return (tensor.float() - 127.5) / 127.5


def trained(
    images: NDArray[np.uint8], labels: NDArray[np.int64], seed: int, device: torch.device, kept: Path | None = None,
    progress: Progress = silent, what: str = "judge", width: int = 24,
) -> Network:  # fmt: skip
    """Return a small network that learnt people from clean pictures; the same arguments give the same network.

    Args:
        images: (N, 3, H, W).
        labels: (N,) 0..K-1.
        seed: public seed.
        device: where it is trained and stays.
        kept: folder in which it is kept and found again; None: nowhere.
        progress: is shown the steps.
        what: its role, for the progress and the finding.
        width: of the first stage; another than the attacked system's default.
    """
    size = (int(images.shape[2]), int(images.shape[3]))
    backbone = TinyIR(width=width).build(3, size, randomness.public_torch(seed, what, "network")).to(device)
    steps = sum(count for count, _ in _PHASES)
    said = {"kind": "own network", "people": int(labels.max()) + 1, "images": len(images), "steps": steps}
    if kept is None:
        _train(backbone, images, labels, seed, device, progress, what)
        return Network(backbone.eval(), device, said)
    seen = hashlib.sha256(np.ascontiguousarray(images).data).hexdigest()
    recipe = config.hashed([what, seed, size, width, _PHASES, _BATCH, seen])[:16]
    path = kept / f"{what}-{recipe}.npz"
    with _alone(kept):  # others who want the same network wait for it
        if path.is_file():
            set_tensors(backbone, runs.unpack(path, "network of an attacker", "Remove it: it is trained again.")[0])
        else:
            _train(backbone, images, labels, seed, device, progress, what)
            runs.write_packed(path, get_tensors(backbone), {"what": what})
    return Network(backbone.eval(), device, said)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _train(
    backbone: nn.Module, images: NDArray[np.uint8], labels: NDArray[np.int64], seed: int, device: torch.device,
    progress: Progress, what: str,
) -> None:  # fmt: skip
    """Train a network to tell people apart: CosFace, flips, SGD with momentum."""
    people, steps, begun = int(labels.max()) + 1, sum(count for count, _ in _PHASES), 0
    dimension = int(embed(backbone, pixels(images[:1]).to(device)).shape[1])
    centres = training.head_init(people, dimension, randomness.public_torch(seed, what, "centres")).to(device)
    flips = randomness.public_rng(seed, what, "flips")

    def batches(count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        indices = training.batch_indices(len(images), _BATCH, seed, what, start_step=begun, steps=count)
        for step, index in enumerate(indices):
            chosen = pixels(images[index])
            mirrored = torch.from_numpy(flips.random(len(index)) < 0.5)
            chosen = torch.where(mirrored[:, None, None, None], chosen.flip(3), chosen)
            yield chosen.to(device), torch.from_numpy(labels[index]).to(device)
            progress(f"training the {what}", begun + step + 1, steps)

    for count, lr in _PHASES:
        loss = training.local_sgd(
            backbone, centres, CosFace(scale=16.0, margin=0.2), batches(count), lr, momentum=_MOMENTUM,
            weight_decay=5e-4,
        )  # fmt: skip
        training.check_finite(loss, backbone.parameters())
        begun += count


@dataclasses.dataclass(frozen=True, eq=False)
class Onnx:
    """A recogniser of an ONNX file, from (B, 3, h, w) to (B, D)."""

    session: Any
    name: str
    size: tuple[int, int]
    one_by_one: bool
    scaling: str

    @property
    def said(self) -> dict[str, Any]:
        """What it is, for the finding."""
        return {"kind": "ONNX", "file": self.name, "input": list(self.size), "pixels": self.scaling}

    def embed(self, images: NDArray[np.uint8] | torch.Tensor) -> NDArray[np.float64]:
        """Return (B, D) embeddings of length one of pictures (B, 3, H, W), 0..255, scaled to the input's size."""
        tensor = torch.from_numpy(np.array(images)) if isinstance(images, np.ndarray) else images.cpu()
        scaled = functional.interpolate(
            tensor.float(), self.size, mode="bilinear", align_corners=False, antialias=True
        )  # fmt: skip
        mean, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in _SCALINGS[self.scaling])
        fed = ((scaled - mean) / scale).numpy()
        name, step = self.session.get_inputs()[0].name, 1 if self.one_by_one else 64
        parts = [self.session.run(None, {name: fed[i : i + step]})[0] for i in range(0, len(fed), step)]
        return unit(np.concatenate([np.asarray(part).reshape(len(part), -1) for part in parts]))


def onnx(place: str, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Onnx:
    """Return the recogniser of an ONNX file; how it reads pixels is what recognises the attacker's people best.

    Args:
        place: the file.
        images: (N, 3, H, W) the attacker's people.
        labels: (N,) who is on them.

    Raises:
        fedveil.checks.UserError: no such file, none that is a recogniser of colour pictures, or nothing to run it.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise checks.UserError(f"attack.judge={place} needs onnxruntime: pip install 'fedveil[export]'.")
    if not Path(place).is_file():
        raise checks.UserError(f"attack.judge={place!r} is no file; name an ONNX recogniser, or leave it out.")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    try:
        session = onnxruntime.InferenceSession(place, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # whatever the runtime's parser raises
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise checks.UserError(f"attack.judge={place!r} is no readable ONNX model: {reason}") from error
    shape = session.get_inputs()[0].shape
    if len(session.get_inputs()) != 1 or len(shape) != 4 or shape[1] != 3:
        raise checks.UserError(
            f"attack.judge={place!r} reads {shape}; expected one input (B, 3, h, w) of colour pictures. Export the "
            "recogniser so, channels first."
        )
    size = tuple(side if isinstance(side, int) and side > 0 else 112 for side in shape[2:])
    one = isinstance(shape[0], int)
    if one and shape[0] != 1:
        raise checks.UserError(f"attack.judge={place!r} reads {shape[0]} at once; export it with a batch of 1 or any.")
    first, second = _pairs(labels)
    made = {name: Onnx(session, Path(place).name, (size[0], size[1]), one, name) for name in _SCALINGS}
    if len(first) < 2:
        return next(iter(made.values()))

    def area(judge: Onnx) -> float:
        one_side, other = judge.embed(images[first]), judge.embed(images[second])
        scores = np.concatenate([(one_side * other).sum(1), (one_side * np.roll(other, 1, 0)).sum(1)])
        return verification.auc(scores, np.arange(len(scores)) < len(first))

    return max(made.values(), key=area)


def _pairs(labels: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return two pictures of each person who has two."""
    order = np.argsort(labels, kind="stable")
    _, start, count = np.unique(labels[order], return_index=True, return_counts=True)
    start = start[count > 1][:_TRIED]
    return order[start], order[start + 1]

