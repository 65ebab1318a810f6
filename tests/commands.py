"""The command line as a user meets it: called in this process, or in one of its own."""

import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from seqsweep.sweep.cli.app import app

ROOT = Path(__file__).parents[1]
PROGRAM = (sys.executable, "-m", "seqsweep")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "token"}


def called(*words: str | Path) -> Result:
    """In this process."""
    return CliRunner().invoke(app, [str(word) for word in words])


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own that starts in `folder`, to its end."""
    return subprocess.run(
        [*PROGRAM, *words], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=280
    )


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """The same, in a session of its own, both outputs in one: for tests that interrupt it."""
    return subprocess.Popen(
        [*PROGRAM, *words],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def output_of(driver: subprocess.Popen[str]) -> str:
    """What a driver that has ended printed: why, if it should not have."""
    return driver.communicate(timeout=60)[0]
