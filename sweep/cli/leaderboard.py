"""Commands that print the tables of studies: one leaderboard, or several studies side by side."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from seqsweep.sweep.cli.completion import complete_study
from seqsweep.sweep.cli.console import say
from seqsweep.sweep.cli.flags import Runs, StudyName
from seqsweep.sweep.storage.study_folder import relative, study_folder

if TYPE_CHECKING:
    import pandas as pd

RUNS = Path("runs")
SHOWN = 10  # trials, in a terminal
Json = Annotated[bool, typer.Option("--json", help="For scripts: a list of objects.")]
Csv = Annotated[bool, typer.Option("--csv", help="For scripts.")]


def top(
    study: StudyName,
    runs: Runs = RUNS,
    limit: Annotated[
        str | None,
        typer.Option("--limit", "-n", help="Trials to show; 0 or all.  [default: 10; --json, --csv: all]"),
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="By commas, with patterns: rank,model,hparam.lr,test.*")
    ] = None,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            metavar="CONDITION",
            help="Such as 'hparam.lr<0.01' or model=sasrec; of several all must hold.",
        ),
    ] = None,
    state: Annotated[str | None, typer.Option(help="By commas: complete,pruned")] = None,
    sort: Annotated[
        str | None, typer.Option(help="A column, smallest first; -COLUMN largest first.  [default: rank]")
    ] = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """The leaderboard of a study, best first."""
    from seqsweep.results.leaderboard import load_leaderboard
    from seqsweep.results.select import Condition, select_columns, select_rows
    from seqsweep.sweep.cli.render import SPARE, leaderboard_columns

    machine = _one_of(as_json, as_csv)
    frame = load_leaderboard(_place(study, runs))
    rows = select_rows(
        frame,
        conditions=[Condition.parse(text) for text in filters or []],
        states=_listed(state) if state else [],
        sort=sort,
        limit=_limit(limit, None if machine else SHOWN),
    )
    names = None if columns is None else select_columns(frame, _listed(columns))
    if machine:
        _print(rows if names is None else rows[names], as_json)
        return
    if rows.empty:
        conditions = [*(filters or []), *([f"state={state}"] if state else [])]
        say(f"no row meets {' and '.join(conditions)}" if conditions else "the leaderboard has no row yet")
    elif names is None:
        _show(leaderboard_columns(rows, frame.attrs["objective"]), SPARE)
    else:
        _show(rows[names])


def compare(
    studies: Annotated[
        list[str],
        typer.Argument(
            help="Names below --runs, folders, leaderboards, URIs.", autocompletion=complete_study
        ),
    ],
    runs: Runs = RUNS,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Studies side by side: the best of each, its mean over seeds, and what it cost."""
    from seqsweep.results.compare import MUST_AGREE, compare_studies
    from seqsweep.sweep.cli.render import SPARE_OF_COMPARISON, comparison_columns

    machine = _one_of(as_json, as_csv)
    frame = compare_studies([_place(study, runs) for study in studies])
    if machine:
        _print(frame, as_json)
        return
    _show(comparison_columns(frame), SPARE_OF_COMPARISON)
    first, *others = frame.to_dict(orient="records")
    for row in others:
        if not row["comparable"]:
            say(f"{row['study']} can't be compared with {first['study']}:")
            for name in MUST_AGREE:
                if row[name] != first[name]:
                    say(f"  {name}: {row[name]}, not {first[name]}")


COMMANDS = (top, compare)


def print_leaderboard(folder: Path) -> None:
    from seqsweep.results.leaderboard import load_leaderboard
    from seqsweep.results.select import select_rows
    from seqsweep.sweep.cli.render import SPARE, leaderboard_columns

    frame = load_leaderboard(folder)
    _show(leaderboard_columns(select_rows(frame, limit=SHOWN), frame.attrs["objective"]), SPARE)


def say_what_is_there(folder: Path) -> None:
    """At the end of a study: where things lie, and what to do with them."""
    say(f"\nbest model: {relative(folder / 'best')}")
    say(f"report:     {relative(folder / 'report.html')}")
    say(f'in pandas:  pd.read_parquet("{relative(folder / "leaderboard.parquet")}")')
    say(f"to use it:  seqsweep recommend {relative(folder)} --out recommendations.parquet")


def _show(frame: pd.DataFrame, spare: Sequence[str] = ()) -> None:
    """Columns that can be spared are left out on a narrow terminal; those asked for are never cut."""
    from seqsweep.sweep.cli.render import table_of

    width = Console().width if sys.stdout.isatty() else 160
    table = table_of(frame, width, spare)
    console = Console(width=width if spare else max(width, 4096))
    console.print(table, highlight=False)


def _place(study: str, runs: Path) -> str | Path:
    """Of a study, or of tables that lie somewhere else, such as results copied without their journal."""
    from seqsweep.results.leaderboard import LEADERBOARD_FILE

    if "://" in study or os.path.isfile(study):
        return study
    with_table = [folder for folder in (Path(study), runs / study) if (folder / LEADERBOARD_FILE).is_file()]
    return with_table[0] if with_table else study_folder(study, runs)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _limit(text: str | None, default: int | None) -> int | None:
    from seqsweep.sweep.errors import ConfigError

    if text is None:
        return default
    if text != "all" and not text.isdecimal():
        raise ConfigError(f"--limit takes a number of trials, 0 or all, got {text!r}")
    return None if text == "all" else int(text) or None


def _one_of(as_json: bool, as_csv: bool) -> bool:
    from seqsweep.sweep.errors import ConfigError

    if as_json and as_csv:
        raise ConfigError("--json and --csv can't be had at once: leave one out")
    return as_json or as_csv


def _print(frame: pd.DataFrame, as_json: bool) -> None:
    """Nothing but the table, every digit of it."""
    from seqsweep.results.select import as_records

    if as_json:
        print(json.dumps(as_records(frame), indent=2, allow_nan=False))
    else:
        print(frame.to_csv(index=False), end="")
