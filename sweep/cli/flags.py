"""What commands share of their flags, and how flags become the sections of a StudyConfig."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from seqsweep.sweep.cli.completion import complete_study

DATA = "Data"
SEARCH = "Search"
BUDGET = "Budget"
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
StartTime = Annotated[
    str | None,
    typer.Option(help="Leave out what is earlier: seconds since 1970, or an ISO date.", rich_help_panel=DATA),
]
EndTime = Annotated[
    str | None, typer.Option(help="Leave out what is at this time or later.", rich_help_panel=DATA)
]
DropDuplicates = Annotated[
    bool | None,
    typer.Option(
        "--drop-duplicates", help="Keep one of rows with equal user, item and time.", rich_help_panel=DATA
    ),
]
KCore = Annotated[
    str | None,
    typer.Option(help="How the two minima are met: iterated (the default), or single.", rich_help_panel=DATA),
]
MaxUsers = Annotated[
    int | None, typer.Option(help="A sample of so many users, for a quick look.", rich_help_panel=DATA)
]
SplitName = Annotated[
    str | None,
    typer.Option(help="leave_one_out, or temporal.  [default: leave_one_out]", rich_help_panel=SEARCH),
]
Cuts = Annotated[
    str | None,
    typer.Option(help="Of --split temporal: two shares (0.8,0.9), dates or seconds.", rich_help_panel=SEARCH),
]
Ranking = Annotated[str | None, typer.Option(help="full, or sampled:100", rich_help_panel=SEARCH)]
Seen = Annotated[str | None, typer.Option(help="auto, keep, remove", rich_help_panel=SEARCH)]
Cache = Annotated[Path | None, typer.Option(help="Where prepared logs are kept.  [default: .cache/prepared]")]
Runs = Annotated[Path, typer.Option(help="Folder of all studies.")]
StudyName = Annotated[
    str, typer.Argument(help="A study's name below --runs, or its folder.", autocompletion=complete_study)
]


def default_name(data: str | None) -> str:
    """The log's, as far as it names a folder."""
    if data in (None, "demo"):
        return "demo"
    return re.sub(r"[^A-Za-z0-9_-]+", "-", Path(str(data)).name.split(".")[0]).strip("-_") or "log"


def protocol_settings(
    split: str | None, cuts: str | None, ranking: str | None, seen: str | None
) -> dict[str, Any]:
    return {"split": split, "cuts": cuts.split(",") if cuts else None, "ranking": ranking, "seen": seen}


def column_names(columns: str | None) -> dict[str, Any] | None:
    return pairs(columns.split(","), "--columns", text=True) if columns else None


def pairs(texts: list[str], flag: str, *, text: bool = False) -> dict[str, Any]:
    """key=value words; values read as JSON where they are (1e-3, true), else as text."""
    from seqsweep.sweep.errors import ConfigError

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
        parsed = parse(value.lower() if value in ("True", "False") else value)  # as pandas shows them
    except ValueError:
        return value
    return parsed if isinstance(parsed, int | float | bool) else value


def resolve(function: str | None) -> str | None:
    """FILE:NAME with the whole path of the file, so that the study goes on from wherever it is started."""
    if function is None:
        return None
    path, colon, name = function.rpartition(":")
    return f"{Path(path).absolute()}{colon}{name}" if colon else function


def without_none(values: dict[str, Any]) -> dict[str, Any]:
    cleaned = {
        key: without_none(value) if isinstance(value, dict) else value for key, value in values.items()
    }
    return {key: value for key, value in cleaned.items() if value is not None and value != {}}
