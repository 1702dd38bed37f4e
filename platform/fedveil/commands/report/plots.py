"""The panels as plots that can be hovered: plain figures, which plotly.js draws in the reader's browser.

Every text in a figure is escaped here: plotly reads a few HTML tags in its labels.
"""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from fedveil.commands.report import words
from fedveil.commands.report.gathered import Seen
from fedveil.commands.report.rows import Row
from fedveil.pictures import style
from fedveil.pictures.tradeoff import CHANCE, Panel, Spot, arms, heights

Figure = dict[str, Any]

SYMBOLS = {"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross",
           "X": "x", "*": "star", "p": "pentagon"}  # fmt: skip
"""A marker's name for matplotlib -> for plotly."""

_FONT = {"family": "system-ui, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif", "size": 13, "color": style.INK}
_NOTE = {"showarrow": False, "font": {"size": 11, "color": "#555555"}}


def script() -> str:
    """Return plotly.js, which draws the figures without a network."""
    from plotly import offline

    return str(offline.get_plotlyjs())


def hover(lines: Sequence[str]) -> str:
    """Return lines as a hover label: escaped, none longer than 72 signs."""
    folded = [part for line in lines for part in textwrap.wrap(line, 72, subsequent_indent="   ") or [""]]
    return "<br>".join(html.escape(line, quote=False) for line in folded)


def figures(panels: Sequence[Panel], rows: Sequence[Row]) -> dict[str, Figure]:
    """Return a figure for each panel by its key, all with one scale of accuracy."""
    ends = heights(panels) if panels else (0.0, 1.0)
    return {panel.key: _figure(panel, rows, ends) for panel in panels}


def _figure(panel: Panel, rows: Sequence[Row], ends: tuple[float, float]) -> Figure:
    left, right = panel.span
    layout: Figure = {
        "font": _FONT, "height": 400, "margin": {"l": 62, "r": 16, "t": 22, "b": 84}, "showlegend": False,
        "paper_bgcolor": "white", "plot_bgcolor": "white", "hovermode": "closest", "dragmode": False,
        "hoverlabel": {"align": "left", "bgcolor": "white", "font": {"size": 12, "color": style.INK}},
        "yaxis": {"range": list(ends), "tickformat": ".0%", "title": {"text": "verification accuracy"},
                  "gridcolor": "#E6E6E6", "zeroline": False},
        "xaxis": {"title": {"text": html.escape("<br>".join(textwrap.wrap(panel.across, 64)), quote=False)
                            .replace("&lt;br&gt;", "<br>"), "standoff": 18}, "gridcolor": "#E6E6E6", "zeroline": False},
        "shapes": [{"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": CHANCE, "y1": CHANCE,
                    "line": {"color": style.GREY, "dash": "dot", "width": 1.5}, "layer": "below"}],
        "annotations": [{**_NOTE, "text": "guessing", "xref": "paper", "x": 1, "xanchor": "right", "y": CHANCE,
                         "yanchor": "bottom"}],
    }  # fmt: skip
    (_budget if panel.budget else _measure)(layout, panel, left, right)
    drawn = [row for row in rows if panel.budget or row.leaks[panel.key] is not None]
    data = [trace for row, spot in zip(drawn, panel.spots, strict=True) for trace in _traces(panel, row, spot)]
    lines = [_line(panel, method) for method in dict.fromkeys(spot.method for spot in panel.spots)]
    return {"data": [line for line in lines if line] + data, "layout": layout}


def _budget(layout: Figure, panel: Panel, left: float, right: float) -> None:
    """Make the axis logarithmic, with infinity at its right end and grey where an epsilon means nothing."""
    powers = range(math.ceil(math.log10(left) - 1e-9), math.floor(math.log10(right) - 0.3) + 1)
    layout["xaxis"] |= {
        "type": "log", "range": [math.log10(left) - 0.15, math.log10(right) + 0.08 * math.log10(right / left)],
        "tickvals": [*(10.0**power for power in powers), right],
        "ticktext": [*(f"{10.0**power:,.10g}" for power in powers), "no<br>guarantee"],
    }  # fmt: skip
    layout["shapes"].insert(  # below the others
        0, {"type": "rect", "x0": panel.meaningful, "x1": right * 100, "yref": "paper", "y0": 0, "y1": 1,
            "fillcolor": "#F3F3F3", "line": {"width": 0}, "layer": "below"}
    )  # fmt: skip
    layout["annotations"].append(
        {**_NOTE, "text": f"above {panel.meaningful:g}: no meaningful guarantee", "yref": "paper", "y": 1,
         "yanchor": "bottom", "x": math.log10(panel.meaningful), "xanchor": "left", "xshift": 4}
    )  # fmt: skip


def _measure(layout: Figure, panel: Panel, left: float, right: float) -> None:
    """Mark what no information gives, and what clean pictures give."""
    room = 0.05 * (right - left)
    layout["xaxis"]["range"] = [left - room, right + room]
    if panel.key != "ssim":
        layout["xaxis"]["tickformat"] = ".0%"
    for pair, name in ((panel.floor, "no information"), (panel.ceiling, "clean pictures")):
        low = name == "no information"
        if pair is None:
            continue
        layout["shapes"].append(
            {"type": "rect", "x0": pair[0], "x1": pair[1], "yref": "paper", "y0": 0, "y1": 1,
             "fillcolor": "#EEEEEE", "line": {"width": 1, "color": "#BBBBBB"}, "layer": "below"}
        )  # fmt: skip
        layout["annotations"].append(
            {**_NOTE, "text": name, "x": pair[0] if low else pair[1], "xanchor": "left" if low else "right",
             "yref": "paper", "y": 1, "yanchor": "bottom"}
        )  # fmt: skip


def _traces(panel: Panel, row: Row, spot: Spot) -> list[Figure]:
    """Return a setting's point with its bars, and its runs as small open ones."""
    colour, marker = style.series(row.place)
    before, after = arms(spot)
    mean = {
        "type": "scatter", "mode": "markers", "x": [panel.at(spot)], "y": [spot.y], "name": html.escape(row.name),
        "text": [hover(words.row_lines(row))], "hovertemplate": "%{text}<extra></extra>",
        "error_y": {"type": "data", "array": [spot.sd or 0.0], "visible": spot.sd is not None, "color": colour},
        "error_x": {"type": "data", "symmetric": False, "array": [after], "arrayminus": [before],
                    "visible": after + before > 0, "color": colour},
        "marker": {"color": colour, "symbol": SYMBOLS[marker], "size": 11, "line": {"color": "white", "width": 1}},
        "meta": {"method": row.place, "kind": "mean"},
    }  # fmt: skip
    if len(row.runs) == 1:
        return [mean]
    places = [_place(panel, row, seen, spot) for seen in row.runs]
    kept = [(x, seen) for x, seen in zip(places, row.runs, strict=True) if x is not None]
    runs = {
        "type": "scatter", "mode": "markers", "x": [x for x, _ in kept], "name": html.escape(row.name),
        "y": [seen.result["final"]["accuracy"] for _, seen in kept if seen.result is not None],
        "text": [hover(words.run_lines(row, seen)) for _, seen in kept], "hovertemplate": "%{text}<extra></extra>",
        "marker": {"color": colour, "symbol": f"{SYMBOLS[marker]}-open", "size": 7, "opacity": 0.75},
        "meta": {"method": row.place, "kind": "run"},
    }  # fmt: skip
    return [mean, runs]


def _place(panel: Panel, row: Row, seen: Seen, spot: Spot) -> float | None:
    """Return where one run of a setting stands: beside the others' mean, by its own leakage; None: not attacked."""
    if panel.budget:
        return panel.at(spot)
    leak = words.leak_of(seen, panel.key)
    return None if leak is None else leak.value


def _line(panel: Panel, method: str) -> Figure | None:
    """Return the line through a method's budgets; it does not go on to infinity."""
    own = sorted((s for s in panel.spots if s.method == method and s.x is not None), key=panel.at)
    if not panel.budget or len(own) < 2:
        return None
    return {
        "type": "scatter", "mode": "lines", "x": [spot.x for spot in own], "y": [spot.y for spot in own],
        "line": {"color": style.series(own[0].place)[0], "width": 1.5}, "hoverinfo": "skip",
        "name": html.escape(method), "meta": {"method": own[0].place, "kind": "line"},
    }  # fmt: skip


def swatch(place: int) -> Mapping[str, str]:
    """Return a legend's sign: the colour, and the points of the marker's outline in a box of 16 by 16."""
    colour, marker = style.series(place)
    return {"colour": colour, "points": " ".join(f"{x:.1f},{y:.1f}" for x, y in _OUTLINES[marker]())}


def _polygon(corners: int, turn: float, inner: float = 1.0, radius: float = 7.0) -> list[tuple[float, float]]:
    """Return a regular polygon's corners around (8, 8); with `inner` below 1 a star's."""
    steps = corners if inner == 1.0 else 2 * corners
    sizes = [radius * (inner if place % 2 else 1.0) for place in range(steps)] if inner < 1 else [radius] * steps
    angles = [math.pi * (turn + 2 * place / steps) for place in range(steps)]
    return [(8 + size * math.sin(angle), 8 - size * math.cos(angle)) for size, angle in zip(sizes, angles, strict=True)]


def _plus(turn: float) -> list[tuple[float, float]]:
    """Return a plus sign's outline."""
    arm, half = 7.0, 2.4
    corners = [(-half, -arm), (half, -arm), (half, -half), (arm, -half), (arm, half), (half, half), (half, arm),
               (-half, arm), (-half, half), (-arm, half), (-arm, -half), (-half, -half)]  # fmt: skip
    cos, sin = math.cos(math.pi * turn), math.sin(math.pi * turn)
    return [(8 + x * cos - y * sin, 8 + x * sin + y * cos) for x, y in corners]


_OUTLINES = {
    "o": lambda: _polygon(24, 0.0, radius=6.0), "s": lambda: _polygon(4, 0.25, radius=7.5),
    "^": lambda: _polygon(3, 0.0), "D": lambda: _polygon(4, 0.0), "v": lambda: _polygon(3, 1.0),
    "P": lambda: _plus(0.0), "X": lambda: _plus(0.25), "*": lambda: _polygon(5, 0.0, 0.4),
    "p": lambda: _polygon(5, 0.0),
}  # fmt: skip
