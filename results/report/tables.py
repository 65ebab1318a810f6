"""Sections that are tables alone: the trials, those that failed, and the settings of the study."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from seqsweep.results.report.content import Row, StudyContent, finite, is_hparam, short_name
from seqsweep.results.report.html import (
    NOT_RECORDED,
    NOTHING,
    code,
    columns,
    duration,
    hparam_text,
    paragraph,
    section,
    spaced,
    table,
    whole,
)
from seqsweep.results.schema import FAMILY

SHOWN_TRIALS = 20


def leaderboard(content: StudyContent) -> str:
    if not content.trials:
        return ""
    rows = content.trials[:SHOWN_TRIALS]
    family = [name for name in FAMILY if any(row[name] is not None for row in rows)]
    objectives = [name for name in content.about.objectives if name != content.objective]
    numbers = [*objectives, "best_epoch", "epochs", "num_parameters"]
    varied = [name for name in content.hparams if is_hparam(name)]
    header = ("rank", "trial", "state", *family, content.objective, *map(spaced, numbers), "time")
    listed = table(
        f"{len(rows)} of {len(content.trials)} trials" if len(rows) < len(content.trials) else "All trials",
        (*header, *map(short_name, varied)),
        [
            (
                *(row[name] for name in ("rank", "trial", "state", *family)),
                finite(row["objective"]),
                *(whole(row[name]) for name in numbers),
                duration(row["seconds"]),
                *(NOTHING if row[name] is None else hparam_text(row[name]) for name in varied),
            )
            for row in rows
        ],
        left=3 + len(family),
    )
    lead = "Best first. All columns of all trials are in leaderboard.parquet."
    return section("leaderboard", "Leaderboard", lead, listed)


def failures(content: StudyContent) -> str:
    by_class: defaultdict[str, list[Row]] = defaultdict(list)
    for row in content.in_state("failed"):
        by_class[_error(row).partition(":")[0]].append(row)
    if not by_class:
        return ""
    most_first = sorted(by_class.items(), key=lambda entry: -len(entry[1]))
    rows = [
        (
            name,
            len(failed),
            _error(failed[0]).partition(": ")[2][:300],
            ", ".join(str(row["trial"]) for row in failed[:12]),
        )
        for name, failed in most_first
    ]
    study = shlex.quote(content.about.path)
    number = most_first[0][1][0]["trial"]
    return section(
        "failures",
        "Failures",
        "By class, with the first line of the first of them.",
        table("Failed trials", ("class", "trials", "first line", "numbers"), rows, left=4),
        paragraph("The traceback of one, and all of them once more:"),
        code(f"seqsweep show {study} {number}\nseqsweep retry {study} --failed"),
    )


def _error(row: Row) -> str:
    return str(row["error"] or NOT_RECORDED)


def made_with(content: StudyContent) -> str:
    facts = content.about.environment
    search: Mapping[str, Any] = facts.get("search", {})
    settings = [
        (spaced(name), ", ".join(map(str, value)) if isinstance(value, list) else value)
        for name, value in search.items()
        if not isinstance(value, dict) and value not in (None, [])
    ]
    if content.about.seed is not None:
        settings.insert(0, ("seed", content.about.seed))
    machine = [
        (spaced(name), facts[name])
        for name in ("commit", "uncommitted_changes", "platform", "cpus")
        if facts.get(name) is not None
    ]
    versions: Mapping[str, str] = content.attrs["versions"]
    lead = "How it was searched, and with what: enough to run it again with study.toml."
    searched = table("Search", ("", ""), settings) if settings else ""
    made = table("Made with", ("", ""), [*machine, *sorted(versions.items())])
    return section("made-with", "Settings", lead, columns(searched, made))
