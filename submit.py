"""Run on a cluster's head by `ray submit CLUSTER.yaml submit.py run study.toml trials=40`.

The launcher copies this file alone, into the head's home, and quotes no argument: plain words and key=value.
The checkout, which the cluster's `file_mounts` put on every node, is ~/seqsweep, or SEQSWEEP_HOME.
"""

import os
import sys
from pathlib import Path

home = Path(os.environ.get("SEQSWEEP_HOME", "~/seqsweep")).expanduser().absolute()
if not (home / "seqsweep").is_dir():
    sys.exit(f"error: no checkout of seqsweep is in {home}: bring one by file_mounts, or set SEQSWEEP_HOME")
own = home / ".venv/bin/python"
python = str(own) if own.exists() else sys.executable
os.chdir(home)
os.execv(python, [python, "-m", "seqsweep", "on-head", *sys.argv[1:]])
