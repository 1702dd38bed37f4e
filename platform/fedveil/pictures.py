"""Pictures of a run: curves, budgets and faces in one light, colour-blind-safe style; files only, never a window.

Every header says in words what is seen. A grid of faces shows what it is given: whether a face may be shown
(procedural, or declared public) is for the caller to know. Matplotlib is imported when the first picture is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedveil import checks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart with every common colour vision.
BLUE, ORANGE, GREEN, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#8A8A8A", "#222222"


def _figure(width: float, height: float, header: str, rows: int = 1, columns: int = 1) -> tuple[Figure, Any]:
    """Return a figure and its axes, an array (rows, columns); made without pyplot, which would keep them for ever."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(header, fontsize=11, color=INK, x=0.01, ha="left")
    axes = figure.subplots(rows, columns, squeeze=False)
    for panel in axes.flat:
        panel.tick_params(labelsize=9, colors=INK, length=3)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
        panel.grid(color="#E6E6E6", linewidth=0.8)
        panel.set_axisbelow(True)
    return figure, axes


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the writer's version and date: equal numbers give an equal file.
    figure.savefig(path, format="png", metadata={"Software": None})
    return path


def _label(panel: Axes, across: str, up: str) -> None:
    panel.set_xlabel(across, fontsize=9, color=INK)
    panel.set_ylabel(up, fontsize=9, color=INK)


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
    figure, axes = _figure(6.4, 3.4 if panels == 1 else 5.2, "Verification accuracy after each round", panels)
    top = axes[0, 0]
    top.plot(rounds, accuracy, color=BLUE, marker="o", markersize=4, label="this run")
    if reference is not None:
        top.axhline(reference, color=ORANGE, linestyle="--", label=f"without protection: {reference:.3f}")
    top.axhline(0.5, color=GREY, linestyle=":", label="guessing")
    top.legend(fontsize=8, frameon=False)
    _label(top, "round", "accuracy")
    panels_drawn = [top]
    if epsilon is not None:
        checks.same_shape((len(rounds),), epsilon=(len(epsilon),))
        spent = np.array([np.nan if value is None else value for value in epsilon], dtype=float)
        spent[~np.isfinite(spent)] = np.nan
        bottom = axes[1, 0]
        bottom.plot(rounds, spent, color=GREEN, marker="s", markersize=4)
        bottom.set_ylim(bottom=0)
        if np.isnan(spent).all():
            bottom.text(0.5, 0.5, "no formal guarantee", transform=bottom.transAxes, ha="center", color=ORANGE)
            bottom.set_yticks([])
        _label(bottom, "round", "epsilon spent")
        panels_drawn.append(bottom)
    for panel in panels_drawn:
        panel.set_xlim(min(rounds) - 0.5, max(rounds) + 0.5)
        panel.xaxis.get_major_locator().set_params(integer=True)
    return _save(figure, path)


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
    figure, axes = _figure(5.2, 4.4, "Verification: accepted true pairs at each rate of false accepts")
    panel = axes[0, 0]
    panel.plot(false[shown], true[shown], color=BLUE, label=label, drawstyle="steps-post")
    guess = np.geomspace(min(1e-3, float(false[shown].min(initial=1e-3))), 1.0, 100)
    panel.plot(guess, guess, color=GREY, linestyle=":", label="guessing")
    panel.set_xscale("log")
    panel.set_xlim(guess[0], 1.0)
    panel.set_ylim(0, 1.02)
    panel.legend(fontsize=8, frameon=False, loc="upper left")
    _label(panel, "false accept rate", "true accept rate")
    return _save(figure, path)


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
    figure, axes = _figure(9.2, 3.5, header, 1, 3)
    for panel, values, name in zip(axes[0], shape, ("Y, brightness", "Cb, blueness", "Cr, redness"), strict=True):
        hidden = ~(np.isfinite(values) & (values > 0))
        image = panel.imshow(np.ma.masked_array(values, hidden), norm=scale, cmap="cividis_r")
        panel.set_title(name, fontsize=9, color=INK)
        panel.set_xticks(range(8))
        panel.set_yticks(range(8))
        panel.grid(visible=False)
        _label(panel, "v (horizontal frequency)", "u (vertical frequency)")
        for u, v in np.argwhere(hidden):
            panel.text(v, u, "x", ha="center", va="center", fontsize=7, color=GREY)
    bar = figure.colorbar(image, ax=axes[0].tolist(), shrink=0.85, pad=0.02)
    bar.set_label("weight; x: removed" if positive.size < shape.size else "weight", fontsize=9, color=INK)
    bar.ax.tick_params(labelsize=8)
    return _save(figure, path)


def face_grid(path: Path, rows: Mapping[str, NDArray[np.uint8]], header: str = "What leaves a face's owner") -> Path:
    """Draw faces side by side: one line per entry, such as original, representation, best inverse.

    Args:
        path: PNG to write.
        rows: label to uint8 images (N, 3, H, W), N equal in all rows; sizes may differ. Enlarged without smoothing.
        header: what is seen.

    Raises:
        UserError: no rows, another type or number of images.
    """
    checks.positive(rows_of_faces=len(rows))
    count = len(next(iter(rows.values())))
    checks.positive(faces_per_row=count)
    for label, images in rows.items():
        if images.dtype != np.uint8:
            raise checks.UserError(f"Expected rows[{label!r}] of type uint8, got {images.dtype}.")
        checks.same_shape((count, 3, *images.shape[2:]), **{f"rows[{label!r}]": images.shape})
    side, margin = 1.25, 1.6
    figure, axes = _figure(margin + side * count, 0.45 + side * len(rows), header, len(rows), count)
    for line, (label, images) in zip(axes, rows.items(), strict=True):
        for panel, face in zip(line, images, strict=True):
            panel.imshow(face.transpose(1, 2, 0), interpolation="nearest")
            panel.set_xticks([])
            panel.set_yticks([])
            panel.grid(visible=False)
            for edge in panel.spines.values():
                edge.set_visible(False)
        line[0].set_ylabel(label, fontsize=9, color=INK, rotation=0, ha="right", va="center", labelpad=6)
    return _save(figure, path)
