"""The pictures of a run: accuracy over rounds, ROC, and how a budget is shared over frequencies.

Every header says in words what is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from fedveil import checks
from fedveil.pictures import style


def rounds_curve(
    path: Path,
    rounds: Sequence[int],
    accuracy: Sequence[float],
    epsilon: Sequence[float | None] | None = None,
    reference: float | None = None,
) -> Path:
    """Draw verification accuracy over rounds, and below it the epsilon spent so far.

    Args:
        path: PNG to write.
        rounds: round numbers.
        accuracy: fraction in 0..1 per round.
        epsilon: spent after each round; None (per round) where there is no finite guarantee, which is drawn as a gap
            and said in words; None (the whole argument) leaves the panel out.
        reference: accuracy of the same recipe without protection, drawn as a dashed line.

    Returns:
        `path`.

    Raises:
        UserError: the sequences differ in length or are empty.
    """
    checks.positive(rounds_drawn=len(rounds))
    checks.same_shape((len(rounds),), accuracy=np.shape(accuracy))
    panels = 1 if epsilon is None else 2
    figure, axes = style.figure(6.4, 3.4 if panels == 1 else 5.2, "Verification accuracy after each round", panels)
    top = axes[0, 0]
    top.plot(rounds, accuracy, color=style.BLUE, marker="o", markersize=4, label="this run")
    if reference is not None:
        top.axhline(reference, color=style.ORANGE, linestyle="--", label=f"without protection: {reference:.3f}")
    top.axhline(0.5, color=style.GREY, linestyle=":", label="guessing")
    top.legend(fontsize=8, frameon=False)
    style.label(top, "round", "accuracy")
    panels_drawn = [top]
    if epsilon is not None:
        checks.same_shape((len(rounds),), epsilon=(len(epsilon),))
        spent = np.array([np.nan if value is None else value for value in epsilon], dtype=float)
        spent[~np.isfinite(spent)] = np.nan
        bottom = axes[1, 0]
        bottom.plot(rounds, spent, color=style.GREEN, marker="s", markersize=4)
        bottom.set_ylim(bottom=0)
        if np.isnan(spent).all():
            bottom.text(0.5, 0.5, "no formal guarantee", transform=bottom.transAxes, ha="center", color=style.ORANGE)
            bottom.set_yticks([])
        style.label(bottom, "round", "epsilon spent")
        panels_drawn.append(bottom)
    for panel in panels_drawn:
        panel.set_xlim(min(rounds) - 0.5, max(rounds) + 0.5)
        panel.xaxis.get_major_locator().set_params(integer=True)
    return style.save(figure, path)


def roc_curve(path: Path, far: ArrayLike, tar: ArrayLike, label: str) -> Path:
    """Draw true accept rate over false accept rate (logarithmic), with the line of guessing.

    Args:
        path: PNG to write.
        far: false accept rates in 0..1; points at exactly 0 do not show on a logarithmic axis.
        tar: true accept rates in 0..1, as many.
        label: name of the run in the legend.
    """
    false, true = np.asarray(far, dtype=float), np.asarray(tar, dtype=float)
    checks.same_shape(false.shape, tar=true.shape)
    shown = false > 0
    figure, axes = style.figure(5.2, 4.4, "Verification: accepted true pairs at each rate of false accepts")
    panel = axes[0, 0]
    panel.plot(false[shown], true[shown], color=style.BLUE, label=label, drawstyle="steps-post")
    guess = np.geomspace(min(1e-3, float(false[shown].min(initial=1e-3))), 1.0, 100)
    panel.plot(guess, guess, color=style.GREY, linestyle=":", label="guessing")
    panel.set_xscale("log")
    panel.set_xlim(guess[0], 1.0)
    panel.set_ylim(0, 1.02)
    panel.legend(fontsize=8, frameon=False, loc="upper left")
    style.label(panel, "false accept rate", "true accept rate")
    return style.save(figure, path)


def budget_shape(path: Path, weights: ArrayLike) -> Path:
    """Draw how a privacy budget is shared over frequencies: one 8 x 8 map per colour, logarithmic colours.

    Args:
        path: PNG to write.
        weights: (3, 8, 8) in the order Y, Cb, Cr; [c, u, v] has vertical frequency u and horizontal frequency v. A
            larger weight means less noise; zero or NaN (removed, such as the mean) is left white.

    Raises:
        UserError: another shape, or no positive weight.
    """
    from matplotlib.colors import LogNorm

    shape = np.asarray(weights, dtype=float)
    checks.same_shape((3, 8, 8), weights=shape.shape)
    positive = shape[np.isfinite(shape) & (shape > 0)]
    checks.positive(largest_weight=float(positive.max(initial=0.0)))
    low, high = float(positive.min()), float(positive.max())
    scale = LogNorm(low, high if high > low else low * 1.01)
    header = "Share of the privacy budget per frequency (darker: more budget, less noise)"
    figure, axes = style.figure(9.2, 3.5, header, 1, 3)
    for panel, values, name in zip(axes[0], shape, ("Y, brightness", "Cb, blueness", "Cr, redness"), strict=True):
        hidden = ~(np.isfinite(values) & (values > 0))
        image = panel.imshow(np.ma.masked_array(values, hidden), norm=scale, cmap="cividis_r")
        panel.set_title(name, fontsize=9, color=style.INK)
        panel.set_xticks(range(0, 8, 2))  # every text is measured twice: half of them suffice
        panel.set_yticks(range(0, 8, 2))
        panel.grid(visible=False)
        style.label(panel, "v (horizontal frequency)", "u (vertical frequency)")
        for u, v in np.argwhere(hidden):
            panel.text(v, u, "x", ha="center", va="center", fontsize=7, color=style.GREY)
    bar = figure.colorbar(image, ax=axes[0].tolist(), shrink=0.85, pad=0.02)
    bar.set_label("weight; x: removed" if positive.size < shape.size else "weight", fontsize=9, color=style.INK)
    bar.ax.minorticks_off()
    bar.ax.tick_params(labelsize=8)
    return style.save(figure, path)
