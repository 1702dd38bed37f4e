"""Time and memory of a private training step beside a plain one: `python experiments/private_step/bench.py`.

Needs torch, numpy and what fedveil's models import; without Opacus its rows are left out with a note. Neither Flower
nor MLflow is imported. A step is what a client does with one batch: gradients, Gaussian noise on the sum (plain torch
here, so that engines are compared and not samplers), SGD. Times of all modes are taken in turn in one process, memory
in a process of each mode's own.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / name) for name in ("platform", "clients", "strategies")]  # a checkout needs no installation
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
from torch import nn  # noqa: E402

from fedveil import device as devices  # noqa: E402
from fedveil.configuration import plugins  # noqa: E402
from fedveil.models.heads.cosface import CosFace  # noqa: E402
from fedveil.private_training import base, choice, classifier  # noqa: E402

CASES = ["tiny_ir:32", "tiny_ir:64", "anchor:64", "mobilefacenet:112", "iresnet18:112"]
MODES = ["plain", "book_keeping", "low_memory", "loop", "opacus_hooks", "opacus_ghost"]
LOSS = classifier.row_losses(CosFace())
MIB = 2**20


class _Unit(nn.Module):
    """IR unit of the yardstick: norm, 3x3, norm, ReLU, 3x3 with the stride, norm; a projection where needed."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(16, channels_in), nn.Conv2d(channels_in, channels, 3, 1, 1, bias=False),
            nn.GroupNorm(16, channels), nn.ReLU(), nn.Conv2d(channels, channels, 3, stride, 1, bias=False),
            nn.GroupNorm(16, channels),
        )  # fmt: skip
        self.short: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            projection = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
            self.short = nn.Sequential(projection, nn.GroupNorm(16, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x) + self.short(x)


def anchor(size: int) -> nn.Module:
    """Return an IR network of plain torch layers in channels-first order, 5.15 M parameters with its head at 64 px."""
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, 1, 1, bias=False), nn.GroupNorm(16, 32), nn.ReLU()]
    width = 32
    for channels in (32, 64, 128, 256):
        layers += [_Unit(width, channels, 2), _Unit(channels, channels, 1)]
        width = channels
    return nn.Sequential(*layers, nn.GroupNorm(16, width), nn.Flatten(), nn.Linear(width * (size // 16) ** 2, 512))


def build(case: str, args: argparse.Namespace) -> tuple[classifier.Classifier, base.Batch]:
    """Return a network with its class centres, and a batch of noise, on the device."""
    name, size = case.split(":")[0], int(case.split(":")[1])
    torch.manual_seed(1)
    if name == "anchor":
        backbone, length = anchor(size), 512
    else:
        model = plugins.build("model", name, {})
        backbone, length = model.build(3, (size, size), torch.Generator().manual_seed(1)), model.embedding
    network = classifier.Classifier(backbone, torch.randn(args.classes, length), args.precision).to(args.device)
    inputs, labels = torch.randn(args.batch, 3, size, size), torch.randint(args.classes, (args.batch,))
    unit = torch.arange(args.batch)
    batch = base.Batch(
        inputs.to(args.device), labels.to(args.device), unit.to(args.device),
        torch.ones(args.batch, device=args.device), args.batch,
    )  # fmt: skip
    return network, batch


def engine_of(mode: str) -> base.Engine:
    """Return a mode's engine; `book_keeping:16` sets the rows of a part."""
    name, _, rows = mode.partition(":")
    return choice.engine(name, **({"rows": int(rows)} if rows else {}))


def step_of(mode: str, network: nn.Module, batch: base.Batch, args: argparse.Namespace) -> Callable[[], None]:
    """Return one training step of a mode."""
    tensors = list(network.parameters())
    clip = base.Clip(1.0)

    def plain() -> None:
        loss = LOSS(network(batch.inputs), batch.labels).mean()
        with torch.no_grad():
            torch._foreach_add_(tensors, list(torch.autograd.grad(loss, tensors)), alpha=-1e-4)

    if mode == "plain":
        return plain
    engine = engine_of(mode)

    def private() -> None:
        found = engine(network, LOSS, batch, tensors, clip)
        with torch.no_grad():
            for total in found.tensors:
                total.add_(torch.randn_like(total)).div_(args.batch)
            torch._foreach_add_(tensors, found.tensors, alpha=-1e-4)

    return private


def timed(step: Callable[[], None], device: str) -> float:
    """Return the milliseconds of a step: of the device where it has a clock, else of the processor's core."""
    if device.startswith("cuda"):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        step()
        end.record()
        torch.cuda.synchronize()
        return float(begin.elapsed_time(end))
    begun = time.process_time()  # one thread: wall time without what other processes take
    step()
    return 1e3 * (time.process_time() - begun)


def times(case: str, modes: list[str], args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return medians, smallest and largest of milliseconds and of ratios to plain, of modes in turn."""
    steps = {}
    for mode in modes:
        network, batch = build(case, args)
        steps[mode] = step_of(mode, network, batch, args)
        for _ in range(args.warm):
            steps[mode]()
    found: dict[str, list[float]] = {mode: [] for mode in modes}
    for _ in range(args.repetitions):
        for mode, step in steps.items():
            found[mode].append(timed(step, args.device))
    result = {}
    for mode, taken in found.items():
        ratios = [one / plain for one, plain in zip(taken, found["plain"], strict=True)]
        result[mode] = {
            "ms": statistics.median(taken), "ms_min": min(taken), "ms_max": max(taken),
            "ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios),
        }  # fmt: skip
    return result


def memory(case: str, mode: str, args: argparse.Namespace) -> float:
    """Return the MiB that three steps add to the built network, peak, in this process."""
    if importlib.util.find_spec("opacus") is not None and mode.startswith("opacus"):
        import opacus.grad_sample  # noqa: F401  (before the peak is read: imports are not a step's)
    network, batch = build(case, args)
    step = step_of(mode, network, batch, args)
    if args.device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / MIB
    else:
        LOSS(network(batch.inputs[:1]), batch.labels[:1]).sum().backward()  # what the libraries load on first use
        network.zero_grad(set_to_none=True)
        before = resident(forget=True)
    for _ in range(3):
        step()
    after = torch.cuda.max_memory_allocated() / MIB if args.device.startswith("cuda") else resident()
    return after - before


def resident(forget: bool = False) -> float:
    """Return the peak of resident memory in MiB; with `forget` what is resident now, and the peak begins anew."""
    if forget:
        Path("/proc/self/clear_refs").write_text("5")
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) / 1024


def child(case: str, mode: str, args: argparse.Namespace) -> float | str:
    """Return `memory` of a fresh process, or the last line of what went wrong."""
    words = [sys.executable, __file__, "--memory-of", f"{case}/{mode}", "--batch", str(args.batch)]
    words += ["--device", args.device, "--classes", str(args.classes), "--precision", args.precision]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["failed"])[-1]
    return float(done.stdout.split()[-1])


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=CASES, help="network:size")
    parser.add_argument("--modes", nargs="+", default=MODES, help="book_keeping:16 sets the rows of a part")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--classes", type=int, default=500)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--warm", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parsed()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    devices.place(args.device if args.device != "cpu" else "cpu", args.precision)  # float32 stays float32 on a GPU
    if args.memory_of:
        case, mode = args.memory_of.split("/")
        print(memory(case, mode, args))
        return
    modes = list(args.modes)
    if "plain" not in modes:
        modes.insert(0, "plain")
    if importlib.util.find_spec("opacus") is None:
        print("Opacus is not installed: its rows are left out.")
        modes = [mode for mode in modes if not mode.startswith("opacus")]
    rows: list[dict[str, Any]] = []
    for case in args.cases:
        found = times(case, modes, args)
        taken = {} if args.no_memory else {mode: child(case, mode, args) for mode in modes}
        for mode in modes:
            row: dict[str, Any] = {"case": case, "mode": mode, **found[mode]}
            line = f"{case:18s} {mode:16s} {row['ms']:8.1f} ms [{row['ms_min']:.1f}-{row['ms_max']:.1f}]"
            line += f"  x {row['ratio']:.2f} [{row['ratio_min']:.2f}-{row['ratio_max']:.2f}]"
            if mode in taken:
                row["mib"] = taken[mode]
                plain = taken["plain"]
                if isinstance(taken[mode], float) and isinstance(plain, float):
                    row["memory_ratio"] = taken[mode] / max(plain, 1e-9)
                    line += f"  {taken[mode]:8.1f} MiB  x {row['memory_ratio']:.2f}"
                else:
                    line += f"  {taken[mode]}"
            rows.append(row)
            print(line, flush=True)
    if args.json:
        about = {
            "torch": torch.__version__, "device": args.device, "precision": args.precision, "batch": args.batch,
            "name": torch.cuda.get_device_name() if args.device.startswith("cuda") else os.uname().machine,
        }  # fmt: skip
        args.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
