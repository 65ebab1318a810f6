"""The best trial between the baselines and, where it is known, the ceiling."""

from __future__ import annotations

from collections.abc import Sequence

from seqsweep.results.report.content import Row, StudyContent, finite
from seqsweep.results.report.figure import PARTS, Figure, figure_of, plot, plot_text
from seqsweep.results.report.html import columns, section, spaced, table


def references(content: StudyContent) -> str:
    baselines, ceilings, best = content.in_state("baseline"), content.in_state("ceiling"), content.best
    if not baselines and not ceilings:
        return ""
    lead = "What a model has to beat" + (
        ", and the best that any model could reach on this generated log." if ceilings else "."
    )
    rows = [*ceilings, *([best] if best is not None else []), *baselines]
    names = [f"{part}.{name}" for part in PARTS for name in dict.fromkeys((content.metric, "hr@10"))]
    listed = table(
        "Baselines"
        + (", ceilings" if ceilings else "")
        + (" and the best trial" if best is not None else ""),
        ("", *names),
        [(_name(row), *(finite(row[name]) for name in names)) for row in rows],
    )
    drawn = ""
    if best is not None:
        label = f"{content.metric} of the best trial beside {len(rows) - 1} baselines and ceilings"
        drawn = plot(_figure(content, rows[::-1]), label, height=120 + 34 * len(rows))
    title = "Baselines" + (" and ceiling" if ceilings else "")
    return section("baselines", title, lead, columns(drawn, listed))


def _name(row: Row) -> str:
    return spaced(str(row["model"])) if row["trial"] is None else f"trial {row['trial']}"


def _figure(content: StudyContent, rows: Sequence[Row]) -> Figure:
    traces = []
    for part, (colour, symbol) in PARTS.items():
        column = f"{part}.{content.metric}"
        there = [row for row in rows if row[column] is not None]
        traces.append(
            {
                "name": column,
                "mode": "markers",
                "x": [row[column] for row in there],
                "y": [plot_text(_name(row)) for row in there],
                "marker": {"color": colour, "symbol": symbol, "size": 9},
            }
        )
    layout = {
        "xaxis": {"title": content.metric, "rangemode": "tozero"},
        "yaxis": {
            "type": "category",
            "categoryorder": "array",
            "categoryarray": [plot_text(_name(row)) for row in rows],
        },
    }
    return figure_of(traces, layout)
