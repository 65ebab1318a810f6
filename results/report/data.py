"""The log that was searched on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from seqsweep.results.report.content import StudyContent
from seqsweep.results.report.figure import Figure, plot
from seqsweep.results.report.html import NOT_RECORDED, columns, section, spaced, table


def data(content: StudyContent) -> str:
    facts = content.about.data
    if facts is None:
        return section(
            "data",
            "Data",
            f"Facts of the log are {NOT_RECORDED}: the study was run before they were kept. The command that "
            f"started it adds them when it is given again. Fingerprint: {content.attrs['fingerprint']}.",
        )
    lead = (
        f"{facts['num_users']:,} users, {facts['num_items']:,} items, {facts['num_interactions']:,} "
        f"interactions from {facts['origin']}."
    )
    steps = table(
        "Before and after the filters",
        ("step", "interactions", "users", "items"),
        [(row["step"], row["num_rows"], row["num_users"], row["num_items"]) for row in facts["counts"]],
    )
    lengths = _bars(facts["lengths"], "interactions of a user", "users")
    popularity = _bars(facts["popularity"], "interactions of an item", "items")
    drawn = columns(
        plot(lengths, "Users by their interactions", height=250),
        plot(popularity, "Items by their interactions", height=250),
    )
    return section("data", "Data", lead, drawn, columns(steps, _facts(content, facts)))


def _facts(content: StudyContent, facts: Mapping[str, Any]) -> str:
    density = facts["num_interactions"] / (facts["num_users"] * facts["num_items"])
    rows = [
        ("density", f"{density:.3%}"),
        (
            "neighbours with equal times",
            f"{facts['tie_share']:.1%}" if facts["has_timestamps"] else "no times",
        ),
        ("repeats of an item by its user", f"{facts['repeat_share']:.1%}"),
        ("interactions of the top 1 % of items", f"{facts['head_share']:.1%}"),
        *((spaced(name.removeprefix("num_")), number) for name, number in content.about.split.items()),
        ("fingerprint", str(content.attrs["fingerprint"])[:12]),
    ]
    return table("Facts", ("", ""), rows)


def _bars(ranges: Sequence[tuple[str, int]], x: str, y: str) -> Figure:
    trace = {
        "type": "bar",
        "x": [label for label, _ in ranges],
        "y": [count for _, count in ranges],
        "marker": {"color": "--accent"},
    }
    layout = {"xaxis": {"title": x, "type": "category"}, "yaxis": {"title": y}, "bargap": 0.25}
    return {"data": [trace], "layout": layout}
