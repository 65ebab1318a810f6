"""The versions and the machine that a study was made with."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

COMMAND_VARIABLE = "SEQSWEEP_COMMAND"  # of a job: what the user typed, to be typed again
PACKAGES = ("seqsweep", "torch", "ray", "optuna", "pandas", "pyarrow", "numpy")


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def environment() -> dict[str, Any]:
    """What a reader needs to judge or repeat a trial, beside its settings."""
    return {
        "versions": versions(),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
    }


def _git(*arguments: str) -> str | None:
    """Of the checkout this code runs from; None where it was installed without one."""
    try:
        answer = subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
