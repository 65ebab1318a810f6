"""Settings are light: the command line reads them for its flags before anything is done."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
HEAVY = {"torch", "ray", "optuna", "pandas", "pyarrow", "numpy"}


def test_settings_import_pydantic_alone() -> None:
    code = f"import sys, seqsweep.sweep.settings.study_config; print({HEAVY} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("set()\n", "")
