"""The plots of a report, each as plain data for Plotly.newPlot: see html.Figure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from results.report.content import Row, StudyContent, dominates_none, finite, short_name
from results.report.html import Figure, hparam_text, plot_text, shown

STATES = {  # colour, shape: told apart by either
    "complete": ("--accent", "circle"),
    "pruned": ("--soft", "diamond-open"),
    "running": ("--warm", "triangle-up"),
    "failed": ("--bad", "x"),
}
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross")
CURVES = 5  # of the best trials
THIN_CURVES = 100
AXES = 10  # of the parallel coordinates
WIDE = 3  # a cost that differs by more than this factor is drawn on a logarithmic scale
FOOT = 0.08  # of the height of the history: failed trials, which have no value, lie so far below the others
FEW_VALUES = 5  # of whole numbers: each gets its tick


def history(content: StudyContent) -> Figure:
    """Values by trial, the best so far, and the best baseline."""
    traces = [
        _trials(content, [row for row in content.in_state(state) if row["trial"] is not None], state)
        for state in ("pruned", "complete", "running")
    ]
    best = best_so_far(sorted(content.ranked, key=lambda row: int(row["trial"])))
    last = max(int(row["trial"]) for row in content.trials)
    line = {
        "name": "best so far",
        "mode": "lines",
        "x": [trial for trial, _ in best] + [last],
        "y": [value for _, value in best] + [best[-1][1]],
        "line": {"color": "--accent", "width": 2, "shape": "hv"},
        "hoverinfo": "skip",
    }
    values = [value for trace in traces for value in trace["y"]]
    levels = [
        value for row in content.in_state("baseline")[:1] if (value := finite(row["objective"])) is not None
    ]
    low, high = min(values, default=0.0), max([*values, *levels], default=0.0)
    failed = _failed(content.in_state("failed"), low - FOOT * (high - low))
    layout = {
        "xaxis": {"title": "trial", "tickformat": "d"},
        "yaxis": {"title": content.objective},
        **_levels(content.in_state("baseline")[:1]),
    }
    return {"data": [trace for trace in [line, *traces, failed] if trace["x"]], "layout": layout}


def best_so_far(rows: Iterable[Row]) -> list[tuple[int, float]]:
    """Trial and value, each time that the value became better; in the order of the rows."""
    steps: list[tuple[int, float]] = []
    for row in rows:
        value = finite(row["objective"])
        if value is not None and (not steps or value > steps[-1][1]):
            steps.append((int(row["trial"]), value))
    return steps


def _trials(content: StudyContent, rows: Sequence[Row], state: str) -> Figure:
    there = [row for row in rows if finite(row["objective"]) is not None]
    colour, symbol = STATES[state]
    return _points(
        [row["trial"] for row in there], there, state, {"color": colour, "symbol": symbol, "size": 8}
    )


def _failed(rows: Sequence[Row], level: float) -> Figure:
    """At the foot of the plot: they have no value."""
    colour, symbol = STATES["failed"]
    marker = {"color": colour, "symbol": symbol, "size": 8}
    return {**_points([row["trial"] for row in rows], rows, "failed", marker), "y": [level] * len(rows)}


def _points(x: Sequence[Any], rows: Sequence[Row], name: str, marker: Mapping[str, Any]) -> Figure:
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
    lines += [f"{row['model']}"] if row["model"] is not None else []
    lines += [str(row["error"])[:120]] if row["error"] is not None else []
    return "<br>".join(map(plot_text, lines))


def _levels(rows: Sequence[Row]) -> dict[str, Any]:
    """A dotted line at the value of each row, with its name."""
    there = [row for row in rows if finite(row["objective"]) is not None]
    line = {"color": "--soft", "width": 1, "dash": "dot"}
    shapes = [
        {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": row["objective"], "y1": row["objective"]}
        for row in there
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
        for row in there
    ]
    return {"shapes": [{**shape, "line": line} for shape in shapes], "annotations": notes}


def learning_curves(content: StudyContent) -> Figure:
    """The best trials' values by epoch; thin behind them those that were pruned, and the rungs."""
    curves: defaultdict[int, list[tuple[int, float]]] = defaultdict(list)
    for row in content.epochs:
        if (value := finite(row["objective"])) is not None:
            curves[int(row["trial"])].append((int(row["epoch"]), value))
    complete = [row for row in content.ranked if row["state"] == "complete"] or content.ranked
    best = [int(row["trial"]) for row in complete if int(row["trial"]) in curves][:CURVES]
    pruned = [int(row["trial"]) for row in content.in_state("pruned") if int(row["trial"]) not in best][
        :THIN_CURVES
    ]
    thin = _curve("pruned", [point for trial in pruned for point in [*curves[trial], (None, None)]])
    ends = [curves[trial][-1] for trial in pruned if curves[trial]]
    traces = [
        {**thin, "line": {"color": "--faint", "width": 1}, "hoverinfo": "skip"},
        {
            **_curve("stopped here", ends),
            "mode": "markers",
            "marker": {"color": "--soft", "symbol": "diamond-open", "size": 6},
        },
        *(
            {
                **_curve(f"trial {trial}", curves[trial]),
                "mode": "lines+markers",
                "line": {"color": f"--series-{1 + place % 5}", "width": 2.5 if place == 0 else 1.5},
                "marker": {"symbol": SYMBOLS[place % 5], "size": 6 if place == 0 else 5},
            }
            for place, trial in reversed(list(enumerate(best)))
        ),
    ]
    layout = {
        "xaxis": {"title": "epoch", "tickformat": "d"},
        "yaxis": {"title": content.objective},
        "legend": {"traceorder": "reversed", "orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "shapes": [
            {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": rung, "x1": rung}
            | {"line": {"color": "--soft", "width": 1, "dash": "dot"}, "layer": "below"}
            for rung in rungs_shown(content)
        ],
    }
    return {"data": [trace for trace in traces if trace["x"]], "layout": layout}


def rungs_shown(content: StudyContent) -> list[int]:
    return sorted({rung for name in content.families for rung in content.about.rungs.get(name, ())})


def _curve(name: str, points: Sequence[tuple[int | None, float | None]]) -> Figure:
    return {"name": name, "mode": "lines", "x": [x for x, _ in points], "y": [y for _, y in points]}


def importances(shares: Mapping[str, float]) -> Figure:
    names = list(shares)[::-1]
    bars = {
        "type": "bar",
        "orientation": "h",
        "y": [plot_text(name) for name in names],
        "x": [shares[name] for name in names],
        "text": [f"{shares[name]:.0%}" for name in names],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": "--accent"},
        "hoverinfo": "skip",
    }
    largest = max(shares.values())
    layout = {
        "xaxis": {"visible": False, "range": [0, largest * 1.12]},
        "yaxis": {"type": "category", "showgrid": False, "ticklabelstandoff": 6},
        "bargap": 0.35,
    }
    return {"data": [bars], "layout": layout}


def slice_of(content: StudyContent, column: str) -> Figure:
    """The value of every trial by one hyperparameter."""
    rows = [row for row in content.drawn if row[column] is not None]
    is_text = any(isinstance(row[column], str | bool) for row in rows)
    traces = []
    for place, family in enumerate(content.families):
        own = [row for row in rows if row["model"] == family]
        x = [plot_text(hparam_text(row[column])) if is_text else row[column] for row in own]
        marker = {
            "color": f"--series-{1 + place % 5}",
            "symbol": SYMBOLS[place % 5],
            "size": 7,
            "opacity": 0.75,
        }
        traces.append(_points(x, own, family, marker))
    axis: dict[str, Any] = {"type": "category", "tickfont": {"size": 10, "color": "--soft"}}
    if not is_text:
        axis = _number_axis([row[column] for row in rows], is_log=column in content.log_scaled)
    layout = {
        "xaxis": axis,
        "yaxis": {"nticks": 5},
        "showlegend": False,
        "margin": {"l": 44, "r": 8, "t": 6, "b": 28},
    }
    return {"data": [trace for trace in traces if trace["x"]], "layout": layout}


def _number_axis(values: Sequence[float], *, is_log: bool) -> dict[str, Any]:
    axis = {"type": "log", **_log_ticks(values)} if is_log and min(values) > 0 else {"nticks": 5}
    few = sorted(set(values))
    if len(few) <= FEW_VALUES and all(isinstance(value, int) for value in few):
        axis |= {"tickvals": few, "ticktext": [_tick(value) for value in few]}
    return axis


def _log_ticks(values: Sequence[float]) -> dict[str, Any]:
    """1, 2 and 5 of every power of ten among the values, or the powers alone where they are many."""
    low, high = min(values), max(values)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    inside = [tick for tick in ticks if low / 1.05 <= tick <= high * 1.05]
    if len(inside) > 6:
        inside = [10.0**power for power in powers if low / 1.05 <= 10.0**power <= high * 1.05]
    if len(inside) < 2:
        inside = [low, high]
    step = math.ceil(len(inside) / 5)
    inside = inside[::step]
    return {"tickvals": inside, "ticktext": [_tick(tick) for tick in inside]}


def _tick(value: float) -> str:
    """0.001, 64, 20k, 1e-6."""
    if value >= 1e4:
        return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k"
    return f"{value:.3g}" if value >= 1e-3 else f"{value:.0e}".replace("e-0", "e-")


def parallel(content: StudyContent, columns: Sequence[str]) -> Figure:
    """A line a trial over its hyperparameters; at the right its value. What a trial has not lies below."""
    rows = content.drawn
    axes = [_axis(content, rows, column) for column in columns[:AXES]]
    axes.append(_Axis(content.objective, [finite(row["objective"]) for row in rows], is_log=False))
    order = sorted(range(len(rows)), key=lambda place: -(rows[place]["objective"]))
    best, upper = max(1, len(rows) // 10), len(rows) // 2
    groups = (
        ("the others", order[max(upper, best) :], "--faint", 1.0, 0.45),
        ("better half", order[best : max(upper, best)], "--soft", 1.0, 0.6),
        ("best tenth" if len(rows) >= 20 else "the best", order[:best], "--accent", 2.2, 1.0),
    )
    traces = [
        {
            "name": name,
            "mode": "lines",
            "x": [x for _ in places for x in [*range(len(axes)), None]],
            "y": [y for place in places for y in [*(axis.height[place] for axis in axes), None]],
            "text": [t for place in places for t in [*(_at(axis, rows, place) for axis in axes), ""]],
            "hoverinfo": "text",
            "line": {"color": colour, "width": width},
            "opacity": opacity,
        }
        for name, places, colour, width, opacity in groups
        if places
    ]
    layout: dict[str, Any] = {
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
        "legend": {"traceorder": "reversed", "orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
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
    return {"data": traces, "layout": layout}


def _axis(content: StudyContent, rows: Sequence[Row], column: str) -> _Axis:
    return _Axis(column, [row[column] for row in rows], is_log=column in content.log_scaled)


class _Axis:
    """Of the parallel coordinates: `height` of each trial from 0 to 1, or ABSENT; `ticks`: height, label."""

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
    return _tick(value) if isinstance(value, int) or abs(value) >= 1 or abs(value) < 1e-3 else f"{value:.3g}"


def _at(axis: _Axis, rows: Sequence[Row], place: int) -> str:
    row = rows[place]
    value = row["objective"] if axis.name not in row else row[axis.name]
    return plot_text(f"trial {row['trial']}: {short_name(axis.name)} {hparam_text(value)}")


def finalists(content: StudyContent) -> Figure:
    """Mean and 95 % interval of every finalist on validation and test, and each of its trainings."""
    rows = [row for row in content.ranked if row.get("seeds") is not None][::-1]
    traces: list[Figure] = []
    for part, colour, symbol, shift in (
        ("valid", "--soft", "square", 0.14),
        ("test", "--accent", "circle", -0.14),
    ):
        column = f"{part}.{content.metric}"
        there = [(place, row) for place, row in enumerate(rows) if row.get(f"{column}.mean") is not None]
        mean = [row[f"{column}.mean"] for _, row in there]
        high = [row.get(f"{column}.high") for _, row in there]
        low = [row.get(f"{column}.low") for _, row in there]
        error = {
            "type": "data",
            "symmetric": False,
            "array": [0 if h is None else h - m for h, m in zip(high, mean, strict=True)],
            "arrayminus": [0 if lo is None else m - lo for lo, m in zip(low, mean, strict=True)],
            "color": colour,
            "thickness": 2,
            "width": 5,
        }
        traces.append(
            {
                "name": column,
                "mode": "markers",
                "x": mean,
                "y": [place + shift for place, _ in there],
                "error_x": error,
                "marker": {"color": colour, "symbol": symbol, "size": 9},
                "text": [
                    plot_text(f"trial {row['trial']}: {column} {shown(m)}")
                    for (_, row), m in zip(there, mean, strict=True)
                ],
                "hoverinfo": "text",
            }
        )
        each = [
            (place + shift, run[column])
            for place, row in enumerate(rows)
            for run in content.finalists
            if run["finalist_of"] == row["trial"] and finite(run[column]) is not None
        ]
        traces.append(
            {
                "name": f"{part}, each training",
                "mode": "markers",
                "x": [value for _, value in each],
                "y": [place for place, _ in each],
                "marker": {"color": colour, "symbol": "line-ns-open", "size": 8},
                "hoverinfo": "x",
                "showlegend": False,
            }
        )
    layout = {
        "xaxis": {"title": f"{content.metric}, mean and 95 % interval"},
        "yaxis": {
            "tickvals": list(range(len(rows))),
            "ticktext": [f"trial {row['trial']}" for row in rows],
            "range": [-0.6, len(rows) - 0.4],
            "showgrid": False,
        },
    }
    return {"data": traces, "layout": layout}


def references(content: StudyContent, best: Row) -> Figure:
    """The best trial between the baselines and, where it is known, the ceiling."""
    rows = [*content.in_state("ceiling"), best, *content.in_state("baseline")][::-1]
    names = [f"trial {row['trial']}" if row["trial"] is not None else str(row["model"]) for row in rows]
    traces = []
    for part, colour, symbol in (("valid", "--soft", "square"), ("test", "--accent", "circle")):
        column = f"{part}.{content.metric}"
        there = [
            (name, row[column]) for name, row in zip(names, rows, strict=True) if row[column] is not None
        ]
        traces.append(
            {
                "name": column,
                "mode": "markers",
                "x": [value for _, value in there],
                "y": [plot_text(name.replace("_", " ")) for name, _ in there],
                "marker": {"color": colour, "symbol": symbol, "size": 9},
            }
        )
    layout = {
        "xaxis": {"title": content.metric, "rangemode": "tozero"},
        "yaxis": {
            "type": "category",
            "categoryorder": "array",
            "categoryarray": [plot_text(name.replace("_", " ")) for name in names],
        },
    }
    return {"data": [trace for trace in traces if trace["x"]], "layout": layout}


def cost(content: StudyContent, column: str, title: str) -> Figure:
    """Value by a cost, and the trials that no cheaper one equals."""
    rows = [row for row in content.ranked if row[column]]
    traces = []
    for place, family in enumerate(content.families):
        own = [row for row in rows if row["model"] == family]
        marker = {
            "color": f"--series-{1 + place % 5}",
            "symbol": SYMBOLS[place % 5],
            "size": 8,
            "opacity": 0.8,
        }
        traces.append(_points([row[column] for row in own], own, family, marker))
    front = sorted(
        dominates_none(rows, {"objective": "maximize", column: "minimize"}),
        key=lambda row: float(row[column]),
    )
    traces.insert(
        0,
        {
            "name": "front",
            "mode": "lines",
            "x": [row[column] for row in front],
            "y": [row["objective"] for row in front],
            "line": {"color": "--soft", "width": 1.5, "shape": "hv"},
            "hoverinfo": "skip",
        },
    )
    values = [float(row[column]) for row in rows]
    axis: dict[str, Any] = {"title": title}
    if max(values) / min(values) >= WIDE:
        axis |= {"type": "log", **_log_ticks(values)}
    layout = {"xaxis": axis, "yaxis": {"title": content.objective}}
    return {"data": [trace for trace in traces if trace["x"]], "layout": layout}


def front(content: StudyContent, x: str, y: str) -> Figure:
    """Two of several objectives; filled: no other trial is at least as good in all."""
    rows = [row for row in content.ranked if finite(row[x]) is not None and finite(row[y]) is not None]
    traces = []
    for name, is_on, marker in (
        ("others", False, {"color": "--faint", "symbol": "circle-open", "size": 8}),
        ("on the front", True, {"color": "--accent", "symbol": "circle", "size": 10}),
    ):
        own = [row for row in rows if bool(row["on_front"]) is is_on]
        traces.append({**_points([row[x] for row in own], own, name, marker), "y": [row[y] for row in own]})
    values = [float(row[x]) for row in rows if row[x]]
    axis: dict[str, Any] = {"title": x}
    if len(values) == len(rows) and max(values) / min(values) >= WIDE:
        axis |= {"type": "log", **_log_ticks(values)}
    return {
        "data": [trace for trace in traces if trace["x"]],
        "layout": {"xaxis": axis, "yaxis": {"title": y}},
    }


def bars(ranges: Sequence[tuple[str, int]], x: str, y: str) -> Figure:
    trace = {
        "type": "bar",
        "x": [label for label, _ in ranges],
        "y": [count for _, count in ranges],
        "marker": {"color": "--accent"},
    }
    layout = {"xaxis": {"title": x, "type": "category"}, "yaxis": {"title": y}, "bargap": 0.25}
    return {"data": [trace], "layout": layout}


def compared(contents: Sequence[tuple[str, StudyContent]], *, by_hours: bool) -> Figure:
    """The best so far of several studies, over trials or over the device hours that they took."""
    traces = []
    for place, (name, content) in enumerate(contents):
        x, y = _over_hours(content) if by_hours else _over_trials(content)
        traces.append(
            {
                "name": plot_text(name),
                "mode": "lines",
                "x": x,
                "y": y,
                "line": {
                    "color": f"--series-{1 + place % 5}",
                    "width": 2,
                    "shape": "hv",
                    "dash": ("solid", "dash", "dot", "dashdot", "longdash")[place % 5],
                },
            }
        )
    objectives = list(dict.fromkeys(content.objective for _, content in contents))
    layout = {
        "xaxis": {"title": "device hours" if by_hours else "trials", "rangemode": "tozero"},
        "yaxis": {"title": " / ".join(objectives)},
    }
    return {"data": [trace for trace in traces if trace["x"]], "layout": layout}


def _over_trials(content: StudyContent) -> tuple[list[float], list[float]]:
    rows = sorted(content.ranked, key=lambda row: int(row["trial"]))
    steps = best_so_far(rows)
    return _steps(steps, [int(row["trial"]) for row in rows], lambda trial: float(trial + 1))


def _over_hours(content: StudyContent) -> tuple[list[float], list[float]]:
    ended = [row for row in content.trials if row["ended_at"] is not None]
    ended.sort(key=lambda row: row["ended_at"])
    hours, spent = {}, 0.0
    for row in ended:
        spent += (row["device_seconds"] or 0.0) / 3600
        hours[int(row["trial"])] = spent
    ranked = {int(row["trial"]) for row in content.ranked}
    steps = best_so_far([row for row in ended if int(row["trial"]) in ranked])
    return _steps(steps, list(hours), lambda trial: hours[trial])


def _steps(
    steps: Sequence[tuple[int, float]], trials: Sequence[int], place: Any
) -> tuple[list[float], list[float]]:
    if not steps:
        return [], []
    x, y = [place(trial) for trial, _ in steps], [value for _, value in steps]
    return [*x, place(trials[-1])], [*y, y[-1]]
