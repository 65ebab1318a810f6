"""report.html: one study, or several side by side, as one file that works without a network."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from results.report import sections
from results.report.compare import comparison
from results.report.content import StudyContent, StudyFolder, read_content
from results.report.html import page

REPORT_FILE = "report.html"

SECTIONS = (
    sections.best_trial,
    sections.front,
    sections.history,
    sections.finalists,
    sections.references,
    sections.learning_curves,
    sections.importances,
    sections.parallel,
    sections.slices,
    sections.cost,
    sections.leaderboard,
    sections.failures,
    sections.data,
    sections.made_with,
)


def write_report(about: StudyFolder, path: Path | None = None) -> Path:
    """The page of a study, written beside its tables from what they hold. Raises FileNotFoundError."""
    path = about.folder / REPORT_FILE if path is None else path
    _write(path, study_page(read_content(about), datetime.now(UTC)))
    return path


def write_comparison(studies: Sequence[StudyFolder], path: Path) -> Path:
    _write(path, comparison_page([read_content(about) for about in studies], datetime.now(UTC)))
    return path


def study_page(content: StudyContent, now: datetime) -> str:
    parts = [part for make in SECTIONS if (part := make(content))]
    title = f"{content.name} · seqsweep"
    return page(title, sections.heading(content), _links(parts), "\n".join(parts), now)


def comparison_page(contents: Sequence[StudyContent], now: datetime) -> str:
    heading, parts = comparison(contents)
    return page("Studies compared · seqsweep", heading, _links(parts), "\n".join(parts), now)


def _links(parts: Sequence[str]) -> list[tuple[str, str]]:
    found = [re.match(r'<section id="([a-z-]+)".*?<h2[^>]*>([^<]*)</h2>', part, re.DOTALL) for part in parts]
    return [(match[1], match[2]) for match in found if match is not None]


def _write(path: Path, content: str) -> None:
    """A reader finds the old page or the new one, whole."""
    staging = path.with_name(f".{path.name}.staging")
    try:
        staging.write_text(content, encoding="utf-8")
        os.replace(staging, path)
    finally:
        staging.unlink(missing_ok=True)
