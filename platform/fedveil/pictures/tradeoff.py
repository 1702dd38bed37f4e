"""What accuracy costs: panels of accuracy against a budget or against what an attack recovers, on one scale.

Left is better for whoever is pictured, up for whoever recognises. Panels are data, so that a page that can be hovered
and this file's PNG show the same.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fedveil import checks
from fedveil.pictures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHANCE = 0.5
"""Accuracy of guessing on as many pairs of one person as of two."""


@dataclasses.dataclass(frozen=True)
class Spot:
    """One setting in a panel.

    Attributes:
        method: the series' name.
        place: the series' number, which gives colour and marker (`style.series`).
        x: epsilon in nats, or an attack's measure; None without a guarantee, drawn at the right edge of a budget.
        low: lower end of the interval of `x`, or None.
        high: upper end, or None.
        y: mean accuracy over seeds, 0..1.
        sd: standard deviation over seeds (n - 1), or None for one seed.
    """

    method: str
    place: int
    x: float | None
    low: float | None
    high: float | None
    y: float
    sd: float | None


@dataclasses.dataclass(frozen=True)
class Panel:
    """One plot.

    Attributes:
        key: a short name, letters and hyphens.
        title: what is plotted.
        across: the label below the axis.
        spots: at least one; where `budget` is false each has an `x`.
        budget: `x` is an epsilon: logarithmic, infinity at the right edge.
        meaningful: with a budget, the largest epsilon that still says something.
        floor: smallest and largest value of `x` that no information gives; None where unknown.
        ceiling: smallest and largest value of `x` on clean pictures; None where unknown.
    """

    key: str
    title: str
    across: str
    spots: tuple[Spot, ...]
    budget: bool
    meaningful: float = 20.0
    floor: tuple[float, float] | None = None
    ceiling: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        checks.positive(spots_drawn=len(self.spots))
        for spot in self.spots:
            if self.budget and spot.x is not None:
                checks.positive(epsilon=spot.x)
            elif not self.budget and spot.x is None:
                raise checks.UserError(f"{self.key}: {spot.method} has no value to be drawn at.")

    @property
    def span(self) -> tuple[float, float]:
        """Both ends of the axis: epsilons (the right one is where infinity stands), or values."""
        known = [value for spot in self.spots for value in (spot.x, spot.low, spot.high) if value is not None]
        if self.budget:
            low = math.log10(min([*known, self.meaningful]))
            high = math.log10(max([*known, self.meaningful]))
            return 10**low, 10 ** (high + max(0.6, 0.22 * (high - low)))
        known += [value for pair in (self.floor, self.ceiling) if pair is not None for value in pair]
        low, high = min([0.0, *known]), max([*known, 0.05])
        return low, high

    def at(self, spot: Spot) -> float:
        """Return where a spot stands; without a guarantee series stand beside each other, so that none hides another.

        >>> one = Spot("none", 0, None, None, None, 0.9, None)
        >>> 1 < Panel("image", "", "", (one,), True).at(one) / 20 < 10
        True
        """
        if spot.x is not None:
            return spot.x
        low, edge = self.span
        others = sorted({other.place for other in self.spots if other.x is None})
        step = min(0.05, 0.3 / len(others)) * max(1.0, math.log10(edge / low) / 3)
        return float(edge * 10 ** (step * (others.index(spot.place) - (len(others) - 1) / 2)))


def heights(panels: Sequence[Panel]) -> tuple[float, float]:
    """Return the lowest and highest accuracy that every panel shows, guessing among them."""
    ends = [spot.y + sign * (spot.sd or 0.0) for panel in panels for spot in panel.spots for sign in (-1, 1)]
    low, high = min([CHANCE, *ends]), max([CHANCE + 0.2, *ends])  # no scale on which guessing looks like a success
    room = max(0.02, 0.08 * (high - low))
    return max(0.0, low - room), min(1.02, high + room)


def arms(spot: Spot) -> tuple[float, float]:
    """Return how far the bar of `x` reaches to the left and to the right; 0 where there is no interval."""
    if spot.x is None or spot.low is None or spot.high is None:
        return 0.0, 0.0
    return max(0.0, spot.x - spot.low), max(0.0, spot.high - spot.x)


def tradeoff(path: Path, panels: Sequence[Panel]) -> Path:
    """Draw the panels, two or three beside each other, one legend below them.

    Returns:
        `path`, a PNG.

    Raises:
        fedveil.checks.UserError: no panel at all.
    """
    checks.positive(panels_drawn=len(panels))
    columns = min(2 if len(panels) < 5 else 3, len(panels))
    count = math.ceil(len(panels) / columns)
    header = "Accuracy against what it costs (up: recognises better; left: gives less away; bars over seeds: 1 sd)"
    figure, axes = style.figure(4.6 * columns + 1.4 * (columns == 1), 3.7 * count + 0.5, header, count, columns)
    ends = heights(panels)
    for panel, drawn in zip(axes.flat, panels, strict=False):
        _draw(panel, drawn, ends)
    for panel in axes.flat[len(panels) :]:
        panel.set_visible(False)
    named: dict[str, Any] = {}
    for panel in axes.flat[: len(panels)]:
        handles, names = panel.get_legend_handles_labels()
        named |= dict(zip(names, handles, strict=True))
    figure.legend(
        [*named.values()], [*named], loc="outside lower center", ncols=min(4, len(named)), fontsize=8, frameon=False
    )
    return style.save(figure, path)


def _above(axes: Axes, at: float, text: str, side: Literal["left", "right"]) -> None:
    """Write beside a place of the axis, above the panel."""
    axes.text(at, 1.01, text, fontsize=7, color=style.INK, ha=side, va="bottom", transform=axes.get_xaxis_transform())


def _draw(axes: Axes, panel: Panel, ends: tuple[float, float]) -> None:
    from matplotlib import ticker

    low, high = panel.span
    axes.set_title(panel.title, fontsize=9.5, color=style.INK, loc="left", pad=14)
    axes.yaxis.set_major_formatter(ticker.PercentFormatter(1.0, decimals=0))
    axes.axhline(CHANCE, color=style.GREY, linestyle=":", linewidth=1.2, label="guessing")
    axes.set_ylim(*ends)
    if panel.budget:
        axes.set_xscale("log")
        axes.axvspan(panel.meaningful, high * 10, color="#F4F4F4", zorder=0)
        _above(axes, panel.meaningful, f"above {panel.meaningful:g}: no meaningful guarantee", "left")
        powers = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) - 0.3) + 1)
        ticks = [10.0**power for power in powers]
        axes.set_xticks([*ticks, high], [*(f"{tick:,.10g}" for tick in ticks), "no\nguarantee"])
        axes.minorticks_off()
        axes.set_xlim(low / 1.4, high * 10 ** (0.08 * math.log10(high / low)))
    else:
        room = 0.05 * (high - low)
        axes.set_xlim(low - room, high + room)
        for pair in filter(None, (panel.floor, panel.ceiling)):
            axes.axvspan(pair[0] - room / 20, pair[1] + room / 20, color="#DDDDDD", zorder=0.5)
        if panel.floor is not None:
            _above(axes, panel.floor[0], "no information", "left")
        if panel.ceiling is not None:
            _above(axes, panel.ceiling[1], "clean pictures", "right")
    for method in dict.fromkeys(spot.method for spot in panel.spots):
        own = sorted((spot for spot in panel.spots if spot.method == method), key=panel.at)
        colour, marker = style.series(own[0].place)
        across, up = [panel.at(spot) for spot in own], [spot.y for spot in own]
        bars = [*zip(*map(arms, own), strict=True)]
        axes.errorbar(
            across, up, [spot.sd or 0.0 for spot in own], None if panel.budget else bars, color=colour, marker=marker,
            markersize=6, capsize=2.5, linewidth=1.2, linestyle="none", label=method,
        )  # fmt: skip
        finite = [(x, spot.y) for x, spot in zip(across, own, strict=True) if spot.x is not None]
        if panel.budget and len(finite) > 1:
            axes.plot([x for x, _ in finite], [y for _, y in finite], color=colour, linewidth=1.2)
    style.label(axes, panel.across, "verification accuracy")
