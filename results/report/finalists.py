"""The best trials, trained again over fresh seeds."""

from __future__ import annotations

from collections.abc import Sequence

from seqsweep.results.report.content import ENDED, Row, StudyContent, finite, interval
from seqsweep.results.report.figure import PARTS, Figure, plot, plot_text
from seqsweep.results.report.html import NOTHING, section, shown, table

SHIFT = {"valid": 0.14, "test": -0.14}  # of a finalist's line, so that the two lie beside each other


def finalists(content: StudyContent) -> str:
    rows = [row for row in content.ranked if row.get("seeds") is not None]
    if not rows:
        lead = f"The best trials, trained again over fresh seeds. {_none(content)}"
        return section("finalists", "Finalists", lead)
    lead = (
        "The best trials, trained again over fresh seeds. Square and circle are means with their 95 % "
        "interval over users and seeds, strokes single trainings. Where intervals overlap much, either may "
        "be better."
    )
    label = f"Means and intervals of {len(rows)} finalists"
    drawn = plot(_figure(content, rows[::-1]), label, height=130 + 52 * len(rows))
    return section("finalists", "Finalists", lead, drawn, _listed(content, rows))


def _none(content: StudyContent) -> str:
    """Why there is none. A driver that has just ended a trial, or that was stopped, has none in work."""
    if content.finalists:
        return "None yet: they are being trained."
    num_ended = sum(len(content.in_state(state)) for state in ENDED)
    in_work = content.in_state("running") or content.in_state("queued")
    is_over = num_ended >= content.about.num_trials and not in_work
    return "None was trained." if is_over else "None yet: they come after the search."


def _listed(content: StudyContent, rows: Sequence[Row]) -> str:
    names = [f"{part}.{content.metric}" for part in PARTS]
    spread = [f"{name} {what}" for name in names for what in ("mean", "std", "95 % interval")]
    return table(
        "Finalists, best first",
        ("finalist", "seeds", *spread),
        [
            (f"trial {row['trial']}", row["seeds"], *(cell for name in names for cell in _spread(row, name)))
            for row in rows
        ],
    )


def _spread(row: Row, column: str) -> tuple[object, object, str]:
    return row.get(f"{column}.mean"), row.get(f"{column}.std"), interval(row, column) or NOTHING


def _figure(content: StudyContent, rows: Sequence[Row]) -> Figure:
    """Mean and 95 % interval of every finalist on validation and test, and each of its trainings."""
    layout = {
        "xaxis": {"title": f"{content.metric}, mean and 95 % interval"},
        "yaxis": {
            "tickvals": list(range(len(rows))),
            "ticktext": [f"trial {row['trial']}" for row in rows],
            "range": [-0.6, len(rows) - 0.4],
            "showgrid": False,
        },
    }
    traces = [trace for part in PARTS for trace in (_means(content, rows, part), _each(content, rows, part))]
    return {"data": traces, "layout": layout}


def _means(content: StudyContent, rows: Sequence[Row], part: str) -> Figure:
    colour, symbol = PARTS[part]
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
    return {
        "name": column,
        "mode": "markers",
        "x": mean,
        "y": [place + SHIFT[part] for place, _ in there],
        "error_x": error,
        "marker": {"color": colour, "symbol": symbol, "size": 9},
        "text": [
            plot_text(f"trial {row['trial']}: {column} {shown(m)}")
            for (_, row), m in zip(there, mean, strict=True)
        ],
        "hoverinfo": "text",
    }


def _each(content: StudyContent, rows: Sequence[Row], part: str) -> Figure:
    colour, _ = PARTS[part]
    column = f"{part}.{content.metric}"
    each = [
        (place + SHIFT[part], training[column])
        for place, row in enumerate(rows)
        for training in content.finalists
        if training["finalist_of"] == row["trial"] and finite(training[column]) is not None
    ]
    return {
        "name": f"{part}, each training",
        "mode": "markers",
        "x": [value for _, value in each],
        "y": [place for place, _ in each],
        "marker": {"color": colour, "symbol": "line-ns-open", "size": 8},
        "hoverinfo": "x",
        "showlegend": False,
    }
