"""The picture of a ledger: epsilon after every booked row, a panel per unit, the limit as a line."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from fedveil import checks
from fedveil.pictures import style


@dataclasses.dataclass(frozen=True)
class Curve:
    """How one unit's epsilon grew.

    Attributes:
        title: unit, relation and delta, in words.
        at: number of rows, rounds or runs after which a value holds, increasing.
        epsilon: in nats, as many; empty without a guarantee, and `reason` is shown instead.
        limit: the budget, drawn as a dashed line; None for none.
        reason: why there is no number.
    """

    title: str
    at: Sequence[int]
    epsilon: Sequence[float]
    limit: float | None = None
    reason: str = ""


def spent(path: Path, curves: Sequence[Curve], header: str, across: str, meaningful: float) -> Path:
    """Draw each curve in its own panel: what was spent so far, and what may be.

    Args:
        path: PNG to write.
        curves: one per unit.
        header: whose ledger.
        across: what is counted from left to right.
        meaningful: largest epsilon that still says something; the ground above it is grey.

    Returns:
        `path`.

    Raises:
        UserError: no curve, or values and positions that differ in number.
    """
    checks.positive(curves_drawn=len(curves))
    heights = [2.6 if curve.epsilon else 1.0 for curve in curves]
    figure, axes = style.figure(6.4, 0.5 + sum(heights), header, len(curves))
    axes[0, 0].get_gridspec().set_height_ratios(heights)
    for panel, curve in zip(axes[:, 0], curves, strict=True):
        checks.same_shape((len(curve.at),), epsilon=(len(curve.epsilon),))
        panel.set_title(curve.title, fontsize=9, color=style.INK, loc="left")
        if not curve.epsilon:
            panel.text(
                0.5, 0.5, curve.reason, transform=panel.transAxes, ha="center", va="center", color=style.ORANGE,
                fontsize=9,
            )  # fmt: skip
            panel.set_xticks([])
            panel.set_yticks([])
            continue
        style.label(panel, across, "epsilon so far")
        top = 1.15 * max(*curve.epsilon, curve.limit or 0.0)
        marker = "o" if len(curve.at) <= 40 else ""
        panel.step([0, *curve.at], [0.0, *curve.epsilon], where="post", color=style.BLUE, linewidth=1.4)
        panel.plot(curve.at, curve.epsilon, color=style.BLUE, linestyle="", marker=marker, markersize=4)
        panel.set_xlim(0, curve.at[-1] * 1.12)
        panel.set_ylim(0, top)
        panel.annotate(
            f"{curve.epsilon[-1]:.4g}", (curve.at[-1], curve.epsilon[-1]), xytext=(6, -4), textcoords="offset points",
            fontsize=8, color=style.BLUE, va="top",
        )  # fmt: skip
        panel.xaxis.get_major_locator().set_params(integer=True)
        if curve.limit is not None:
            panel.axhline(curve.limit, color=style.ORANGE, linestyle="--", linewidth=1.2)
            panel.text(
                0.01, curve.limit, f"limit {curve.limit:g}", fontsize=8, color=style.ORANGE, va="bottom",
                transform=panel.get_yaxis_transform(),
            )  # fmt: skip
        if top > meaningful:
            panel.axhspan(meaningful, top, color="#F4F4F4", zorder=0)
            panel.text(
                0.99, meaningful, f"above {meaningful:g}: no meaningful guarantee", fontsize=7, color=style.GREY,
                va="bottom", ha="right", transform=panel.get_yaxis_transform(),
            )  # fmt: skip
    return style.save(figure, path)
