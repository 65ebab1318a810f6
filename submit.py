"""Run on a cluster's head by `ray submit CLUSTER.yaml submit.py run study.toml trials=40`.

The launcher copies this file alone, into the head's home, and quotes no argument: plain words and key=value.
The checkout, which the cluster's `file_mounts` put on every node, is ~/seqsweep, or SEQSWEEP_HOME.
"""

import os
import sys
from pathlib import Path

home = Path(os.environ.get("SEQSWEEP_HOME", "~/seqsweep")).expanduser()
if not (home / "sweep").is_dir():
    sys.exit(
        f"error: there is no checkout of seqsweep in {home}: "
        "bring it there by file_mounts, or set SEQSWEEP_HOME"
    )
python = home / ".venv/bin/python"
os.chdir(home)
os.execv(python if python.exists() else sys.executable, ["python", "-m", "sweep", "on-head", *sys.argv[1:]])
