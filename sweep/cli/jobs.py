"""Commands that send a sweep to a cluster and look after it there: `sweep/jobs/client.py` speaks to Ray."""

from __future__ import annotations

import functools
import re
import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seqsweep.sweep.cli.console import say
from seqsweep.sweep.cli.flags import Runs
from seqsweep.sweep.storage.study_folder import relative, study_folder

if TYPE_CHECKING:
    from seqsweep.sweep.jobs.client import Cluster, StudyJob
    from seqsweep.sweep.jobs.shipping import Launch

DASHBOARD = "http://127.0.0.1:8265"
Address = Annotated[
    str, typer.Option(help="The cluster's dashboard.", envvar="RAY_API_SERVER_ADDRESS", show_default=True)
]
Study = Annotated[str, typer.Argument(help="A study's name.")]
RUNS = Path("runs")
ANY_ARGUMENTS = {"allow_extra_args": True, "ignore_unknown_options": True}
ON_HEAD = "on-head"
OF_CLUSTER = ("jobs", "logs", "status", "stop")  # `ray submit .. submit.py` gives them the head's dashboard


def submit(
    context: typer.Context,
    address: Address = DASHBOARD,
    detach: Annotated[
        bool, typer.Option("--detach", "--no-follow", help="Do not follow the log; the sweep goes on.")
    ] = False,
) -> None:
    """Run a sweep on a cluster: takes what `run` takes. Joins the study's job if one is running.

    The checkout is sent along, also a log of at most 64 MiB that lies in it; any other log is a path on the
    cluster. Relative folders (--runs, --cache) lie below ~/seqsweep of the head.
    """
    from seqsweep.sweep.jobs.shipping import Launch

    command = shlex.join(["seqsweep", *sys.argv[1:]])
    raise typer.Exit(_submit(context, context.args, address, detach, Launch(), command))


def on_head(context: typer.Context) -> None:
    """What `submit.py` calls on the head, in its checkout: words of the command line, key=value too."""
    from seqsweep.sweep.jobs.shipping import Launch

    verb, *words = context.args or ["run"]
    if verb == "run":
        words = flags_of(words)
        detach = any(word in ("--detach", "--no-follow") for word in words)
        words = [word for word in words if word not in ("--detach", "--no-follow")]
        launch = Launch(sys.executable, str(Path.cwd()))
        command = shlex.join(["ray", "submit", "CLUSTER.yaml", "submit.py", *context.args])
        raise typer.Exit(_submit(context, words, DASHBOARD, detach, launch, command))
    on_cluster = ["--address", DASHBOARD] if verb in OF_CLUSTER else []
    raise typer.Exit(_seqsweep(context, [verb, *words, *on_cluster]))


SWITCHES = ("--tensorboard", "--drop-duplicates", "--detach", "--no-follow")  # flags without a value


def flags_of(words: Sequence[str]) -> list[str]:
    """`key=value` as `--key value`, as a launcher quotes nothing; the value of a flag stays as it is."""
    flags: list[str] = []
    for word in words:
        found = re.fullmatch(r"([a-z][a-z_-]*)=(.*)", word)
        is_value = bool(flags) and flags[-1].startswith("--") and flags[-1] not in SWITCHES
        is_value = is_value and "=" not in flags[-1]
        if found is None or is_value:
            flags.append(word)
        else:
            flag = "--" + found[1].replace("_", "-")
            flags += [flag] if found[2] == "true" else [flag, found[2]]
    return flags


def logs(
    study: Study,
    address: Address = DASHBOARD,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until it ends.")] = False,
) -> None:
    """What a study's job has printed."""
    from seqsweep.sweep.jobs.client import Cluster, split_log

    cluster = Cluster(address)
    job = cluster.job_of(study)
    if follow:
        raise typer.Exit(_follow(cluster, job))
    with cluster.errors():
        before, printed = split_log(cluster.client.get_job_logs(job.id))
    print(printed or before, end="")


def jobs(address: Address = DASHBOARD) -> None:
    """The studies that jobs of a cluster run, or ran."""
    from seqsweep.sweep.cli.render import jobs_table
    from seqsweep.sweep.jobs.client import Cluster

    latest = {job.study: job for job in Cluster(address).jobs()}
    if not latest:
        say(f"the cluster at {address} has no job of a study")
    else:
        from rich.console import Console

        rows = [(job.study, job.state, _since(job)) for job in latest.values()]
        Console(width=None if sys.stdout.isatty() else 160).print(jobs_table(rows), highlight=False)


def fetch(
    study: Study,
    address: Address = DASHBOARD,
    to: Annotated[Path, typer.Option(help="Folder of studies here.")] = RUNS,
    runs: Annotated[
        Path | None, typer.Option(help="Folder of studies there.  [default: that of the study's job]")
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="Object store that it was run with: no cluster is asked then.")
    ] = None,
) -> None:
    """Bring a study's tables, journal and best model home; also while it runs."""
    from seqsweep.sweep.jobs.client import Cluster
    from seqsweep.sweep.jobs.fetch import check_replaceable, fetch_from_store, read_frame, unpack
    from seqsweep.sweep.storage.bucket import BucketPath, check_store

    check_replaceable(to / study)
    if storage is not None:
        check_store(storage)
        place = BucketPath(storage) / study
        source = {"storage": str(place), "study": study, "at": _now()}
        num_bytes = fetch_from_store(place, to / study, source)
    else:
        cluster = Cluster(address)
        data = read_frame(_ask(cluster, study, f"parcel {shlex.quote(study)}", runs))
        unpack(data, to / study, {"address": cluster.address, "study": study, "at": _now()})
        num_bytes = len(data)
    say(f"fetched {num_bytes:,} bytes into {relative((to / study).absolute())}")
    if not (to / study / "best").is_dir():
        say("there is no best model yet")


def parcel(study: Study, runs: Runs = RUNS) -> None:
    """Print a study's results as `fetch` reads them; it runs this on the head."""
    from seqsweep.sweep.jobs.fetch import frame, pack

    for lines in frame(pack(study_folder(study, runs))):
        sys.stdout.write(lines)


def stop_job(study: str, address: str, trial: int | None, runs: Path | None) -> None:
    """`seqsweep stop --address`: the study's job, or one trial of it."""
    from seqsweep.sweep.errors import ClusterError
    from seqsweep.sweep.jobs.client import Cluster

    cluster = Cluster(address)
    if trial is not None:
        print(_ask(cluster, study, f"stop {shlex.quote(study)} {trial}", runs), end="")
        return
    job = cluster.job_of(study)
    if job.is_over:
        raise ClusterError(f"no job runs study {study!r}: its last one {_ended(job)}, since {_since(job)}")
    say(f"stopping study {study!r} (job {job.id}); its driver ends in order")
    job = cluster.stop(job)
    say(f"study {study!r} {_ended(job)}; nothing is lost. Submit it again to go on")


def print_job_status(study: str, address: str, runs: Path | None) -> None:
    """`seqsweep status --address`."""
    from seqsweep.sweep.jobs.client import Cluster

    cluster = Cluster(address)
    job = cluster.latest(study)
    if job is not None:
        say(f"job {job.id}: {job.state} since {_since(job)}")
    print(_ask(cluster, study, f"status {shlex.quote(study)}", runs), end="")


COMMANDS = (submit, jobs, logs, fetch, on_head, parcel)
SETTINGS: dict[str, dict[str, Any]] = {  # of how a command is listed and read
    "submit": {"context_settings": ANY_ARGUMENTS},
    ON_HEAD: {"hidden": True, "context_settings": {**ANY_ARGUMENTS, "help_option_names": []}},
    "parcel": {"hidden": True},
}


def _submit(
    context: typer.Context, words: Sequence[str], address: str, detach: bool, launch: Launch, command: str
) -> int:
    """Have `run` read its words, and send what they say to the cluster."""
    act = functools.partial(_submit_study, address=address, detach=detach, launch=launch, command=command)
    return _seqsweep(context, ["run", *words], act)


def _seqsweep(context: typer.Context, words: Sequence[str], act: Any = None) -> int:
    """Run another command of the same command line; return its exit status."""
    root: Any = context.find_root().command
    return int(root.main(args=list(words), prog_name="seqsweep", standalone_mode=False, obj=act) or 0)


def _submit_study(
    settings: str | None,
    given: dict[str, Any],
    warm_start: str | None,
    *,
    address: str,
    detach: bool,
    launch: Launch,
    command: str,
) -> int:
    from seqsweep.sweep.cli.run import read_config, settings_path
    from seqsweep.sweep.errors import ConfigError
    from seqsweep.sweep.jobs.client import STOP_WAIT_S, Cluster
    from seqsweep.sweep.jobs.shipping import (
        check_before_shipping,
        metadata_of,
        run_words,
        shipped_settings,
        variables,
    )

    path = None if settings is None else settings_path(settings, Path(given.get("runs", RUNS)))[0]
    config = read_config(path, given)
    check_before_shipping(config)
    toml = shipped_settings(config, launch)
    cluster = Cluster(address)
    job, is_new = cluster.start(
        config.name,
        launch.line(run_words(config, warm_start, launch), settings=True),
        metadata_of(config, launch),
        launch,
        variables(toml, command, STOP_WAIT_S),
    )
    if not is_new and job.runs != str(config.runs):
        raise ConfigError(
            f"job {job.id} runs a study {config.name!r} in runs={job.runs}, got runs={config.runs}: give it "
            "another --name, or stop that one first"
        )
    say(
        f"study {config.name!r} runs as job {job.id} at {cluster.address}"
        if is_new
        else f"study {config.name!r} is running already, as job {job.id} since {_since(job)}: joined as it is"
    )
    if detach:
        _say_how_to_join(cluster, job)
        return 0
    return _follow(cluster, job)


def _follow(cluster: Cluster, job: StudyJob) -> int:
    """Until the job ends; its exit status. Ctrl-C leaves it running."""
    from seqsweep.sweep.jobs.follow import JobLog, LostError

    log = JobLog(cluster, job, _write)
    try:
        job = log.follow()
    except KeyboardInterrupt:
        say("\nleft; the sweep goes on")
        _say_how_to_join(cluster, job)
        return 1
    except LostError:
        say(f"\nthe connection to {cluster.address} is lost. If the head is well, the sweep goes on")
        _say_how_to_join(cluster, job)
        return 1
    if not log.has_begun:
        say(job.message)
    if job.state == "succeeded":
        say(f"\njob {job.id} succeeded; bring the results home with:")
        say(f"  seqsweep fetch {job.study} --address {cluster.address}")
        return 0
    say(f"\njob {job.id} {_ended(job)}; submit the study again to go on with it")
    return 1


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _say_how_to_join(cluster: Cluster, job: StudyJob) -> None:
    say(f"join it:  seqsweep logs {job.study} --follow --address {cluster.address}")
    say(f"stop it:  seqsweep stop {job.study} --address {cluster.address}")


def _ask(cluster: Cluster, study: str, words: str, runs: Path | None) -> str:
    """A command on the study's folder on the head, wherever its job, or `runs`, says that is."""
    from seqsweep.sweep.jobs.shipping import Launch

    job = cluster.latest(study)
    launch = Launch() if job is None else job.launch
    folder = str(runs) if runs is not None else "runs" if job is None else job.runs
    return cluster.ask(study, launch.line(f"{words} --runs {launch.path(folder)}"), launch)


def _ended(job: StudyJob) -> str:
    return {"stopped": "is stopped", "failed": "failed", "succeeded": "had succeeded"}.get(
        job.state, job.state
    )


def _since(job: StudyJob) -> str:
    moment = job.ended_at if job.is_over and job.ended_at is not None else job.started_at
    return f"{datetime.fromtimestamp(moment):%Y-%m-%d %H:%M:%S}"


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="seconds")
