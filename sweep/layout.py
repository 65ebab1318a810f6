"""Where studies lie; read without Optuna, as a shell that completes a name can't wait for it."""

from pathlib import Path

JOURNAL_NAME = "study.journal"  # a folder that has one is a study's


def studies_below(runs: Path) -> list[str]:
    return sorted(path.parent.name for path in runs.glob(f"*/{JOURNAL_NAME}"))
