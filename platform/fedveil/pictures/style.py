"""The one look of all pictures: light, colour-blind-safe; files only, never a window.

Matplotlib is imported when the first picture is drawn.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedveil.storage import disk

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart with every common colour vision.
BLUE, ORANGE, GREEN, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#8A8A8A", "#222222"
COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", INK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "p")


def series(number: int) -> tuple[str, str]:
    """Return the colour and the marker of a picture's series; the first 63 differ as pairs, the first 7 in both.

    >>> series(0), len({series(number) for number in range(63)})
    (('#0072B2', 'o'), 63)
    """
    return COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]


def figure(width: float, height: float, header: str, rows: int = 1, columns: int = 1) -> tuple[Figure, Any]:
    """Return a figure and its axes, an array (rows, columns); made without pyplot, which would keep them for ever."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), dpi=120, layout="constrained", facecolor="white")
    made.suptitle(header, fontsize=11, color=INK, x=0.01, ha="left")
    axes = made.subplots(rows, columns, squeeze=False)
    for panel in axes.flat:
        panel.tick_params(labelsize=9, colors=INK, length=3)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
        panel.grid(color="#E6E6E6", linewidth=0.8)
        panel.set_axisbelow(True)
    return made, axes


def save(drawn: Figure, path: Path) -> Path:
    """Write a PNG and return its path."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    drawing = io.BytesIO()
    # Without the writer's version and date: equal numbers give an equal file. `savefig` would lay out and draw twice.
    FigureCanvasAgg(drawn).print_png(drawing, metadata={"Software": None})  # type: ignore[no-untyped-call]
    disk.write_atomic(path, drawing.getvalue(), durable=False)
    return path


def label(panel: Axes, across: str, up: str) -> None:
    """Name the two axes."""
    panel.set_xlabel(across, fontsize=9, color=INK)
    panel.set_ylabel(up, fontsize=9, color=INK)
