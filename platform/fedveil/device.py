"""Where the heavy arithmetic runs: the processor, one GPU, or torch's `meta` in tests; and in which precision.

Parameters, updates, sums, noise and accounting know nothing of it: they are float32 or float64 in the host's memory,
with randomness from the operating system. What runs on a device are networks, heads, frequency transforms and the
learning of public artefacts. One device gives equal bits again and again; two devices differ by rounding.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import resource
import sys
from collections.abc import Callable, Generator, Mapping
from typing import Any, Literal, TypeVar

import torch
from numpy.typing import NDArray
from torch import nn

from fedveil import checks
from fedveil.loader import ahead

Precision = Literal["fp32", "bf16"]
Module = TypeVar("Module", bound=nn.Module)
Batch = TypeVar("Batch", bound=tuple[torch.Tensor, ...])


class Placed(dict[str, torch.Tensor]):
    """A state's tensors on a device; `host` are the same in the host's memory, where a check waits for nobody."""

    def __init__(self, host: Mapping[str, torch.Tensor], device: torch.device) -> None:
        super().__init__({name: tensor.to(device) for name, tensor in host.items()})
        self.host = host


def on_host(state: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """Return a state in the host's memory, where its values can be read without waiting for a device."""
    return state.host if isinstance(state, Placed) else state


@dataclasses.dataclass(frozen=True)
class Place:
    """One device, and the precision in which networks run there in training.

    Attributes:
        device: of networks and heads.
        precision: "fp32", or "bf16": products of networks in bfloat16, sums and everything else in float32.
        batch: images that pass a network together, at most; None: a whole batch. A step stays the same up to rounding.
    """

    device: torch.device = torch.device("cpu")  # noqa: RUF009  (immutable)
    precision: Precision = "fp32"
    batch: int | None = None

    @property
    def exact(self) -> torch.device:
        """Where protections run: they need float64, which Apple's GPUs do not have."""
        return torch.device("cpu") if self.device.type == "mps" else self.device

    @property
    def name(self) -> str:
        """The device in words, for people and for result.json.

        >>> Place().name
        'cpu'
        """
        if self.device.type != "cuda":
            return self.device.type
        return f"{self.device} ({torch.cuda.get_device_name(self.device)})"

    def state(self, state: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Return a protection's state where protections run; on the host it is the very same object."""
        return state if self.exact.type == "cpu" else Placed(state, self.exact)

    def put(self, array: NDArray[Any]) -> torch.Tensor:
        """Return an array as a tensor where protections run; to a GPU through pinned memory, without waiting."""
        tensor = torch.from_numpy(array)
        if self.exact.type == "cuda":
            return tensor.pin_memory().to(self.exact, non_blocking=True)
        return tensor.to(self.exact)

    def fed(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor where the networks are."""
        return tensor.to(self.device, non_blocking=self.device.type == "cuda")

    def module(self, module: Module) -> Module:
        """Return the module, moved to the device, where it stays."""
        return module.to(self.device)

    def ahead(self, batches: Generator[Batch]) -> Generator[Batch]:
        """Return the batches, made ahead of their use where the device computes by itself (a GPU), else as they come.

        Close what is returned (`contextlib.closing`): a step that fails must not leave the thread and its batches.
        Decoding, copying and protecting then run in a thread and a stream of their own while the step before runs.
        """
        return ahead(batches, _side_stream(self.device)) if self.device.type == "cuda" else batches


HOST = Place()
"""The processor, float32."""


def autocast(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which a network's forward pass runs; it does nothing in fp32."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast("cpu" if device.type == "meta" else device.type, dtype=torch.bfloat16)


def exactly(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which a part of a network computes as it is written, inside `autocast` too."""
    return torch.autocast("cpu" if device.type == "meta" else device.type, enabled=False)


def place(word: str = "auto", precision: Precision = "fp32", batch: int | None = None) -> Place:
    """Return the place that a configuration's words name, made ready for equal bits; the same one for the same words.

    Args:
        word: "auto" (a GPU of CUDA where there is one, else the processor), "cpu", "cuda", "cuda:1" or "mps".
        precision: see `Place`.
        batch: see `Place`.

    Raises:
        fedveil.checks.UserError: no such device, with those that exist, or one that cannot compute in bfloat16.

    >>> place("cpu").device
    device(type='cpu')
    """
    checks.one_of(("fp32", "bf16"), precision=precision)
    if batch is not None:
        checks.positive(device_batch=batch)
    found = _named(word)
    if precision == "bf16" and not _has_bfloat16(found):
        raise checks.UserError(
            f"precision=bf16 needs a device that computes in bfloat16; {Place(found).name} does not. Leave it out, or "
            f"choose another device of {existing()}."
        )
    if found.type == "cuda":
        _equal_bits()
    return Place(found, precision, batch)


def existing() -> list[str]:
    """Return the devices of this machine by the words that name them."""
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]  # asks no driver that a fork would lose
    return ["cpu", *gpus, *(["mps"] if torch.backends.mps.is_available() else [])]


def shared(word: str) -> list[str]:
    """Return the words of the devices that a simulation's clients share: every GPU, unless `word` names one device.

    >>> shared("cpu"), shared("mps")
    (['cpu'], ['mps'])
    """
    there = existing() if word in ("auto", "cuda") else []
    gpus = [name for name in there if name.startswith("cuda")]
    return gpus or ["cpu" if word == "auto" else word]


def _named(word: str) -> torch.device:
    if word == "cpu":  # asks no driver anything: a process that forks later must not have
        return torch.device("cpu")
    there = existing()
    found = {"auto": "cuda:0" if "cuda:0" in there else "cpu", "cuda": "cuda:0"}.get(word, word)
    if found not in there:
        why = ""
        if found.startswith("cuda") and torch.version.cuda is None:
            why = " This build of PyTorch has no CUDA: install one that has (pytorch.org)."
        known = ["auto", "cuda", *there]
        raise checks.UserError(
            f"There is no device={word!r} here; there are {there}.{why or checks.nearest(word, known)} device=auto "
            "takes the best of them."
        )
    return torch.device(found)


def _has_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "mps":
        try:
            with torch.autocast("mps", dtype=torch.bfloat16):
                return bool(torch.ones(1, device=device).to(torch.bfloat16).item())
        except (RuntimeError, TypeError):  # macOS before 14
            return False
    return True  # a processor without the instructions emulates them


def _equal_bits() -> None:
    """Let CUDA choose the same kernels every time, and keep float32 float32 (no TensorFloat-32)."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def largest(trial: Callable[[int], object], below: int) -> int:
    """Return the largest of below/2, below/4, ... images with which `trial` does not run out of memory; 0: none.

    >>> def trial(count):
    ...     if count > 20: raise torch.OutOfMemoryError("no room")
    >>> largest(trial, 64)
    16
    """
    count = below // 2
    while count:
        try:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            trial(count)
            return count
        except torch.OutOfMemoryError:
            count //= 2
    return 0


def out_of_memory(place: Place, images: int, fits: int) -> checks.UserError:
    """Return what to tell somebody whose device has no room for a step of `images` images, of which `fits` would."""
    total = ""
    if place.device.type == "cuda":
        total = f", {torch.cuda.get_device_properties(place.device).total_memory / 2**30:.0f} GiB"
    advice = (
        f"{fits} fit: go on with `fedveil simulate --resume RUN_ID device_batch={fits}`, which computes the same steps "
        "in parts."
        if fits
        else "Not one image fits: choose a smaller model or data.size, or device=cpu."
    )
    return checks.UserError(f"{place.name}{total} ran out of memory with {images} images in a step. {advice}")


def peak_memory_mb() -> float:
    """Return the peak resident memory of this process and its largest ended child, MiB."""
    scale = 1024.0**2 if sys.platform == "darwin" else 1024.0
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(resource.getrusage(who).ru_maxrss for who in both) / scale
