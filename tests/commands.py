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
    """Call a command in this process."""
    return CliRunner().invoke(app, [str(word) for word in words])


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in a process of its own that starts in `folder`."""
    return subprocess.run(
        [*PROGRAM, *words], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=280
    )


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start a command in a session of its own, both outputs in one, for tests that interrupt it."""
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
    """Return what a driver printed that has ended, so that a test can say why."""
    return driver.communicate(timeout=60)[0]
