"""The study's table and figure, from finished cells and the measured costs."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

NAMES = {
    "none": "none: the image", "dct": "all 192 channels", "dctdp": "DCTDP, image epsilon 1,000", "duetface": "DuetFace",
    "partialface": "PartialFace", "minusface": "MinusFace", "advface": "AdvFace, both sides protected",
}  # fmt: skip
CLEAN = "AdvFace, protected and clean"
PUBLISHED = {  # LFW, IResNet-50, MS1Mv2: table 1 of PartialFace and of MinusFace, which re-runs DCTDP and AdvFace
    "none": 99.77, "dct": 99.78, "dctdp": 99.77, "duetface": 99.82, "partialface": 99.80, "minusface": 99.78,
    "advface": 98.45,
}  # fmt: skip
FITTED = ("dctdp", "duetface", "minusface", "advface")  # training changes the values of their state, not its cost
Cell = Mapping[str, Any]


def costs(out: Path, words: Mapping[str, Sequence[str]], size: int) -> dict[str, dict[str, float]]:
    """Return payload, parameters and seconds of one image alone under every method, measured once and kept.

    Args:
        out: folder of costs.json.
        words: method -> its settings.
        size: height and width of the image, pixels.
    """
    path = out / "costs.json"
    if not path.exists():
        import torch

        from fedveil import config
        from fedveil.commands import methods

        torch.set_num_threads(1)
        quick = {arm: [*words[arm], *(["protection.fit_steps=1"] if arm in FITTED else [])] for arm in words}
        made = {arm: config.build(config.load(quick[arm]), "protection") for arm in words}
        found = {arm: dataclasses.asdict(methods.measure(protection, size)) for arm, protection in made.items()}
        path.write_text(json.dumps(found, indent=1) + "\n")
    kept: dict[str, dict[str, float]] = json.loads(path.read_text())
    return kept


def rows(done: Iterable[Cell], arms: Iterable[str]) -> dict[str, list[Cell]]:
    """Return the cells of every row of the table, AdvFace's clean gallery among them."""
    found: dict[str, list[Cell]] = {}
    every = list(done)
    for arm in arms:
        cells = [cell for cell in every if cell["arm"] == arm]
        if cells:
            found[NAMES.get(arm, arm)] = cells
        if cells and arm == "advface":
            found[CLEAN] = [{**cell, **cell["adv/clean"]} for cell in cells]
    return found


def against(cells: Iterable[Cell], other: Iterable[Cell], key: str = "accuracy") -> tuple[float, float, int]:
    """Return the mean difference over the folds and seeds that both have, its standard error over seeds, their number.

    Seeds of one fold share people and pairs, so the error is that of the seeds' means over folds: what other seeds
    would change on these folds. What other folds would change is not in it.
    """
    base = {(cell["fold"], cell["seed"]): cell[key] for cell in other}
    found = [
        {**cell, "difference": cell[key] - base[cell["fold"], cell["seed"]]}
        for cell in cells
        if (cell["fold"], cell["seed"]) in base
    ]
    means = seed_means(found, "difference")
    error = float(np.std(means, ddof=1)) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    return float(np.mean([cell["difference"] for cell in found])) if found else math.nan, error, len(found)


def seed_means(cells: Sequence[Cell], key: str) -> list[float]:
    """Return the mean over folds of every seed that has all the folds which any seed has."""
    folds = {cell["fold"] for cell in cells}
    by_seed: dict[int, dict[int, float]] = {}
    for cell in cells:
        by_seed.setdefault(cell["seed"], {})[cell["fold"]] = cell[key]
    return [float(np.mean(list(found.values()))) for found in by_seed.values() if set(found) == folds]


def spreads(cells: Sequence[Cell]) -> tuple[str, str]:
    """Return the standard deviations over seeds (of the mean over folds) and over draws (within a cell), in points."""
    means = seed_means(cells, "accuracy")
    draws = [cell["draw_sd"] for cell in cells if cell["draw_sd"] is not None]
    return (
        f"{100 * np.std(means, ddof=1):.1f}" if len(means) > 1 else "-",
        f"{100 * np.sqrt(np.mean(np.square(draws))):.1f}" if draws else "-",
    )


def _mean(cells: Iterable[Cell], key: str) -> float:
    return 100.0 * float(np.mean([cell[key] for cell in cells]))


def _with_error(mean: float, error: float, sign: str) -> str:
    return f"{100 * mean:{sign}.1f} ({'-' if math.isnan(error) else format(100 * error, '.1f')})"


def _tar(cells: Iterable[Cell]) -> str:
    rates = [rate for cell in cells if isinstance(rate := cell["tar"].get("0.01"), float)]
    return f"{100 * np.mean(rates):.1f}" if rates else "-"


def table(done: Sequence[Cell], cost: Mapping[str, Mapping[str, float]], arms: Iterable[str]) -> str:
    """Return the Markdown table: means over folds and seeds; every spread is named."""
    lines = [
        "| method | accuracy, % | sd over seeds | sd over draws | less than the image, points (s.e. over seeds) "
        "| AUC, % | EER, % | TAR at FAR 0.01, % | bytes an image | ms, one image alone | extra parameters "
        "| CPU s a cell | cells | published, % |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    found = rows(done, arms)
    for name, cells in found.items():
        arm = cells[0]["arm"]
        mean, error, count = against(cells, found.get(NAMES["none"], []))
        less = "-" if arm == "none" or not count else _with_error(-mean, error, "")
        one, published = cost[arm], "-" if name == CLEAN else f"{PUBLISHED[arm]:.2f}"
        lines.append(
            f"| {name} | {_mean(cells, 'accuracy'):.1f} | {' | '.join(spreads(cells))} | {less} "
            f"| {_mean(cells, 'auc'):.1f} | {_mean(cells, 'eer'):.1f} | {_tar(cells)} | {one['payload']:,.0f} "
            f"| {1000 * one['seconds']:.2f} | {one['parameters']:,.0f} "
            f"| {np.mean([cell['cpu_seconds'] for cell in cells]):.0f} | {len(cells)} | {published} |"
        )
    return "\n".join(lines)


def ablations(done: Sequence[Cell], variants: Iterable[str]) -> str:
    """Return the Markdown table of variants, each against its method on the folds and seeds that both have."""
    lines = [
        "| variant | accuracy, % | AUC, % | more than the method, points of AUC (s.e. over seeds) | cells |",
        "|---|---|---|---|---|",
    ]
    for name, cells in rows(done, variants).items():
        method = [cell for cell in done if cell["arm"] == name.partition(",")[0]]
        mean, error, count = against(cells, method, "auc")
        lines.append(
            f"| {name} | {_mean(cells, 'accuracy'):.1f} | {_mean(cells, 'auc'):.1f} "
            f"| {_with_error(mean, error, '+')} | {count} |"
        )
    return "\n".join(lines)


def figure(
    done: Sequence[Cell], cost: Mapping[str, Mapping[str, float]], arms: Iterable[str], size: int, path: Path
) -> None:
    """Draw every cell's accuracy, a line per method, with the mean, and what one image costs beside it."""
    from matplotlib.figure import Figure

    found = rows(done, arms)
    drawn = Figure(figsize=(7.6, 0.45 * len(found) + 1.3), layout="constrained")
    axes = drawn.subplots()
    for place, cells in enumerate(found.values()):
        for cell in cells:
            axes.plot(100 * cell["accuracy"], place, "o", ms=4, mfc="none", mec="#0072B2", alpha=0.8)
        axes.plot(_mean(cells, "accuracy"), place, "|", ms=18, mew=2.5, color="#D55E00")
        one = cost[cells[0]["arm"]]
        milliseconds = 1000 * one["seconds"]
        text = f"{one['payload'] / 1e3:,.0f} kB, {milliseconds:,.{0 if milliseconds >= 10 else 2}f} ms"
        axes.annotate(text, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8, color="0.3")
    axes.set_yticks(range(len(found)), found, fontsize=9)
    axes.invert_yaxis()
    axes.axvline(50, color="0.5", ls=":")
    axes.set_xlabel("verification accuracy, % (guessing: 50); circles: folds and seeds, bar: their mean", fontsize=9)
    axes.set_title(f"LFW, {size} px, ten silos, one recipe; right: what leaves per image, and its time", fontsize=10)
    axes.grid(axis="x", alpha=0.3)
    drawn.savefig(path, dpi=120)
