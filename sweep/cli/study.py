"""Commands on a study that is there: look at it, ask something of it. The others lie beside it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from seqsweep.sweep.cli.completion import complete_study
from seqsweep.sweep.cli.console import say
from seqsweep.sweep.cli.flags import Runs, StudyName, pairs
from seqsweep.sweep.storage.study_folder import relative, study_folder

if TYPE_CHECKING:
    from seqsweep.sweep.driver.study_space import StudySpace
    from seqsweep.sweep.study.commands import Command

Points = Annotated[list[str], typer.Argument(help="hparam=value words, for example lr=1e-3 dropout=0.2")]
TrialNumber = Annotated[int, typer.Argument(help="A trial's number.", min=0)]
OnCluster = Annotated[
    str | None, typer.Option("--address", help="Of the dashboard of the cluster that has the study.")
]
RUNS = Path("runs")


def status(study: StudyName, runs: Runs = RUNS, address: OnCluster = None) -> None:
    """How a study stands, and who is running it."""
    from seqsweep.sweep.cli.jobs import print_job_status
    from seqsweep.sweep.storage.study_folder import JOURNAL_NAME
    from seqsweep.sweep.study.journal import read_holder
    from seqsweep.sweep.study.study import Study

    if address is not None:
        print_job_status(study, address, None if runs == RUNS else runs)
        return
    folder = study_folder(study, runs)
    with Study.read(folder) as opened:
        counts, best, total = opened.counts(), opened.best(), opened.num_trials
        finalist_runs, race = opened.finalist_runs(), opened.race()
    ended = sum(counts[state] for state in ("complete", "pruned", "failed"))
    say(f"study {folder.name}: {ended} of {total} trials ended")
    for state, number in sorted(counts.items()):
        say(f"  {number} {state}")
    if finalist_runs:
        num_finalists = len({run.finalist_of for run in finalist_runs})
        say(f"finalists: {num_finalists}, {race}")
    if best is not None:
        say(f"best: trial {best.trial}, {best.objective:.4f} at epoch {best.best_epoch}")
    holder = read_holder(folder / JOURNAL_NAME)
    say(f"driver: {holder}" if holder is not None else "driver: none is running")


def show(study: StudyName, trial: TrialNumber, runs: Runs = RUNS) -> None:
    """All that is known of one trial: hparams, epochs, attempts, and why it failed."""
    from seqsweep.sweep.cli.render import trial_view
    from seqsweep.sweep.study.attributes import trial_attributes
    from seqsweep.sweep.study.study import Study

    with Study.read(study_folder(study, runs)) as opened:
        record, epochs = opened.record(trial), opened.epochs_of(trial)
        attributes = trial_attributes(opened.trial(trial))
    console = Console(width=None if sys.stdout.isatty() else 160)
    for part in trial_view(record, epochs, attributes, console.width):
        console.print(part, highlight=False, markup=False)


def stop(
    study: StudyName,
    trial: Annotated[int | None, typer.Argument(help="One trial alone; else the study.", min=0)] = None,
    runs: Runs = RUNS,
    address: OnCluster = None,
) -> None:
    """Stop a running study, its trials resumable; or one trial, for good."""
    from seqsweep.sweep.cli.jobs import stop_job
    from seqsweep.sweep.study.commands import Command

    command = Command(action="stop") if trial is None else Command(action="stop_trial", trials=(trial,))
    if address is not None:
        stop_job(study, address, trial, None if runs == RUNS else runs)
        return
    _execute(study_folder(study, runs), command)


def extend(
    study: StudyName,
    trials: Annotated[int, typer.Option(help="So many more.")],
    runs: Runs = RUNS,
) -> None:
    """Give a study more trials, and go on with it if nobody is running it."""
    from seqsweep.sweep.study.commands import Command

    folder = study_folder(study, runs)
    _execute(folder, Command(action="extend", num_trials=trials))
    _go_on(folder)


def retry(
    study: StudyName,
    trials: Annotated[list[int] | None, typer.Argument(help="Numbers of failed trials.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All that failed.")] = False,
    runs: Runs = RUNS,
) -> None:
    """Run failed trials again, under new numbers. Interrupted ones go on by themselves."""
    from seqsweep.sweep.errors import StudyError
    from seqsweep.sweep.study.commands import Command

    if bool(trials) == failed:
        raise StudyError("name the trials to try again, or give --failed for all of them")
    folder = study_folder(study, runs)
    _execute(folder, Command(action="retry", trials=tuple(trials or ())))
    _go_on(folder)


def enqueue(study: StudyName, hparams: Points, runs: Runs = RUNS) -> None:
    """Have these hparams tried next, beyond the budget; the sampler adds those not named."""
    folder = study_folder(study, runs)
    _enqueue(folder, [_space(folder).point(pairs(hparams, "enqueue"), strict=True)])


def warm_start(
    study: StudyName,
    other: Annotated[
        str,
        typer.Option("--from", help="The study whose best hparams are taken.", autocompletion=complete_study),
    ],
    best: Annotated[int, typer.Option(min=1, help="So many of its trials.")] = 3,
    runs: Runs = RUNS,
) -> None:
    """Have the best hparams of another study tried next, as far as this study's space moves them."""
    folder = study_folder(study, runs)
    _enqueue(folder, _space(folder).points_of(study_folder(other, runs), best))


def report(
    studies: Annotated[
        list[str],
        typer.Argument(help="A study, or several to be compared on one page.", autocompletion=complete_study),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The file.  [default: report.html in the study's folder; of several comparison.html]"
        ),
    ] = None,
    runs: Runs = RUNS,
) -> None:
    """Write a study's report.html again, or one page that compares several studies."""
    from seqsweep.results.report import write_comparison, write_report
    from seqsweep.sweep.driver.report_page import read_study_folder
    from seqsweep.sweep.errors import ConfigError
    from seqsweep.sweep.study.study import Study

    if out is not None and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise ConfigError(f"--out must be a file in a folder that is there, got {out}")
    found = []
    for folder in [study_folder(study, runs) for study in studies]:
        with Study.read(folder) as opened:
            found.append(read_study_folder(opened, folder))
    if len(found) == 1:
        written = write_report(found[0], out)
    else:
        written = write_comparison(found, out or Path("comparison.html"))
    say(f"written: {relative(written)}")


def dashboard(
    study: StudyName,
    runs: Runs = RUNS,
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8080,
    host: Annotated[str, typer.Option(help="Who may look; this machine alone by default.")] = "127.0.0.1",
) -> None:
    """The Optuna dashboard of a study, also while it runs. It can change nothing."""
    from seqsweep.sweep.study.dashboard import serve

    serve(study_folder(study, runs), host=host, port=port, say=say)


def reproduce(study: StudyName, trial: TrialNumber, runs: Runs = RUNS) -> None:
    """Train a trial again from the record of its study, and compare."""
    from seqsweep.sweep.driver.reproduce import reproduce as reproduce_trial

    outcome = reproduce_trial(study_folder(study, runs), trial, say)
    raise typer.Exit(0 if outcome.is_reproduced else 1)


COMMANDS = (status, show, stop, extend, retry, enqueue, warm_start, report, dashboard, reproduce)


def _execute(folder: Path, command: Command) -> None:
    from seqsweep.sweep.study.commands import execute

    if command.action != "enqueue":
        say(execute(folder, command))
        return
    from seqsweep.sweep.driver.study_space import study_space

    say(execute(folder, command, study_space))


def _space(folder: Path) -> StudySpace:
    from seqsweep.sweep.driver.study_space import StudySpace
    from seqsweep.sweep.study.study import Study

    with Study.read(folder) as opened:
        return StudySpace.of(opened.attributes)


def _enqueue(folder: Path, points: Sequence[Mapping[str, Any]]) -> None:
    from seqsweep.sweep.study.commands import Command

    _execute(folder, Command(action="enqueue", points=tuple(dict(point) for point in points)))
    if not _is_running(folder):
        say(f"go on with:  seqsweep run {relative(folder / 'study.toml')}")


def _go_on(folder: Path) -> None:
    from seqsweep.sweep.cli.run import run_settings

    if not _is_running(folder):
        raise typer.Exit(run_settings(folder / "study.toml", {"runs": folder.absolute().parent}))


def _is_running(folder: Path) -> bool:
    from seqsweep.sweep.storage.study_folder import JOURNAL_NAME
    from seqsweep.sweep.study.journal import read_holder

    return read_holder(folder / JOURNAL_NAME) is not None
