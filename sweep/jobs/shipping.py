"""What goes to the cluster with a job: the checkout, the settings, and the line that starts the driver."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w

import seqsweep
from seqsweep.sweep.errors import ClusterError, ConfigError

if TYPE_CHECKING:
    from seqsweep.sweep.settings.study_config import StudyConfig

STUDY, RUNS = "seqsweep_study", "seqsweep_runs"  # keys of a job's metadata
SETTINGS_VARIABLE = "SEQSWEEP_SETTINGS"  # TOML, of the job
# Where relative folders (runs, the cache) lie on the head: a job's own folder is removed some time after it.
HOME = '"${SEQSWEEP_HOME:-$HOME/seqsweep}"'
# Ray gives a job OMP_NUM_THREADS=1, which the driver, prepare and pyarrow would keep to. A cluster without
# authentication says so by saying nothing, and the driver must not ask it for a token then. The shell must
# outlive the driver that is told to stop: in a container nobody else may reap it, and Ray waits for it.
PREAMBLE = 'trap : TERM; unset OMP_NUM_THREADS; export RAY_AUTH_MODE="${RAY_AUTH_MODE:-disabled}"'
MAX_LOG_BYTES = 64 * 2**20  # the dashboard takes packages of 100 MiB


@dataclass(frozen=True)
class Launch:
    """Start `python -m seqsweep` on the head: in a checkout that lies there, or in the shipped one."""

    python: str = "python"
    checkout: str | None = None  # on the head; None: it is shipped

    @property
    def home(self) -> str:
        return HOME if self.checkout is None else shlex.quote(self.checkout)

    def path(self, path: str) -> str:
        """As a shell word on the head."""
        return shlex.quote(path) if path.startswith("/") else f"{self.home}/{shlex.quote(path)}"

    def line(self, words: str, settings: bool = False) -> str:
        """A shell line; `words`: quoted arguments of seqsweep; `settings`: it reads them from its input."""
        enter = [] if self.checkout is None else [f"cd {shlex.quote(self.checkout)}"]
        read = f"printenv {SETTINGS_VARIABLE} | " if settings else ""
        return "; ".join([PREAMBLE, *enter, f"{read}{shlex.quote(self.python)} -m seqsweep {words}"])

    def working_dir(self) -> dict[str, str]:
        return {"working_dir": str(checkout_folder())} if self.checkout is None else {}

    def as_metadata(self) -> dict[str, str]:
        return {"seqsweep_python": self.python, "seqsweep_checkout": self.checkout or ""}

    @classmethod
    def of_metadata(cls, metadata: Mapping[str, str]) -> Launch:
        return cls(metadata.get("seqsweep_python", "python"), metadata.get("seqsweep_checkout") or None)


def run_words(config: StudyConfig, warm_start: str | None, launch: Launch) -> str:
    """Arguments of the driver; its settings come on its input."""
    folders = f"--runs {launch.path(str(config.runs))} --cache {launch.path(str(config.cache))}"
    warm = "" if warm_start is None else f" --warm-start {shlex.quote(warm_start)}"
    return f"run /dev/stdin --address auto {folders}{warm}"


def shipped_settings(config: StudyConfig, launch: Launch) -> str:
    """TOML as the driver reads it on the head: what was set, files named as they are found there."""
    values = config.model_dump(
        mode="json", exclude_none=True, exclude_unset=True, exclude={"runs": True, "cache": True}
    )
    values["name"] = config.name
    values.get("hardware", {}).pop("address", None)
    if launch.checkout is None:
        if "path" in values.get("data", {}):
            values["data"]["path"] = shipped_log(config.data.path, checkout_folder())
        if config.space.function is not None:
            values["space"]["function"] = shipped_function(config.space.function, checkout_folder())
    return tomli_w.dumps(values)


def checkout_folder() -> Path:
    """Of this code. Raises ClusterError where it was installed without one."""
    folder = Path(seqsweep.__file__).parents[1]
    if not (folder / "pyproject.toml").is_file():
        raise ClusterError(
            f"a job is sent the checkout of seqsweep, but this one was installed to {folder} without it: "
            "install it with `pip install -e .` in a checkout, and submit again"
        )
    return folder


def shipped_log(path: str, root: Path) -> str:
    """The log's path as the driver sees it, whose folder is the checkout."""
    if path == "demo" or "://" in path:
        return path
    whole = Path(os.path.abspath(path))
    if whole.is_relative_to(root) and whole.exists():
        _check_log(whole, root)
        return str(whole.relative_to(root))
    if Path(path).is_absolute():
        return path
    there = "lies outside it" if whole.exists() else "is not there"
    raise ConfigError(
        f"a log that is sent with a job must lie in the checkout ({root}), and {path} {there}: "
        "give --data the path of the log on the cluster, from / on, or move the log into the checkout"
    )


def shipped_function(function: str, root: Path) -> str:
    path, _, name = function.rpartition(":")
    whole = Path(os.path.abspath(path))
    if not whole.is_relative_to(root) or not is_shipped(whole, root):
        raise ConfigError(
            f"a space of your own is sent with the checkout ({root}), but {path} is not in it, or a "
            ".gitignore or .rayignore leaves it out: move it there"
        )
    return f"{whole.relative_to(root)}:{name}"


def _check_log(path: Path, root: Path) -> None:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    if size > MAX_LOG_BYTES:
        raise ConfigError(
            f"a log that is sent with a job must be at most {MAX_LOG_BYTES:,} bytes, and {path} has "
            f"{size:,}: put it where the cluster reads it, and give --data that path"
        )
    if not is_shipped(path, root):
        raise ConfigError(
            f"{path} is left out of what is sent by a .gitignore or .rayignore: move it, or put it where the "
            "cluster reads it and give --data that path"
        )


def is_shipped(path: Path, root: Path) -> bool:
    """Whether Ray sends it with the folder `root`."""
    # Of Ray's internals, as nothing public says which files it leaves out.
    from ray._private.runtime_env.packaging import get_excludes_from_ignore_files

    quiet = logging.getLogger("seqsweep.shipping")
    quiet.setLevel(logging.ERROR)
    below = [path, *path.parents][: len(path.relative_to(root).parts)]
    for folder in [root, *below[1:]]:
        for is_left_out in get_excludes_from_ignore_files(folder, include_gitignore=True, logger=quiet):
            if any(is_left_out(part) for part in below if part.is_relative_to(folder)):
                return False
    return True


def check_before_shipping(config: StudyConfig) -> None:
    """What the driver would refuse without having read the log."""
    from seqsweep.sweep.driver.opening import check_space
    from seqsweep.sweep.driver.study_space import build_space
    from seqsweep.sweep.study.pruning import check_pruner
    from seqsweep.sweep.study.sampling import check_sampler

    space = build_space(config.space, config.space.names())
    check_space(space, config)
    check_pruner(config.search.pruner, 1 + len(config.search.objectives))
    check_sampler(config.search.sampler, space, num_objectives=1 + len(config.search.objectives))


def metadata_of(config: StudyConfig, launch: Launch) -> dict[str, str]:
    return {
        STUDY: config.name,
        RUNS: str(config.runs),
        **launch.as_metadata(),
    }


def variables(settings: str, command: str, stop_wait_s: int) -> dict[str, Any]:
    """Of the job's environment."""
    from seqsweep.sweep.environment import COMMAND_VARIABLE

    return {
        SETTINGS_VARIABLE: settings,
        COMMAND_VARIABLE: command,
        "RAY_JOB_STOP_WAIT_TIME_S": str(stop_wait_s),
    }
