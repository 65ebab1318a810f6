"""Where studies lie; read without Optuna, as a shell that completes a name can't wait for it."""

from __future__ import annotations

from pathlib import Path

from seqsweep.sweep.errors import StudyError

JOURNAL_NAME = "study.journal"  # a folder that has one is a study's
FETCHED = "fetched.json"  # says that a study's folder is a copy, which a newer one may replace
RAY_FOLDER = "ray"  # of a study: what Ray itself writes while it runs
TRIALS = "trials"  # folder of a study with its trials' files


def studies_below(runs: Path) -> list[str]:
    return sorted(path.parent.name for path in runs.glob(f"*/{JOURNAL_NAME}"))


def study_folder(study: str, runs: Path) -> Path:
    """Of a study named by its folder, or by its name below `runs`. Raises StudyError if there is none."""
    folder = Path(study) if (Path(study) / JOURNAL_NAME).is_file() else runs / study
    if not (folder / JOURNAL_NAME).is_file():
        there = studies_below(runs)
        known = f"; below {runs} are {', '.join(there)}" if there else f"; below {runs} there is none"
        raise StudyError(f"there is no study {study!r}{known}")
    return folder


def relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
