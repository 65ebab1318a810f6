"""Parallel coordinates: a line a trial over its hyperparameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from seqsweep.results.report.content import (
    Row,
    StudyContent,
    drawable,
    finite,
    is_hparam,
    part_drawn,
    short_name,
)
from seqsweep.results.report.figure import LEGEND_REVERSED, Figure, plot, plot_text, tick_text
from seqsweep.results.report.html import hparam_text, section

MAX_AXES = 10


def parallel(content: StudyContent) -> str:
    if len(content.ranked) < 2 or not content.drawn_hparams:
        return ""
    have = {name: sum(row[name] is not None for row in content.ranked) for name in content.drawn_hparams}
    family_first = sorted(content.drawn_hparams, key=lambda name: (is_hparam(name), -have[name]))
    names = family_first[:MAX_AXES]
    lead = f"A line is a trial{part_drawn(content)}, from its hyperparameters to its value at the right." + (
        f" {len(names)} of {len(have)} hyperparameters." if len(have) > len(names) else ""
    )
    label = f"Hyperparameters of {len(content.ranked)} trials as lines"
    drawn = plot(_figure(content, names), label, height=380, min_width=96 * (len(names) + 1))
    return section("parallel", "Parallel coordinates", lead, drawn)


class _Axis:
    """`height` of each trial from 0 to 1, or ABSENT; `ticks`: height, label."""

    ABSENT = -0.13

    def __init__(self, name: str, values: Sequence[Any], *, is_log: bool) -> None:
        self.name = name
        there = {value for value in values if value is not None}
        if any(isinstance(value, str | bool) for value in there):
            kinds = sorted(there, key=str)
            place = {value: index / max(1, len(kinds) - 1) for index, value in enumerate(kinds)}
            self.height = [self.ABSENT if value is None else place[value] for value in values]
            self.ticks = [(place[value], hparam_text(value)) for value in kinds]
        else:
            low, high = (self._scale(edge(there), is_log) for edge in (min, max))
            width = (high - low) or 1.0
            self.height = [
                self.ABSENT if value is None else (self._scale(value, is_log) - low) / width
                for value in values
            ]
            self.ticks = [(0.0, _edge(min(there))), (1.0, _edge(max(there)))]
        if None in values:
            self.ticks.append((self.ABSENT, "has none"))

    @staticmethod
    def _scale(value: float, is_log: bool) -> float:
        return math.log(value) if is_log and value > 0 else float(value)


def _edge(value: float) -> str:
    return tick_text(value) if isinstance(value, int) or not 1e-3 <= abs(value) < 1 else f"{value:.3g}"


def _figure(content: StudyContent, columns: Sequence[str]) -> Figure:
    """At the right the trial's value. What a trial has not lies below."""
    rows = content.drawn
    axes = [
        _Axis(column, [drawable(row[column]) for row in rows], is_log=column in content.log_scaled)
        for column in columns
    ]
    axes.append(_Axis(content.objective, [finite(row["objective"]) for row in rows], is_log=False))
    return {"data": _lines(rows, axes), "layout": _layout(axes)}


def _lines(rows: Sequence[Row], axes: Sequence[_Axis]) -> list[Figure]:
    """The best last, on top."""
    order = sorted(range(len(rows)), key=lambda place: -(rows[place]["objective"]))
    best, upper = max(1, len(rows) // 10), len(rows) // 2
    groups = (
        ("the others", order[max(upper, best) :], "--faint", 1.0, 0.45),
        ("better half", order[best : max(upper, best)], "--soft", 1.0, 0.6),
        ("best tenth" if len(rows) >= 20 else "the best", order[:best], "--accent", 2.2, 1.0),
    )
    return [
        {
            "name": name,
            "mode": "lines",
            "x": [x for _ in places for x in [*range(len(axes)), None]],
            "y": [y for place in places for y in [*(axis.height[place] for axis in axes), None]],
            "text": [t for place in places for t in [*(_told(axis, rows[place]) for axis in axes), ""]],
            "hoverinfo": "text",
            "line": {"color": colour, "width": width},
            "opacity": opacity,
        }
        for name, places, colour, width, opacity in groups
        if places
    ]


def _told(axis: _Axis, row: Row) -> str:
    value = row["objective"] if axis.name not in row else row[axis.name]
    what = "has none" if value is None else hparam_text(value)
    return plot_text(f"trial {row['trial']}: {short_name(axis.name)} {what}")


def _layout(axes: Sequence[_Axis]) -> dict[str, Any]:
    return {
        "xaxis": {
            "tickvals": list(range(len(axes))),
            "ticktext": [plot_text(short_name(axis.name)) for axis in axes],
            "side": "bottom",
            "showgrid": False,
            "tickangle": 0,
            "range": [-0.35, len(axes) - 0.55],
            "automargin": False,
        },
        "yaxis": {"visible": False, "range": [-0.2, 1.08]},
        "legend": LEGEND_REVERSED,
        "shapes": [
            {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "layer": "below"}
            | {"line": {"color": "--faint", "width": 1}}
            for x in range(len(axes))
        ],
        "annotations": [
            {"x": x, "y": y, "text": plot_text(label), "showarrow": False, "xanchor": "left", "xshift": 3}
            | {"font": {"size": 10, "color": "--ink"}, "bgcolor": "--ground", "opacity": 0.85, "borderpad": 1}
            for x, axis in enumerate(axes)
            for y, label in axis.ticks
        ],
        "margin": {"l": 8, "r": 40, "t": 12, "b": 30},
    }
