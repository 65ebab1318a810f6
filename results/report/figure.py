"""What the plots of a report share.

A figure is what Plotly.newPlot takes, as plain data: its Python classes would cost a second a page and check
nothing that the browser does not. A colour is named by the style sheet's variable, "--accent".
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from seqsweep.results.report.content import Row, StudyContent, finite
from seqsweep.results.report.html import shown, text

Figure = dict[str, Any]

PARTS = {"valid": ("--soft", "square"), "test": ("--accent", "circle")}  # colour, shape: told apart by either
NUM_SERIES = 5  # colours of the style sheet, --series-1 and on; then they begin again
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross")
SERIES_NAMES = ("blue circles", "orange squares", "green diamonds", "violet triangles", "teal crosses")
LEGEND_REVERSED = {"traceorder": "reversed", "orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}


def plot(figure: Figure, label: str, *, height: int, min_width: int = 0) -> str:
    """`label`: for those who do not see it. Wider than the page, it scrolls inside its box."""
    data = json.dumps(figure, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    size = f"height:{height}px" + (f";min-width:{min_width}px" if min_width else "")
    box = ' class="scroll" tabindex="0"' if min_width else ""
    return (
        f'<div{box}><div class="plot" role="img" aria-label="{text(label)}" style="{size}">'
        f'<script type="application/json">{data}</script></div></div>'
    )


def plot_text(value: object) -> str:
    """For a label in a figure, which Plotly reads as HTML."""
    return escape(str(value), quote=False)


def figure_of(traces: Sequence[Figure], layout: Mapping[str, Any]) -> Figure:
    """Without traces that have no point, which the legend would name."""
    return {"data": [trace for trace in traces if trace["x"]], "layout": layout}


def series_colour(place: int) -> str:
    return f"--series-{1 + place % NUM_SERIES}"


def points(x: Sequence[Any], rows: Sequence[Row], name: str, marker: Mapping[str, Any]) -> Figure:
    """A trial a point, at its objective."""
    return {
        "name": plot_text(name),
        "mode": "markers",
        "x": list(x),
        "y": [finite(row["objective"]) for row in rows],
        "marker": dict(marker),
        "text": [_told(row) for row in rows],
        "hoverinfo": "text",
    }


def _told(row: Row) -> str:
    """What is shown beside a trial's point."""
    lines = [f"trial {row['trial']}, {row['state']}: {shown(finite(row['objective']))}"]
    lines += [str(row["model"])] if row["model"] is not None else []
    lines += [str(row["error"])[:120]] if row["error"] is not None else []
    return "<br>".join(map(plot_text, lines))


def points_by_family(
    content: StudyContent, rows: Sequence[Row], x: Callable[[Row], Any], *, size: int, opacity: float
) -> list[Figure]:
    traces = []
    for place, family in enumerate(content.families):
        own = [row for row in rows if row["model"] == family]
        marker = {
            "color": series_colour(place),
            "symbol": SYMBOLS[place % NUM_SERIES],
            "size": size,
            "opacity": opacity,
        }
        traces.append(points([x(row) for row in own], own, family, marker))
    return traces


def log_axis(values: Sequence[float]) -> dict[str, Any]:
    """1, 2 and 5 of every power of ten among the values, or the powers alone where they are many."""
    low, high = min(values), max(values)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    inside = [tick for tick in ticks if low / 1.05 <= tick <= high * 1.05]
    if len(inside) > 6:
        inside = [10.0**power for power in powers if low / 1.05 <= 10.0**power <= high * 1.05]
    if len(inside) < 2:
        inside = [low, high]
    inside = inside[:: math.ceil(len(inside) / 5)]
    return {"type": "log", "tickvals": inside, "ticktext": [tick_text(tick) for tick in inside]}


def tick_text(value: float) -> str:
    """0.001, 64, 20k, 1e-6."""
    if value >= 1e4:
        return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k"
    return f"{value:.3g}" if value >= 1e-3 else f"{value:.0e}".replace("e-0", "e-")
