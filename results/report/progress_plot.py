"""Every trial's value, and the best so far."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from seqsweep.results.report.content import Row, StudyContent, finite
from seqsweep.results.report.figure import Figure, figure_of, plot, plot_text, points
from seqsweep.results.report.html import section

STATES = {  # colour, shape: told apart by either
    "complete": ("--accent", "circle"),
    "pruned": ("--soft", "diamond-open"),
    "running": ("--warm", "triangle-up"),
    "failed": ("--bad", "x"),
}
FOOT = 0.08  # of the height of the plot: failed trials, which have no value, lie so far below the others


def history(content: StudyContent) -> str:
    if not content.ranked:
        return ""
    baseline = content.in_state("baseline")[:1]
    lead = "Every trial's best validation value, and the best so far." + (
        f" Above the dotted line a trial is worth more than counting ({baseline[0]['model']})."
        if baseline
        else ""
    )
    label = f"{content.objective} of {len(content.ranked)} trials by number, with the best so far"
    return section("history", "Optimisation history", lead, plot(_figure(content), label, height=360))


def best_so_far(rows: Iterable[Row]) -> list[tuple[int, float]]:
    """Trial and value, each time that the value became better; in the order of the rows."""
    steps: list[tuple[int, float]] = []
    for row in rows:
        value = finite(row["objective"])
        if value is not None and (not steps or value > steps[-1][1]):
            steps.append((int(row["trial"]), value))
    return steps


def _figure(content: StudyContent) -> Figure:
    traces = [_trials(content, state) for state in ("pruned", "complete", "running")]
    baselines = [row for row in content.in_state("baseline")[:1] if finite(row["objective"]) is not None]
    values = [value for trace in traces for value in trace["y"]]
    low, high = (
        min(values, default=0.0),
        max([*values, *(row["objective"] for row in baselines)], default=0.0),
    )
    failed = _failed(content.in_state("failed"), low - FOOT * (high - low))
    layout = {
        "xaxis": {"title": "trial", "tickformat": "d"},
        "yaxis": {"title": content.objective},
        **_levels(baselines),
    }
    return figure_of([_best_line(content), *traces, failed], layout)


def _best_line(content: StudyContent) -> Figure:
    best = best_so_far(sorted(content.ranked, key=lambda row: int(row["trial"])))
    last = max(int(row["trial"]) for row in content.trials)
    return {
        "name": "best so far",
        "mode": "lines",
        "x": [trial for trial, _ in best] + [last],
        "y": [value for _, value in best] + [best[-1][1]],
        "line": {"color": "--accent", "width": 2, "shape": "hv"},
        "hoverinfo": "skip",
    }


def _trials(content: StudyContent, state: str) -> Figure:
    rows = [row for row in content.trials if row["state"] == state and finite(row["objective"]) is not None]
    return points([row["trial"] for row in rows], rows, state, _marker(state))


def _failed(rows: Sequence[Row], level: float) -> Figure:
    """At the foot of the plot: they have no value."""
    trace = points([row["trial"] for row in rows], rows, "failed", _marker("failed"))
    return {**trace, "y": [level] * len(rows)}


def _marker(state: str) -> dict[str, Any]:
    colour, symbol = STATES[state]
    return {"color": colour, "symbol": symbol, "size": 8}


def _levels(rows: Sequence[Row]) -> dict[str, Any]:
    """A dotted line at the value of each row, with its name."""
    shapes = [
        {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": row["objective"], "y1": row["objective"]}
        | {"line": {"color": "--soft", "width": 1, "dash": "dot"}}
        for row in rows
    ]
    notes = [
        {
            "xref": "paper",
            "x": 1,
            "y": row["objective"],
            "text": plot_text(row["model"]),
            "showarrow": False,
            "xanchor": "right",
            "yanchor": "bottom",
            "font": {"color": "--soft", "size": 11},
        }
        for row in rows
    ]
    return {"shapes": shapes, "annotations": notes}
