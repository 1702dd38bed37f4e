"""The linear attack on LFW: what leaves of a face, inverted by linear algebra, without a run and without training.

    python experiments/attacks/linear.py spectrum --lfw lfw112_jpeg.npz           # 112 px: which patterns are told
    python experiments/attacks/linear.py noisy --lfw lfw112_jpeg.npz              # 112 px: DCTDP as published
    python experiments/attacks/linear.py judged --lfw lfw112_jpeg.npz --judge judge.onnx   # 64 px: who is linked

`spectrum` inverts channels of 100 people's pictures, in float64 and as they are sent. `noisy` does so under the noise
of DCTDP's mode coefficient with an even budget. `judged` runs `attack=linear` with a recogniser of random weights in
place of a run's, so that `replayed` means nothing and is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from fedveil import frequency
from fedveil.attacks._linear_known import Known, map_of, sent
from fedveil.attacks._linear_order import Orders
from fedveil.attacks._linear_prior import LeastSquares, learn, planes_of
from fedveil.attacks._target import Target
from fedveil.attacks.linear import Linear
from fedveil.federation.federation import Federation
from fedveil.protections import _duet, partialface
from fedveil.protections._coefficient import CoefficientMechanism
from fedveil.protections._linear import LinearMap

SETS = {
    "all 192": tuple(range(64)), "63 AC (DCTDP)": frequency.AC, "54 of DuetFace": _duet.SERVER,
    "54 of PartialFace": partialface.KEPT,
    **{f"nine of PartialFace, {index + 1}": subset for index, subset in enumerate(partialface.PUBLISHED)},
}  # fmt: skip
JUDGED = {
    "none": (), "dct": (), "dctdp, image epsilon 1,000": (),
    "dctdp, mean epsilon 0.5": ("protection.mode=coefficient",),
    "duetface": ("protection.client_rounds=0", "protection.fit_steps=1"), "partialface": (), "minusface": (),
    "advface": (),
}  # fmt: skip


def words(place: str, size: int) -> list[str]:
    """Return the words of LFW."""
    return ["data=lfw", f"data.root={place}", f"data.size={size}", "data.min_images=4"]


def psnr(found: torch.Tensor, true: torch.Tensor) -> float:
    """Return the mean PSNR of planes (B, ...), dB, range 255; unlike the library's it is not cut at 100."""
    mse = (found - true).square().flatten(1).mean(1)
    return float((10 * torch.log10(255.0**2 / mse.clamp(min=1e-30))).mean())


def faces(place: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures (count, 3, 112, 112) of people to attack, and 400 of the attacker's own people."""
    people = Federation.of(words(place, 112)).split.strangers
    assert people is not None
    who = np.random.default_rng(1).permutation(people.identities)
    first = np.array([np.flatnonzero(people.labels == one)[0] for one in who[: count + 400]])
    return people.images(first[:count]), people.images(first[count:])


def noisy(place: str, count: int, out: Path) -> None:
    """Print, for each mean epsilon, the PSNR of luminance with its true mean."""
    pictures, own = faces(place, count)
    planes, prior = planes_of(pictures), learn(own, 200)
    level = planes.mean((2, 3), keepdim=True)
    guess = prior.mean - prior.mean.mean((1, 2), keepdim=True) + level
    print(f"mean face: {psnr(guess[:, :1], planes[:, :1]):.2f} dB")
    for epsilon in (0.5, 1.0, 4.0, 16.0):
        scales = CoefficientMechanism(epsilon, True).scales({"weights": torch.ones(189, 1, 1)}, (112, 112))
        known = LinearMap("upsampled", (frequency.AC,), noise=2 * scales.square())
        draws = torch.Generator().manual_seed(1)
        released = torch.empty(count, 189, 112, 112)
        for index, picture in enumerate(torch.from_numpy(pictures)):
            uniform = torch.rand(scales.shape, generator=draws).sub_(0.5)
            laplace = -uniform.sign() * torch.log1p(-2 * uniform.abs().clamp(max=0.4999999))
            released[index] = frequency.upsampled_dct(picture[None], frequency.AC)[0] + scales * laplace
        asked = Known(known, (112, 112), prior, released[:16])
        found = asked.levelled(asked.posterior(released), level[:, :, 0, 0])
        squares = asked.levelled(asked.least_squares(released), level[:, :, 0, 0])
        row = {"mean_epsilon": epsilon, "posterior": psnr(found[:, :1], planes[:, :1]),
               "least_squares": psnr(squares[:, :1], planes[:, :1])}  # fmt: skip
        print(json.dumps(row), flush=True)
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")


def spectrum(place: str, count: int, out: Path) -> None:
    """Print a row for each set of channels: rank, condition, PSNR of luminance with its true mean, by what is sent."""
    pictures, own = faces(place, count)
    planes, prior = planes_of(pictures), learn(own, 100)
    level = planes.mean((2, 3), keepdim=True)
    for name, order in SETS.items():
        known = LinearMap("upsampled", (tuple(sorted(order)),))
        linear = map_of(known, known.orders[0], (112, 112))
        rank, condition = linear.spectrum()
        begun = time.process_time()
        squares = LeastSquares(linear)
        ready = time.process_time()

        def centred(found: torch.Tensor) -> torch.Tensor:
            return (found - found.mean((2, 3), keepdim=True) + level)[:, :1]

        exact = torch.cat([squares(linear.forward(part)) for part in planes.split(10)])
        row: dict[str, Any] = {
            "channels": name, "rank": rank, "condition": condition, "float64": psnr(centred(exact), planes[:, :1]),
            "factor_s": ready - begun,
        }  # fmt: skip
        released = torch.cat([frequency.upsampled_dct(torch.from_numpy(part), known.orders[0]) for part in
                              (pictures[i : i + 10] for i in range(0, count, 10))])  # fmt: skip
        asked = Known(known, (112, 112), prior, released[:16])
        for how in ("float32", "float16", "8 bit"):
            begun = time.process_time()
            plain = torch.cat([squares(linear.observed(sent(part, how))) for part in released.split(10)])
            row[f"{how} s/image"] = (time.process_time() - begun) / count
            row[how] = psnr(centred(plain), planes[:, :1])
            row[f"{how} prior"] = psnr(centred(asked.posterior(sent(released, how), how)), planes[:, :1])
        print(json.dumps(row), flush=True)
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")
    orders = partialface.PartialFace().linear(
        (112, 112), partialface.PartialFace(table="published").fit(pictures[:1], torch.zeros(1).numpy(), 1)
    ).orders
    told = Orders(orders, (112, 112), True)
    index = torch.arange(count) % len(orders)
    released = torch.cat([frequency.upsampled_dct(torch.from_numpy(pictures[i : i + 1]), orders[index[i]])
                          for i in range(count)])  # fmt: skip
    begun = time.process_time()
    right = (told.identify(released) == index).double().mean()
    print(f"orders found: {float(right):.3f}, {(time.process_time() - begun) / count:.4f} CPU s an image")


def judged(place: str, judge: str, only: list[str], out: Path) -> None:
    """Run the attack on methods at 64 px and keep each finding."""
    for name, more in JUDGED.items():
        if only and name.split(",")[0] not in only:
            continue
        federation = Federation.of([*words(place, 64), f"protection={name.split(',')[0]}", *more])
        method, public = federation.protection, federation.split.public
        state = method.fit(public.images(), public.labels, 1) if method.needs_fit else {}
        target = Target(federation, state, federation.backbone().eval())
        begun = time.process_time()
        finding = Linear(judge=judge).run(target).to_dict()
        finding["settings"]["judge"] = Path(judge).name
        finding["measures"] = [found for found in finding["measures"] if found["name"] != "replayed"]
        row = {"method": name, "cpu_s": time.process_time() - begun, **finding}
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        told = {found["name"]: found["value"] for found in finding["measures"]}
        print(name, json.dumps(told), finding["notes"][-2:], finding["seconds_per_image"], row["cpu_s"], flush=True)


def main() -> None:
    """Run one of the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("spectrum", "noisy", "judged"))
    parser.add_argument("--lfw", required=True)
    parser.add_argument("--judge", help="ONNX recogniser")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=Path("linear.jsonl"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.part == "spectrum":
        spectrum(chosen.lfw, chosen.images, chosen.out)
    elif chosen.part == "noisy":
        noisy(chosen.lfw, chosen.images, chosen.out)
    elif chosen.judge is None:
        parser.error("judged needs --judge FILE.onnx")
    else:
        judged(chosen.lfw, chosen.judge, chosen.only, chosen.out)


if __name__ == "__main__":
    main()
