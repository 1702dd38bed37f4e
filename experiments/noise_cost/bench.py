"""What noise on a grid costs beside real noise: per draw, per sum of updates, per protected image, per round.

    OMP_NUM_THREADS=1 python experiments/noise_cost/bench.py

Prints Markdown tables. Seconds are of the processor (all in this process), both kinds in turn, so that other work on
the machine disturbs little; median [smallest-largest].
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from fedveil.commands import simulate
from fedveil.federation.federation import Federation
from fedveil.privacy.noise import Kind, Noise
from fedveil.protections.dctdp import DCTDP
from fedveil.randomness import SecretStream
from fedveil.records import Update
from fedveil_strategies import private, rounds

KINDS: tuple[Kind, ...] = ("real", "grid")
ROUND = ("tracking=none", "engine=inline", "train.rounds=4", "evaluation.reference=false",
         "privacy.client.noise_multiplier=1", "privacy.client.quantile=0.5")  # fmt: skip


def timed(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def compared(works: dict[Kind, Callable[[], object]], unit: float, times: int) -> str:
    """Return two cells, and how much more the second costs, of works done in turn; the first turn warms up."""
    found: dict[Kind, list[float]] = {kind: [] for kind in works}
    for turn in range(times + 1):
        for kind, work in works.items():
            seconds = timed(work)
            if turn:
                found[kind].append(seconds / unit)
    cells = [f"{statistics.median(one):.3g} [{min(one):.3g}-{max(one):.3g}]" for one in found.values()]
    more = statistics.median(found["grid"]) - statistics.median(found["real"])
    return f"{cells[0]} | {cells[1]} | {more:+.3g}"


def added(noise: Noise, values: torch.Tensor) -> Callable[[], object]:
    return lambda: noise.added(SecretStream(os.urandom(32)), values)


def draws(times: int) -> None:
    print("\n| one value, ns | scales | values | real | grid | more |\n|---|---|---|---|---|---|")
    for law in ("gaussian", "laplace"):
        for many in (False, True):
            for count in (37_044, 280_000, 5_000_000):
                scale = torch.rand(count, dtype=torch.float64) + 0.5 if many else 1.5
                noises = {kind: Noise(kind, law, scale) for kind in KINDS}
                cut = {kind: one.addend(torch.randn(count, dtype=torch.float64)) for kind, one in noises.items()}
                works = {kind: added(noises[kind], cut[kind]) for kind in KINDS}
                label = "one each" if many else "one"
                print(f"| {law} | {label} | {count:,} | {compared(works, count / 1e9, times)} |", flush=True)


def sums(times: int) -> None:
    """Return what a coordinator does with ten clients' updates: clip, cut, sum, noise, divide."""
    print("\n| ten updates, one sum, ms | numbers | real | grid | more |\n|---|---|---|---|---|")
    for count in (280_000, 5_000_000):
        tensors = {"w": np.zeros(count, np.float32)}
        plan = rounds.Plan(1, tuple("abcdefghij"), rounds.Cohort("poisson", 1.0), 1, ("w",))
        values = np.random.default_rng(1).normal(size=count).astype(np.float32)
        answers = [Update(name, {"w": values}) for name in plan.registry]

        def work(kind: Kind, tensors=tensors, plan=plan, answers=answers) -> object:
            mechanism = private.Mechanism(1.0, clip=0.5, expected=10.0, kind=kind)
            total, voted, _ = private.bounded_sums(answers, plan, tensors, mechanism, 0.5)
            return private.released(total, voted, plan, tensors, mechanism, 0.5, SecretStream(os.urandom(32)))

        works = {kind: (lambda kind=kind: work(kind)) for kind in KINDS}
        print(f"| clip, sum and noise | {count:,} | {compared(works, 1e-3, max(2, times // 2))} |", flush=True)


def images(times: int) -> None:
    print("\n| one image of 112 pixels, ms | numbers | real | grid | more |\n|---|---|---|---|---|")
    faces = torch.randint(0, 256, (8, 3, 112, 112), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    for label, settings in (
        ("image, laplace", {}),
        ("image, gaussian", {"noise": "gaussian"}),
        ("coefficient, laplace", {"mode": "coefficient"}),
    ):
        method = DCTDP(fit_steps=0, init="zeros", **settings)
        state = method.fit(faces.numpy(), np.arange(8) % 4, 1)
        few = faces[:2] if "coefficient" in label else faces

        def work(kind: Kind, method=method, state=state, few=few) -> object:
            return method.with_noise(kind).release(few, state, [SecretStream(os.urandom(32)) for _ in few])

        works = {kind: (lambda kind=kind: work(kind)) for kind in KINDS}
        size = int(np.prod(method.representation((112, 112))))
        print(f"| {label} | {size:,} | {compared(works, len(few) / 1e3, times)} |", flush=True)


def whole(protection: str) -> None:
    """Run the default study's rounds under a client-level claim, and print what all noise takes of them."""
    spent: dict[str, float] = {}

    def counting(name: str, work: Callable[..., object]) -> Callable[..., object]:
        def counted(*given: object) -> object:
            begin = time.process_time()
            found = work(*given)
            spent[name] = spent.get(name, 0.0) + time.process_time() - begin
            return found

        return counted

    for kind in KINDS:
        spent.clear()
        plain = Noise.added, Noise.addend
        Noise.added = counting("noise", plain[0])  # type: ignore[method-assign, assignment]
        Noise.addend = counting("noise", plain[1])  # type: ignore[method-assign, assignment]
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            federation = Federation.of([*ROUND, f"protection={protection}", f"privacy.noise={kind}"])
            seconds = timed(lambda federation=federation: simulate.simulate(federation, "run", "quiet"))
            os.chdir(Path(__file__).parent)
        Noise.added, Noise.addend = plain  # type: ignore[method-assign]
        number, noise = federation.total_rounds, spent["noise"]
        cells = f"{seconds / number:.2f} | {1e3 * noise / number:.1f} | {100 * noise / seconds:.2f}"
        print(f"| {protection} | {kind} | {cells} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=7, help="turns, after one that warms up")
    parser.add_argument("--without-rounds", action="store_true", help="leave out the two runs of the default study")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    draws(asked.times)
    sums(asked.times)
    images(asked.times)
    if not asked.without_rounds:
        print("\n| default study, protection | noise | a round, s | its noise, ms | share, % |\n|---|---|---|---|---|")
        whole("none")
        whole("dctdp")
