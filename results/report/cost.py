"""What a better value costs, and the front where a study has several objectives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from seqsweep.results.report.content import Row, StudyContent, finite
from seqsweep.results.report.figure import Figure, figure_of, log_axis, plot, points, points_by_family
from seqsweep.results.report.html import columns, section, table, whole

WIDE = 3  # a cost that differs by more than this factor is drawn on a logarithmic scale
COSTS = {"seconds": "seconds of training and validation", "num_parameters": "parameters"}


def cost(content: StudyContent) -> str:
    drawn = [
        plot(_cost_figure(content, column, title), f"{content.objective} by {title}", height=340)
        for column, title in COSTS.items()
        if len({row[column] for row in content.ranked if row[column]}) > 1
    ]
    if not drawn:
        return ""
    lead = "What a better value costs. On the line: no trial is as good for less. Pruned trials trained less."
    return section("cost", "Accuracy against cost", lead, columns(*drawn))


def _cost_figure(content: StudyContent, column: str, title: str) -> Figure:
    rows = [row for row in content.ranked if row[column]]
    best = dominates_none(rows, {"objective": "maximize", column: "minimize"})
    best.sort(key=lambda row: float(row[column]))
    line = {
        "name": "front",
        "mode": "lines",
        "x": [row[column] for row in best],
        "y": [row["objective"] for row in best],
        "line": {"color": "--soft", "width": 1.5, "shape": "hv"},
        "hoverinfo": "skip",
    }
    traces = points_by_family(content, rows, lambda row: row[column], size=8, opacity=0.8)
    layout = {"xaxis": _axis(title, rows, column), "yaxis": {"title": content.objective}}
    return figure_of([line, *traces], layout)


def front(content: StudyContent) -> str:
    """Only with several objectives."""
    first, *others = content.about.objectives
    on_front = [row for row in content.ranked if row["on_front"]]
    if not others or not content.ranked:
        return ""
    lead = (
        f"{len(on_front)} of {len(content.ranked)} trials are on the front: no other is at least as good in "
        "all of the objectives and better in one. Which of them is best is yours to say."
    )
    listed = table(
        f"The front, best {first} first",
        ("trial", "model", *content.about.objectives),
        [
            (f"trial {row['trial']}", row["model"], *(whole(row[name]) for name in content.about.objectives))
            for row in sorted(on_front, key=lambda row: -float(row[first] or 0))
        ],
        left=2,
    )
    drawn = [
        plot(_front_figure(content, other, first), f"{first} by {other}, the front marked", height=360)
        for other in others
    ]
    return section("front", "The front", lead, columns(*drawn), listed)


def _front_figure(content: StudyContent, x: str, y: str) -> Figure:
    """Two of several objectives; filled: no other trial is at least as good in all."""
    rows = [row for row in content.ranked if finite(row[x]) is not None and finite(row[y]) is not None]
    traces = []
    for name, is_on, marker in (
        ("others", False, {"color": "--faint", "symbol": "circle-open", "size": 8}),
        ("on the front", True, {"color": "--accent", "symbol": "circle", "size": 10}),
    ):
        own = [row for row in rows if bool(row["on_front"]) is is_on]
        traces.append({**points([row[x] for row in own], own, name, marker), "y": [row[y] for row in own]})
    return figure_of(traces, {"xaxis": _axis(x, rows, x), "yaxis": {"title": y}})


def _axis(title: str, rows: Sequence[Row], column: str) -> dict[str, Any]:
    values = [float(row[column]) for row in rows]
    is_wide = bool(values) and min(values) > 0 and max(values) / min(values) >= WIDE
    return {"title": title, **(log_axis(values) if is_wide else {})}


def dominates_none(rows: Sequence[Row], objectives: Mapping[str, str]) -> list[Row]:
    """Those that no other row is at least as good as in both objectives and better than in one.

    From the best of the first on, a pair is among them that is better in the second than all before it.
    """
    (first, sign), (second, other_sign) = (
        (name, 1 if direction == "maximize" else -1) for name, direction in objectives.items()
    )
    there = [
        ((sign * row[first], other_sign * row[second]), row)
        for row in rows
        if finite(row[first]) is not None and finite(row[second]) is not None
    ]
    undominated, best = set(), -math.inf
    for pair in sorted({pair for pair, _ in there}, reverse=True):
        if pair[1] > best:
            undominated.add(pair)
            best = pair[1]
    return [row for pair, row in there if pair in undominated]
