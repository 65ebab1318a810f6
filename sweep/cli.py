"""The command line: text in, StudyConfig out. What happens then is in sweep/driver.py."""

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

app = typer.Typer(
    name="seqsweep",
    help="Find the best sequential recommender for an interaction log.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

DATA = "Data"
SEARCH = "Search"
HARDWARE = "Hardware"

Data = Annotated[
    str | None, typer.Option("--data", help="Log to read; `demo` is a generated one.", rich_help_panel=DATA)
]
Format = Annotated[
    str | None, typer.Option(help="Input format; recognised by the name if left out.", rich_help_panel=DATA)
]
Columns = Annotated[
    str | None,
    typer.Option(help="Column names: user=userId,item=movieId,timestamp=time", rich_help_panel=DATA),
]
MinRating = Annotated[float | None, typer.Option(help="Leave out ratings below this.", rich_help_panel=DATA)]
MinUser = Annotated[
    int | None, typer.Option(help="Leave out users with fewer interactions.", rich_help_panel=DATA)
]
MinItem = Annotated[
    int | None, typer.Option(help="Leave out items with fewer interactions.", rich_help_panel=DATA)
]
Cache = Annotated[Path | None, typer.Option(help="Where prepared logs are kept.  [default: .cache/prepared]")]
Runs = Annotated[Path, typer.Option(help="Folder of all studies.")]
StudyName = Annotated[str, typer.Argument(help="A study's name below --runs, or its folder.")]


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
        section = _data_section(
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
        str | None, typer.Option(help="Families to search, by commas.", rich_help_panel=SEARCH)
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
        section = _data_section(
            data, format, columns, min_rating, min_user_interactions, min_item_interactions
        )
        given = {
            "name": name or (None if settings is not None else _default_name(data)),
            "seed": seed,
            "runs": runs,
            "cache": cache,
            "data": section,
            "protocol": {"ranking": ranking, "seen": seen},
            "space": {"models": models.split(",") if models else None, "fix": _pairs(fix or [], "--fix")},
            "search": {"trials": trials, "sampler": sampler, "pruner": pruner, "max_epochs": max_epochs},
            "training": {"patience": patience, "objective": objective},
            "hardware": {
                "address": address,
                "gpus_per_trial": gpus_per_trial,
                "cpus_per_trial": cpus_per_trial,
                "max_concurrent": max_concurrent,
            },
        }
        raise typer.Exit(_run(settings, _without_none(given)))


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


def _default_name(data: str | None) -> str:
    return "demo" if data in (None, "demo") else Path(str(data)).name.split(".")[0]


def _data_section(
    data: str | None,
    format: str | None,
    columns: str | None,
    min_rating: float | None,
    min_user_interactions: int | None,
    min_item_interactions: int | None,
) -> dict[str, Any]:
    return _without_none(
        {
            "path": data,
            "format": format,
            "columns": _pairs(columns.split(","), "--columns", text=True) if columns else None,
            "min_rating": min_rating,
            "min_user_interactions": min_user_interactions,
            "min_item_interactions": min_item_interactions,
        }
    )


def _pairs(texts: list[str], flag: str, *, text: bool = False) -> dict[str, Any]:
    """key=value words; values read as JSON where they are (1e-3, true), else as text."""
    from sweep.errors import ConfigError

    pairs: dict[str, Any] = {}
    for word in texts:
        key, equals, value = word.partition("=")
        if not key or not equals:
            raise ConfigError(f"{flag} takes key=value, got {word!r}")
        pairs[key] = value if text else _scalar(value)
    return pairs


def _scalar(value: str) -> Any:
    parse: Callable[[str], Any] = json.loads
    try:
        parsed = parse(value)
    except ValueError:
        return value
    return parsed if isinstance(parsed, int | float | bool) else value


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    cleaned = {
        key: _without_none(value) if isinstance(value, dict) else value for key, value in values.items()
    }
    return {key: value for key, value in cleaned.items() if value is not None and value != {}}


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _say(text: str) -> None:
    Console().print(text, highlight=False, markup=False, soft_wrap=True)
