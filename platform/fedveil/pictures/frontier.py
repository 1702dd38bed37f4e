"""The picture of a sweep: accuracy against the privacy budget, a line per series, infinity at the right edge."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedveil import checks
from fedveil.pictures import style


@dataclasses.dataclass(frozen=True)
class Point:
    """One setting of a sweep.

    Attributes:
        epsilon: in nats; None without a guarantee, drawn at the right edge.
        mean: mean accuracy over seeds, 0..1.
        sd: standard deviation over seeds (n - 1); None for one seed.
        seeds: how many.
    """

    epsilon: float | None
    mean: float
    sd: float | None
    seeds: int


def frontier(
    path: Path, lines: Mapping[str, Sequence[Point]], axis: str, meaningful: float, chance: float = 0.5
) -> Path:
    """Draw mean accuracy over epsilon (logarithmic), with bars of one standard deviation over seeds.

    Args:
        path: PNG to write.
        lines: name of a series -> its points in any order.
        axis: what the epsilon is of, with relation and delta: the label below the axis.
        meaningful: largest epsilon that still says something; marked.
        chance: accuracy of guessing.

    Returns:
        `path`.

    Raises:
        UserError: no point at all, or an epsilon that is not positive.
    """
    points = [point for line in lines.values() for point in line]
    checks.positive(points_drawn=len(points))
    finite = [point.epsilon for point in points if point.epsilon is not None]
    for epsilon in finite:
        checks.positive(epsilon=epsilon)
    low, high = math.log10(min([*finite, meaningful])), math.log10(max([*finite, meaningful]))
    edge = 10 ** (high + max(0.5, 0.15 * (high - low)))
    figure, axes = style.figure(7.2, 4.4, "Accuracy against privacy budget (a smaller epsilon protects more)")
    panel = axes[0, 0]
    panel.set_xscale("log")
    panel.axhline(chance, color=style.GREY, linestyle=":", linewidth=1.2, label="guessing")
    panel.axvspan(meaningful, edge * 2, color="#F4F4F4", zorder=0)
    for number, (name, line) in enumerate(lines.items()):
        colour, marker = style.series(number)
        ordered = sorted(line, key=lambda point: math.inf if point.epsilon is None else point.epsilon)
        across = [edge if point.epsilon is None else point.epsilon for point in ordered]
        panel.errorbar(
            across, [point.mean for point in ordered], [point.sd or 0.0 for point in ordered],
            color=colour, marker=marker, markersize=5, capsize=3, linewidth=1.4, label=name,
        )  # fmt: skip
    ticks = [10.0**power for power in range(math.floor(low), math.floor(high) + 1)]
    panel.set_xticks([*ticks, edge], [*(f"{tick:g}" for tick in ticks), "∞"])
    panel.minorticks_off()
    panel.set_xlim(10 ** (low - 0.1), edge * 1.3)
    counts = sorted({point.seeds for point in points})
    over = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
    bars = f"mean, bars: 1 sd over seeds, {over}" if counts[-1] > 1 else "one seed: no bars"
    panel.legend(fontsize=8, frameon=False, title=bars, title_fontsize=8)
    said = f" above {meaningful:g}: no meaningful guarantee"
    panel.text(meaningful, 0.01, said, fontsize=7, color=style.INK, transform=panel.get_xaxis_transform())
    style.label(panel, f"{axis}; ∞: no guarantee", "verification accuracy")
    return style.save(figure, path)
