"""The command line: text in, StudyConfig out. What happens then is in sweep/driver.py."""

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from sweep.arguments import (
    HARDWARE,
    SEARCH,
    Cache,
    Columns,
    Data,
    Format,
    MinItem,
    MinRating,
    MinUser,
    Runs,
    StudyName,
    data_section,
    default_name,
    pairs,
    without_none,
)

app = typer.Typer(
    name="seqsweep",
    help="Find the best sequential recommender for an interaction log.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
def prepare(
    data: Data = None,
    format: Format = None,
    columns: Columns = None,
    min_rating: MinRating = None,
    min_user_interactions: MinUser = None,
    min_item_interactions: MinItem = None,
    cache: Cache = None,
) -> None:
    """Read a log, order it and write the shards that studies train on; print what was found."""
    from data_pipeline.prepare import prepare as prepare_log
    from data_pipeline.store import open_log
    from sweep.config import StudyConfig

    with user_errors():
        section = data_section(
            data, format, columns, min_rating, min_user_interactions, min_item_interactions
        )
        config = StudyConfig.build({"data": section, **({} if cache is None else {"cache": cache})})
        folder = prepare_log(config.data, config.cache.absolute(), _say)
        manifest = open_log(folder).manifest
        _say(
            f"{manifest.num_users:,} users, {manifest.num_items:,} items, "
            f"{manifest.num_interactions:,} interactions"
        )
        _say(
            f"timestamps in {manifest.time_unit}"
            if manifest.has_timestamps
            else "no timestamps: row order counts"
        )
        _say(f"prepared in {folder}")


@app.command()
def run(
    settings: Annotated[Path | None, typer.Argument(help="A study.toml; flags win over it.")] = None,
    name: Annotated[str | None, typer.Option(help="The study's name.  [default: the log's]")] = None,
    data: Data = None,
    format: Format = None,
    columns: Columns = None,
    min_rating: MinRating = None,
    min_user_interactions: MinUser = None,
    min_item_interactions: MinItem = None,
    models: Annotated[
        str | None, typer.Option(help="Families to search, by commas, or `all`.", rich_help_panel=SEARCH)
    ] = None,
    trials: Annotated[
        int | None, typer.Option(help="Trials in all.  [default: 20]", rich_help_panel=SEARCH)
    ] = None,
    fix: Annotated[
        list[str] | None, typer.Option(help="Pin a hparam: --fix loss=ce", rich_help_panel=SEARCH)
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="auto, tpe, random", rich_help_panel=SEARCH)] = None,
    pruner: Annotated[str | None, typer.Option(help="asha, median, none", rich_help_panel=SEARCH)] = None,
    max_epochs: Annotated[
        int | None, typer.Option(help="Of a trial.  [default: 100]", rich_help_panel=SEARCH)
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Epochs without a better value.  [default: 10]", rich_help_panel=SEARCH)
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="Of validation.  [default: ndcg@10]", rich_help_panel=SEARCH)
    ] = None,
    ranking: Annotated[str | None, typer.Option(help="full, or sampled:100", rich_help_panel=SEARCH)] = None,
    seen: Annotated[str | None, typer.Option(help="auto, keep, remove", rich_help_panel=SEARCH)] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of everything random.  [default: 0]", rich_help_panel=SEARCH)
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="A running Ray cluster, or auto.", rich_help_panel=HARDWARE)
    ] = None,
    gpus_per_trial: Annotated[
        float | None, typer.Option(help="May be a fraction.", rich_help_panel=HARDWARE)
    ] = None,
    cpus_per_trial: Annotated[float | None, typer.Option(rich_help_panel=HARDWARE)] = None,
    max_concurrent: Annotated[
        int | None, typer.Option(help="Trials at a time.", rich_help_panel=HARDWARE)
    ] = None,
    runs: Annotated[Path | None, typer.Option(help="Folder of all studies.  [default: runs]")] = None,
    cache: Cache = None,
) -> None:
    """Start a study, or go on with it: the same command after any crash."""
    with user_errors():
        section = data_section(
            data, format, columns, min_rating, min_user_interactions, min_item_interactions
        )
        given = {
            "name": name or (None if settings is not None else default_name(data)),
            "seed": seed,
            "runs": runs,
            "cache": cache,
            "data": section,
            "protocol": {"ranking": ranking, "seen": seen},
            "space": {"models": models.split(",") if models else None, "fix": pairs(fix or [], "--fix")},
            "search": {"trials": trials, "sampler": sampler, "pruner": pruner, "max_epochs": max_epochs},
            "training": {"patience": patience, "objective": objective},
            "hardware": {
                "address": address,
                "gpus_per_trial": gpus_per_trial,
                "cpus_per_trial": cpus_per_trial,
                "max_concurrent": max_concurrent,
            },
        }
        raise typer.Exit(_run(settings, without_none(given)))


def _run(settings: Path | None, given: dict[str, Any]) -> int:
    from sweep.config import StudyConfig
    from sweep.driver import run_study
    from sweep.progress import Progress

    config = StudyConfig.build(given) if settings is None else StudyConfig.load(settings, given)
    with Progress(Console(), config.training.objective) as progress:
        outcome = run_study(config, progress)
    _print_leaderboard(config.folder, limit=10)
    if outcome.stopped_because is not None:
        _say(f"\nstopped ({outcome.stopped_because}); nothing is lost. Go on with the same command:")
        _say(f"  {shlex.join(['seqsweep', *sys.argv[1:]])}")
        return 1
    if outcome.best is None:
        _say("\nno trial came to a result; see the column error of the leaderboard")
        return 1
    _say(f"\nbest model: {_relative(config.folder / 'best')}")
    _say(f'in pandas:  pd.read_parquet("{_relative(config.folder / "leaderboard.parquet")}")')
    return 0


@app.command()
def status(study: StudyName, runs: Runs = Path("runs")) -> None:
    """How a study stands, and who is running it."""
    from sweep.journal import read_holder
    from sweep.study import JOURNAL_NAME, Study

    with user_errors():
        folder = _study_folder(study, runs)
        with Study.read(folder) as opened:
            counts = opened.counts()
            best = opened.best()
            total = opened.search.trials
        ended = sum(counts[state] for state in ("complete", "pruned", "failed"))
        _say(f"study {folder.name}: {ended} of {total} trials ended")
        for state, number in sorted(counts.items()):
            _say(f"  {number} {state}")
        if best is not None:
            _say(f"best: trial {best.trial}, {best.objective:.4f} at epoch {best.best_epoch}")
        holder = read_holder(folder / JOURNAL_NAME)
        _say(f"driver: {holder}" if holder is not None else "driver: none is running")


@app.command()
def top(
    study: StudyName,
    runs: Runs = Path("runs"),
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Trials to show.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="All columns, as JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="All columns, as CSV.")] = False,
) -> None:
    """The leaderboard of a study, best first."""
    from results.leaderboard import load_leaderboard

    with user_errors():
        folder = _study_folder(study, runs)
        if as_json or as_csv:
            frame = load_leaderboard(folder).head(limit)
            print(
                frame.to_json(orient="records", date_format="iso") if as_json else frame.to_csv(index=False),
                end="",
            )
        else:
            _print_leaderboard(folder, limit)


@app.command()
def spaces(
    models: Annotated[str, typer.Option(help="Families to show, by commas.")] = "all",
    points: Annotated[bool, typer.Option("--points", help="Also the points that are tried first.")] = False,
) -> None:
    """What a study may move, by family: bounds, and what depends on what."""
    from search_spaces import KNOWN_GOOD, SEARCH_SPACES
    from search_spaces.describe import describe_space
    from sweep.config import SpaceConfig, StudyConfig
    from sweep.tables import points_table, space_table

    with user_errors():
        config: SpaceConfig = StudyConfig.build({"space": {"models": models.split(",")}}).space
        console = Console(width=None if sys.stdout.isatty() else 160)
        for name in config.names():
            console.print(space_table(name, describe_space(SEARCH_SPACES[name])), highlight=False)
            if points:
                console.print(points_table(name, KNOWN_GOOD[name]), highlight=False)


def main() -> None:
    app()


@contextmanager
def user_errors() -> Iterator[None]:
    """A user's mistake is one message and exit status 1; only a mistake of ours is a traceback."""
    from data_pipeline.schema import DataError
    from sweep.errors import UserError

    try:
        yield
    except (DataError, UserError, FileNotFoundError) as error:
        Console(stderr=True).print(
            f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True
        )
        raise typer.Exit(1) from None


def _print_leaderboard(folder: Path, limit: int) -> None:
    from results.leaderboard import load_leaderboard
    from sweep.tables import leaderboard_table

    frame = load_leaderboard(folder)
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = leaderboard_table(frame, objective=frame.attrs["objective"], limit=limit, width=console.width)
    console.print(table, highlight=False)


def _study_folder(study: str, runs: Path) -> Path:
    return Path(study) if Path(study).is_dir() else runs / study


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _say(text: str) -> None:
    Console().print(text, highlight=False, markup=False, soft_wrap=True)
