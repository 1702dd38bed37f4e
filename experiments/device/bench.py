"""Images per second of a client's training loop on a GPU, beside the same step in plain torch: `python bench.py`.

Needs torch with CUDA, numpy, scipy, pillow, omegaconf, dp-accounting and cryptography; Flower, MLflow and Opacus are
not imported. Everything is random and made here. Both sides train the same network in bfloat16 with the same margin
head and batches of the same size. The plain step finds its batch on the device; fedveil's fetches uint8 images from
memory, copies, protects and feeds them. Timed in turn are the plain step with torch's own norms, which is the step
without fedveil; the plain step of fedveil's network, whose norms are fused; fedveil with its steps launched one by one;
and fedveil as it trains, its step a CUDA graph.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / name) for name in ("platform", "clients", "strategies")]  # a checkout needs no installation

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as functional  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from fedveil import device  # noqa: E402
from fedveil.federation import graphs, training  # noqa: E402
from fedveil.federation.federation import Federation  # noqa: E402
from fedveil.federation.tensors import get_tensors  # noqa: E402
from fedveil.models.backbones import _fused  # noqa: E402
from fedveil_clients import sites  # noqa: E402
from fedveil_clients import training as client  # noqa: E402
from fedveil_clients.policy import Node  # noqa: E402

DATASHEET = {"H100": 989.0, "H200": 989.0, "A100": 312.0}  # TFLOP/s of dense bfloat16 products


def random_faces(folder: Path, people: int, each: int, size: int) -> Path:
    """Write a packed file of noise, for which a person is only a label."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (people * each, size, size, 3), np.uint8)
    names = np.array([f"p{number:05d}" for number in range(people)])
    np.savez(folder / "faces.npz", images=images, labels=np.repeat(np.arange(people), each), names=names)
    return folder / "faces.npz"


def open_client(args: argparse.Namespace, folder: Path, model: str, protection: str) -> tuple[sites.Site, Any]:
    """Return one client over all of the random faces, ready to train, and its global tensors."""
    words = [
        f"data.path={folder / 'faces.npz'}", "data=packed", f"data.size={args.size}", "data.evaluation=procedural",
        "data.pairs=4", f"model={model}", "head=arcface", "head.scale=64", "head.margin=0.5",
        f"protection={protection}", "train.clients=1", f"train.batch_size={args.batch}", f"device={args.device}",
        f"precision={args.precision}", f"vault.root={folder / 'vault'}", f"train.local.steps={args.steps}",
        "train.lr=0.01", "train.head_lr=0.01",
    ]  # fmt: skip
    if protection == "dctdp":
        words += ["protection.fit_steps=0", "protection.init=zeros"]
    federation = Federation.of(words)
    public = federation.split.public
    federation.split.train.images()  # unpacked once: a decoder's speed is not what is measured
    state = federation.protection.fit(public.images(), public.labels, 1)
    node = Node(
        "bench", allow_test_seed=True, simulated=True, data_root=str(folder / "faces.npz"),
        vault_root=str(folder / "vault"), device=args.device,
    )  # fmt: skip
    run = f"{model}-{protection}"
    return sites.open_site(federation, run, federation.registry[0], node, state), get_tensors(federation.backbone())


def plain_steps(network: torch.nn.Module, centres: torch.Tensor, batch: Any, steps: int, args: Any) -> float:
    """Take `steps` steps as one would write them without fedveil; return seconds."""
    features, labels = batch
    parameters = [*network.parameters(), centres]
    optimiser = torch.optim.SGD(parameters, lr=0.01, weight_decay=5e-4)
    kind = features.device.type
    wait(kind)
    begun = time.perf_counter()
    for _ in range(steps):
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=args.precision == "bf16"):
            embeddings = network(features)
        cosine = functional.normalize(embeddings.float()) @ functional.normalize(centres).T
        right = cosine.gather(1, labels[:, None]).clamp(-0.999, 0.999)
        logits = 64.0 * cosine.scatter(1, labels[:, None], torch.cos(torch.acos(right) + 0.5))
        loss = functional.cross_entropy(logits, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    wait(kind)
    return time.perf_counter() - begun


def our_steps(site: sites.Site, centres: torch.Tensor, first: int, steps: int) -> float:
    """Take `steps` steps of a client's round; return seconds."""
    settings = site.federation.settings
    indices = training.batch_indices(
        int(site.labels.numel()), settings.train.batch_size, 1, "batches", "bench", start_step=first, steps=steps
    )
    kind = site.place.device.type
    wait(kind)
    begun = time.perf_counter()
    training.local_sgd(
        site.backbone, centres, site.federation.head, site.place.ahead(client._batches(site, indices, first)), 0.01,
        weight_decay=5e-4, centre_lr=0.01, trainable=site.allowed, precision=site.place.precision,
    )  # fmt: skip
    wait(kind)
    return time.perf_counter() - begun


def feeding_alone(site: sites.Site, steps: int) -> float:
    """Return the seconds that fetching, copying and protecting take without a network behind them."""
    indices = training.batch_indices(
        int(site.labels.numel()), site.federation.settings.train.batch_size, 1, "batches", "alone", steps=steps
    )
    kind = site.place.device.type
    wait(kind)
    begun = time.perf_counter()
    for _ in site.place.ahead(client._batches(site, indices, 0)):
        pass
    wait(kind)
    return time.perf_counter() - begun


def wait(kind: str) -> None:
    """Wait until a device has done what it was asked."""
    if kind == "cuda":
        torch.cuda.synchronize()


def flops_per_image(federation: Federation) -> float:
    """Return the floating-point operations of a training step per image: forward once, backward twice that."""
    shape = (1, *federation.protection.layout(federation.size))
    network = federation.backbone().to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(shape, device="meta"))
    return 3.0 * counter.get_total_flops()


def peak(kind: str) -> float | None:
    """Return TFLOP/s of a large bfloat16 product of random numbers on this device."""
    if kind != "cuda":
        return None
    left, right = (torch.randn(8192, 8192, device=kind, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        left @ right
    wait(kind)
    begun = time.perf_counter()
    for _ in range(20):
        left @ right
    wait(kind)
    return 20 * 2 * 8192**3 / (time.perf_counter() - begun) / 1e12


def compare(args: argparse.Namespace, folder: Path, model: str, protection: str) -> dict[str, Any]:
    """Return one row: both sides in turn, after a warm-up of each."""
    began = time.perf_counter()
    site, tensors = open_client(args, folder, model, protection)
    place = site.place
    kind = place.device.type
    classes = site.classes
    count = min(args.batch, int(site.labels.numel()))
    generator = torch.Generator().manual_seed(1)
    centres = place.fed(training.head_init(classes, site.federation.model.embedding, generator))
    plain = place.module(site.federation.backbone())
    own = centres.clone().requires_grad_()
    features = torch.randn(count, *site.layout, generator=generator).to(place.device)
    labels = torch.randint(classes, (count,), generator=generator).to(place.device)
    opened = time.perf_counter() - began

    def without(steps: int, first: int) -> float:
        with own_norms():
            return plain_steps(plain, own, (features, labels), steps, args)

    def launched(steps: int, first: int) -> float:
        graphs.USED = False
        try:
            return our_steps(site, centres, first, steps)
        finally:
            graphs.USED = True

    ways: dict[str, Callable[[int, int], float]] = {
        "without": without,
        "plain": lambda steps, first: plain_steps(plain, own, (features, labels), steps, args),
        "eager": launched,
        "graph": lambda steps, first: our_steps(site, centres, first, steps),
    }
    for way in ways.values():
        way(graphs.WARM + 2, 0)
    if kind == "cuda":
        torch.cuda.reset_peak_memory_stats()
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for repetition in range(args.repetitions):
        for name, way in ways.items():
            speeds[name].append(args.steps * count / way(args.steps, repetition * args.steps))
    middle = {name: statistics.median(found) for name, found in speeds.items()}
    round_begun = time.perf_counter()
    client.train_round(site, 1, tensors)  # sets the tensors, trains, fetches the update
    whole = args.steps * count / (time.perf_counter() - round_begun)
    flops = flops_per_image(site.federation)
    row: dict[str, Any] = {
        "model": model, "protection": protection, "channels": site.layout[0], "batch": count,
        "images_per_second": middle, "ranges": {name: [min(found), max(found)] for name, found in speeds.items()},
        "ratio_to_without": spread(speeds["graph"], speeds["without"]),
        "ratio_to_plain": spread(speeds["graph"], speeds["plain"]),
        "eager_to_plain": spread(speeds["eager"], speeds["plain"]),
        "graphs": sum(one.graph is not None for one in graphs._recordings),
        "round_images_per_second": whole,
        "feeding_images_per_second": args.steps * count / feeding_alone(site, args.steps),
        "gflop_per_image": flops / 1e9, "tflops": {name: speed * flops / 1e12 for name, speed in middle.items()},
        "seconds_to_open": opened,
    }  # fmt: skip
    if kind == "cuda":
        row["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
    graphs.forget()  # their memory is the next row's
    return row


def spread(ours: list[float], theirs: list[float]) -> list[float]:
    """Return the median, least and largest ratio of two that were measured in turn."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return [statistics.median(ratios), min(ratios), max(ratios)]


@contextlib.contextmanager
def own_norms() -> Iterator[None]:
    """Let networks use torch's own norms."""
    usable = _fused.usable
    _fused.usable = lambda x, groups: False
    try:
        yield
    finally:
        _fused.usable = usable


def tuned(args: argparse.Namespace, folder: Path, model: str) -> dict[str, Any]:
    """Return the speed of the plain step with kernels chosen by trial, which equal bits forbid."""
    site, _ = open_client(args, folder, model, "none")
    place = site.place
    plain = place.module(site.federation.backbone())
    count = min(args.batch, int(site.labels.numel()))
    features = torch.randn(count, *site.layout).to(place.device)
    labels = torch.randint(site.classes, (count,)).to(place.device)
    centres = place.fed(torch.randn(site.classes, site.federation.model.embedding)).requires_grad_()
    speeds = {}
    for name, fused in (("fused norms by trial", True), ("torch norms by trial", False)):
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = True, False
        with contextlib.nullcontext() if fused else own_norms():
            plain_steps(plain, centres, (features, labels), 5, args)
            found = [plain_steps(plain, centres, (features, labels), args.steps, args) for _ in range(3)]
        speeds[name] = args.steps * count / statistics.median(found)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    return {"model": model, **speeds}


def differences(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield how far the device is from the processor: features of protections, and an update of a few steps."""
    import dataclasses

    from fedveil import randomness
    from fedveil.configuration import plugins
    from fedveil.data.sources.procedural import draw_faces
    from fedveil.protections.base import Visit

    there = device.place(args.device)
    faces = draw_faces(1, 0, identities=6, images_per_identity=4, size=32)
    pixels, labels = faces.images(np.arange(24)), np.asarray(faces.labels)
    for name in plugins.names("protection"):
        known = {field.name for field in dataclasses.fields(plugins.method("protection", name))}
        quick = {k: v for k, v in {"fit_steps": 5, "memoise": False}.items() if k in known}
        protection = plugins.build("protection", name, quick)
        state = protection.fit(pixels, labels, 1)
        model = plugins.build("model", "tiny_ir", {"width": 16, "embedding": 32})
        found = []
        for place in (device.HOST, there):
            streams = [randomness.SecretStream(randomness.test_key(1, "bench", i)) for i in range(24)]
            visit = Visit(streams, [bytes([label]) for label in labels.tolist()])
            fed = place.fed(protection.training_features(place.put(pixels), place.state(state), visit)).detach()
            size = (int(pixels.shape[2]), int(pixels.shape[3]))
            network = place.module(protection.network(model, size, torch.Generator().manual_seed(1)))
            centres = place.fed(training.head_init(6, 32, torch.Generator().manual_seed(2)))
            before = get_tensors(network)
            batch = (fed, place.fed(torch.from_numpy(labels)))
            training.local_sgd(network, centres, plugins.build("head", "arcface", {}), [batch] * 5, 0.05)
            update = np.concatenate([(v - before[k]).ravel() for k, v in get_tensors(network).items()])
            found.append((fed.cpu().numpy(), update))
        (ours, one), (theirs, other) = found
        yield {
            "protection": name,
            "features_largest": float(np.abs(ours - theirs).max()),
            "features_relative": float(np.linalg.norm(ours - theirs) / np.linalg.norm(ours)),
            "update_relative": float(np.linalg.norm(one - other) / np.linalg.norm(one)),
        }


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--models", default="iresnet50,iresnet100")
    parser.add_argument("--protections", default="none,dctdp,partialface")
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--people", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=110.0, help="begin nothing new after this time")
    parser.add_argument("--json", type=Path, default=Path("device.json"))
    args = parser.parse_args()
    began = time.perf_counter()
    place = device.place(args.device, args.precision)
    top = peak(place.device.type)
    sheet = next((value for name, value in DATASHEET.items() if name in place.name), None)
    result: dict[str, Any] = {
        "device": place.name, "torch": torch.__version__, "precision": args.precision, "size": args.size,
        "measured_peak_tflops": top, "datasheet_tflops": sheet, "rows": [], "repeatability": [], "differences": [],
        "left_out": [],
    }  # fmt: skip
    print(f"{place.name}, torch {torch.__version__}, peak {top or float('nan'):.0f} TFLOP/s (datasheet {sheet})")
    print(
        f"batches of {args.batch}; images/s without fedveil (torch's norms), plain (fused), fedveil eager, as graph"
    )
    print(
        f"{'':24}{'without':>8}{'plain':>8}{'eager':>8}{'graph':>8}  of without [min, max]   of plain [min, max]    "
        "MFU p/g      feed  round   GiB"
    )

    def attempt(name: str, work: Any) -> None:
        if time.perf_counter() - began > args.seconds:
            result["left_out"].append(f"{name}: no time")
            return
        try:
            work()
        except Exception as error:  # one row that fails must not cost the others, which a lease pays for
            result["left_out"].append(f"{name}: {type(error).__name__}: {error}")
            print(f"{name}: {type(error).__name__}: {error}")
        args.json.write_text(json.dumps(result, indent=1))

    def row(model: str, protection: str) -> None:
        found = compare(args, folder, model, protection)
        result["rows"].append(found)
        of = sheet or top or float("nan")
        speeds = "".join(f"{speed:8.0f}" for speed in found["images_per_second"].values())
        ratios = "   ".join(
            f"{middle:.3f} [{low:.3f}, {high:.3f}]"
            for middle, low, high in (found["ratio_to_without"], found["ratio_to_plain"])
        )
        print(
            f"{model + ' ' + protection:24}{speeds}  {ratios}   "
            f"{100 * found['tflops']['plain'] / of:4.1f}/{100 * found['tflops']['graph'] / of:4.1f} % "
            f"{found['feeding_images_per_second']:7.0f} {found['round_images_per_second']:6.0f} "
            f"{found.get('peak_memory_gib', float('nan')):5.1f}",
            flush=True,
        )

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random_faces(folder, args.people, 16, args.size)
        for number, model in enumerate(args.models.split(",")):
            for protection in args.protections.split(","):
                attempt(f"{model} {protection}", lambda m=model, p=protection: row(m, p))
            if not number:  # before the slow rows, which time may not be left for
                attempt("differences", lambda: result["differences"].extend(differences(args)))
        for model in args.models.split(","):
            attempt(f"{model} by trial", lambda m=model: result["repeatability"].append(tuned(args, folder, m)))
    for found in [*result["repeatability"], *result["differences"]]:
        print(", ".join(f"{k} {v:.3g}" if isinstance(v, float) else str(v) for k, v in found.items()))
    print(f"{time.perf_counter() - began:.0f} s; left out: {result['left_out'] or 'nothing'}; {args.json}")


if __name__ == "__main__":
    main()
