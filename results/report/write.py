"""A page from studies' folders to its file."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from seqsweep.results.files import replace_file
from seqsweep.results.report.best import best_trial, heading
from seqsweep.results.report.comparison import comparison
from seqsweep.results.report.content import StudyFolder, read_content
from seqsweep.results.report.cost import cost, front
from seqsweep.results.report.curves import learning_curves
from seqsweep.results.report.data import data
from seqsweep.results.report.finalists import finalists
from seqsweep.results.report.importance import importances
from seqsweep.results.report.page import page
from seqsweep.results.report.parallel import parallel
from seqsweep.results.report.progress_plot import history
from seqsweep.results.report.references import references
from seqsweep.results.report.slices import slices
from seqsweep.results.report.tables import failures, leaderboard, made_with

REPORT_FILE = "report.html"

SECTIONS = (  # each "" where a study has nothing for it
    best_trial,
    front,
    history,
    finalists,
    references,
    learning_curves,
    importances,
    parallel,
    slices,
    cost,
    leaderboard,
    failures,
    data,
    made_with,
)


def write_report(about: StudyFolder, path: Path | None = None) -> Path:
    """The page of a study, written beside its tables from what they hold. Raises FileNotFoundError."""
    path = about.folder / REPORT_FILE if path is None else path
    content = read_content(about)
    _write(path, content.name, heading(content), [make(content) for make in SECTIONS])
    return path


def write_comparison(studies: Sequence[StudyFolder], path: Path) -> Path:
    _write(path, "Studies compared", *comparison([read_content(about) for about in studies]))
    return path


def _write(path: Path, title: str, top: str, sections: Sequence[str]) -> None:
    """A reader finds the old page or the new one, whole: the driver and `seqsweep report` may both write."""
    content = page(title, top, [part for part in sections if part], datetime.now(UTC))
    replace_file(path, lambda staging: staging.write_text(content, encoding="utf-8"), has_many_writers=True)
