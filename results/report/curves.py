"""Learning curves: validation by epoch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from typing import Any

from seqsweep.results.report.content import StudyContent, finite
from seqsweep.results.report.figure import (
    LEGEND_REVERSED,
    NUM_SERIES,
    SYMBOLS,
    Figure,
    figure_of,
    plot,
    series_colour,
)
from seqsweep.results.report.html import section

NUM_BEST = 5  # trials whose curves are in colour
MAX_THIN = 100

Points = Sequence[tuple[int | None, float | None]]  # epoch, value; a gap where both are None


def learning_curves(content: StudyContent) -> str:
    if not content.epochs or not content.ranked:
        return ""
    rungs, curves = _rungs(content), _by_trial(content)
    best = _best_trials(content, curves)
    pruned = [int(row["trial"]) for row in content.in_state("pruned")]
    thin = [trial for trial in pruned if trial in curves and trial not in best][:MAX_THIN]
    lead = "Validation after each epoch: the best trials in colour."
    if thin:
        part = "" if len(thin) == len(pruned) else f"{len(thin)} of "
        lead += f" Thin: {part}the {len(pruned)} that were pruned, up to where they were stopped."
    if rungs:
        lead += f" Dotted: the rungs (epochs {', '.join(map(str, rungs))}), where poor trials are stopped."
    label = "Validation values by epoch of the best trials and of those that were pruned"
    traces = [*_pruned([curves[trial] for trial in thin]), *_best(best, curves)]
    drawn = plot(figure_of(traces, _layout(content, rungs)), label, height=400)
    return section("curves", "Learning curves", lead, drawn)


def _rungs(content: StudyContent) -> list[int]:
    return sorted({rung for name in content.families for rung in content.about.rungs.get(name, ())})


def _by_trial(content: StudyContent) -> dict[int, list[tuple[int, float]]]:
    curves: defaultdict[int, list[tuple[int, float]]] = defaultdict(list)
    for row in content.epochs:
        if (value := finite(row["objective"])) is not None:
            curves[int(row["trial"])].append((int(row["epoch"]), value))
    return dict(curves)


def _best_trials(content: StudyContent, curves: Container[int]) -> list[int]:
    complete = [row for row in content.ranked if row["state"] == "complete"] or content.ranked
    return [int(row["trial"]) for row in complete if int(row["trial"]) in curves][:NUM_BEST]


def _layout(content: StudyContent, rungs: Sequence[int]) -> dict[str, Any]:
    return {
        "xaxis": {"title": "epoch", "tickformat": "d"},
        "yaxis": {"title": content.objective},
        "legend": LEGEND_REVERSED,
        "shapes": [
            {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": rung, "x1": rung}
            | {"line": {"color": "--soft", "width": 1, "dash": "dot"}, "layer": "below"}
            for rung in rungs
        ],
    }


def _pruned(curves: Sequence[Sequence[tuple[int, float]]]) -> list[Figure]:
    thin = _curve("pruned", [point for curve in curves for point in [*curve, (None, None)]])
    ends = _curve("stopped here", [curve[-1] for curve in curves])
    return [
        {**thin, "line": {"color": "--faint", "width": 1}, "hoverinfo": "skip"},
        {**ends, "mode": "markers", "marker": {"color": "--soft", "symbol": "diamond-open", "size": 6}},
    ]


def _best(trials: Sequence[int], curves: Mapping[int, Points]) -> list[Figure]:
    """The very best is drawn last, on top."""
    return [
        {
            **_curve(f"trial {trial}", curves[trial]),
            "mode": "lines+markers",
            "line": {"color": series_colour(place), "width": 2.5 if place == 0 else 1.5},
            "marker": {"symbol": SYMBOLS[place % NUM_SERIES], "size": 6 if place == 0 else 5},
        }
        for place, trial in reversed(list(enumerate(trials)))
    ]


def _curve(name: str, points: Points) -> Figure:
    return {"name": name, "mode": "lines", "x": [x for x, _ in points], "y": [y for _, y in points]}
