"""The value of every trial by one hyperparameter alone, a small plot each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from seqsweep.results.report.content import Row, StudyContent, drawable, part_drawn, short_name
from seqsweep.results.report.figure import (
    SERIES_NAMES,
    Figure,
    figure_of,
    log_axis,
    plot,
    plot_text,
    points_by_family,
    tick_text,
)
from seqsweep.results.report.html import hparam_text, section, text

FEW_VALUES = 5  # of whole numbers: each gets its tick


def slices(content: StudyContent) -> str:
    if len(content.ranked) < 2 or not content.drawn_hparams:
        return ""
    keys = [
        f"{family} {SERIES_NAMES[place % len(SERIES_NAMES)]}" for place, family in enumerate(content.families)
    ]
    lead = f"{content.objective} by each hyperparameter alone; a point is a trial{part_drawn(content)}." + (
        f" Colour and shape: {', '.join(keys)}." if len(keys) > 1 else ""
    )
    parts = [
        f"<div><h3>{text(short_name(name))}</h3>"
        + plot(_figure(content, name), f"{content.objective} by {short_name(name)}", height=170)
        + "</div>"
        for name in content.drawn_hparams
    ]
    return section("slices", "Slices", lead, f'<div class="small">{"".join(parts)}</div>')


def _figure(content: StudyContent, column: str) -> Figure:
    rows = [row for row in content.drawn if drawable(row[column]) is not None]
    is_text = any(isinstance(row[column], str | bool) for row in rows)

    def x(row: Row) -> Any:
        return plot_text(hparam_text(row[column])) if is_text else row[column]

    axis: dict[str, Any] = {"type": "category", "tickfont": {"size": 10, "color": "--soft"}}
    if not is_text:
        axis = _number_axis([row[column] for row in rows], is_log=column in content.log_scaled)
    layout = {
        "xaxis": axis,
        "yaxis": {"nticks": 5},
        "showlegend": False,
        "margin": {"l": 44, "r": 8, "t": 6, "b": 28},
    }
    return figure_of(points_by_family(content, rows, x, size=7, opacity=0.75), layout)


def _number_axis(values: Sequence[float], *, is_log: bool) -> dict[str, Any]:
    axis = log_axis(values) if is_log and min(values) > 0 else {"nticks": 5}
    few = sorted(set(values))
    if len(few) <= FEW_VALUES and all(isinstance(value, int) for value in few):
        axis |= {"tickvals": few, "ticktext": [tick_text(value) for value in few]}
    return axis
