"""Flags that stand for settings: made from the settings' models, so that each is described once."""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from seqsweep.sweep.cli.completion import complete_models, complete_study
from seqsweep.sweep.settings.study_config import StudyConfig, merge

DATA_PANEL, SEARCH_PANEL, BUDGET_PANEL, HARDWARE_PANEL = "Data", "Search", "Budget", "Hardware"
OPTIONS_PANEL = "Options"  # where a flag without a panel is listed
NUMBERS = (int, float)

Runs = Annotated[Path, typer.Option(help="Folder of all studies.")]
StudyName = Annotated[
    str, typer.Argument(help="A study's name below --runs, or its folder.", autocompletion=complete_study)
]
Complete = Callable[[str], list[str]]


@dataclass(frozen=True)
class Flag:
    """One setting on the command line.

    place: where it stands in StudyConfig, as search.trials. The flag bears its last part, or `name`.
    read: what becomes of what was typed, where that is not the setting's value yet.
    """

    place: str
    panel: str = OPTIONS_PANEL
    name: str = ""
    default: str | None = None  # as help shows it, where the model's own says little
    read: Callable[[Any], Any] | None = None
    metavar: str | None = None
    repeats: bool = False  # it may be given several times
    complete: Complete | None = None

    @property
    def flag(self) -> str:
        return self.name or self.place.rpartition(".")[2].replace("_", "-")

    @property
    def variable(self) -> str:
        return self.flag.replace("-", "_")

    @property
    def field(self) -> FieldInfo:
        model: Any = StudyConfig
        *sections, name = self.place.split(".")
        for section in sections:
            model = model.model_fields[section].annotation
        found: FieldInfo = model.model_fields[name]
        return found

    @property
    def choices(self) -> tuple[str, ...]:
        annotation = self.field.annotation
        return get_args(annotation) if get_origin(annotation) is Literal else ()

    def parameter(self) -> inspect.Parameter:
        """Make the parameter of the command's function that Typer reads."""
        kind = list[str] if self.repeats else _typed(self.field.annotation, is_read=self.read is not None)
        option = typer.Option(
            f"--{self.flag}",
            help=self._help(),
            rich_help_panel=self.panel,
            metavar=self.metavar,
            autocompletion=self.complete or (_completing(self.choices) if self.choices else None),
        )
        return inspect.Parameter(
            self.variable,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[kind | None, option],
        )

    def _help(self) -> str:
        text = str(self.field.description)
        if self.choices:
            text = f"{text.removesuffix('.')}: {', '.join(self.choices)}."
        default = self.field.default if self.default is None else self.default
        is_plain = isinstance(default, str | int | float | Path) and not isinstance(default, bool)
        return f"{text}  [default: {default}]" if is_plain else text

    def settings(self, value: Any) -> dict[str, Any]:
        """Return what was typed as settings, nested as StudyConfig is."""
        settings = value if self.read is None else self.read(value)
        for part in reversed(self.place.split(".")):
            settings = {part: settings}
        return dict(settings)


class ObjectiveFlag(Flag):
    """Take several objectives by commas; the first is the one of training."""

    choices = ()  # of one objective alone

    def settings(self, value: Any) -> dict[str, Any]:
        first, *others = value.split(",")
        return {"training": {"objective": first}, **({"search": {"objectives": others}} if others else {})}


def takes(*flags: Flag) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command these flags; `given` is what was set by them, nested like StudyConfig."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_settings(**values: Any) -> None:
            given: dict[str, Any] = {}
            for flag in flags:
                value = values.pop(flag.variable)
                if value is not None and value is not False and value != []:  # 0 is a value
                    given = merge(given, flag.settings(value))
            command(**values, given=given)

        signature = inspect.signature(command, eval_str=True)
        own = [parameter for parameter in signature.parameters.values() if parameter.name != "given"]
        last = [parameter for parameter in own if parameter.kind is parameter.KEYWORD_ONLY]
        parameters = [*own[: len(own) - len(last)], *(flag.parameter() for flag in flags), *last]
        with_settings.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return with_settings

    return decorate


def _typed(annotation: Any, *, is_read: bool) -> Any:
    """The type of what is typed: numbers, switches and paths as they are, all else as text."""
    kinds = [kind for kind in get_args(annotation) or (annotation,) if kind is not NoneType]
    return kinds[0] if kinds[0] in (*NUMBERS, bool, Path) and len(kinds) == 1 and not is_read else str


def _completing(choices: Sequence[str]) -> Complete:
    return lambda incomplete: [choice for choice in choices if choice.startswith(incomplete)]


def _by_commas(text: str) -> list[str]:
    return text.split(",")


def _column_names(text: str) -> dict[str, Any]:
    return pairs(text.split(","), "--columns", text=True)


def default_name(data: str | None) -> str:
    """The log's, as far as it names a folder."""
    if data in (None, "demo"):
        return "demo"
    return re.sub(r"[^A-Za-z0-9_-]+", "-", Path(str(data)).name.split(".")[0]).strip("-_") or "log"


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


def _resolve(function: str) -> str:
    """FILE:NAME with the whole path of the file, so that the study goes on from wherever it is started."""
    path, colon, name = function.rpartition(":")
    return f"{Path(path).absolute()}{colon}{name}" if colon else function


GENERAL = (
    Flag("name", default="the log's"),
    Flag("runs"),
    Flag("storage"),
    Flag("cache"),
)
FORMAT = (
    Flag("data.format", DATA_PANEL),
    Flag("data.columns", DATA_PANEL, read=_column_names, metavar="ROLE=COLUMN,.."),
)
FILTERS = (
    Flag("data.min_rating", DATA_PANEL),
    Flag("data.min_user_interactions", DATA_PANEL),
    Flag("data.min_item_interactions", DATA_PANEL),
    Flag("data.start_time", DATA_PANEL, read=str),
    Flag("data.end_time", DATA_PANEL, read=str),
    Flag("data.drop_duplicates", DATA_PANEL),
    Flag("data.k_core", DATA_PANEL),
    Flag("data.max_users", DATA_PANEL),
)
DATA = (Flag("data.path", DATA_PANEL, name="data"), *FORMAT, *FILTERS)
PROTOCOL = (
    Flag("protocol.split", SEARCH_PANEL),
    Flag("protocol.cuts", SEARCH_PANEL, read=_by_commas),
    Flag("protocol.ranking", SEARCH_PANEL),
    Flag("protocol.seen", SEARCH_PANEL),
)
SEARCH = (
    Flag("space.models", SEARCH_PANEL, default="sasrec", read=_by_commas, complete=complete_models),
    Flag("search.trials", SEARCH_PANEL),
    Flag(
        "space.fix", SEARCH_PANEL, read=lambda words: pairs(words, "--fix"), metavar="KEY=VALUE", repeats=True
    ),
    Flag(
        "space.narrow",
        SEARCH_PANEL,
        name="set",
        read=lambda words: pairs(words, "--set", text=True),
        metavar="KEY=VALUES",
        repeats=True,
    ),
    Flag("space.function", SEARCH_PANEL, name="space", read=_resolve),
    Flag("search.sampler", SEARCH_PANEL),
    Flag("search.pruner", SEARCH_PANEL, default="auto"),
    Flag("search.max_epochs", SEARCH_PANEL),
    Flag("training.patience", SEARCH_PANEL),
    ObjectiveFlag("training.objective", SEARCH_PANEL),
    Flag("finalists.count", SEARCH_PANEL, name="finalists"),
    Flag("finalists.seeds", SEARCH_PANEL, name="finalist-seeds"),
    Flag("tensorboard", SEARCH_PANEL),
    *PROTOCOL,
    Flag("seed", SEARCH_PANEL),
)
BUDGET = (
    Flag("budget.max_hours", BUDGET_PANEL),
    Flag("budget.max_device_hours", BUDGET_PANEL),
    Flag("budget.max_trial_minutes", BUDGET_PANEL),
    Flag("budget.max_disk_gb", BUDGET_PANEL),
)
HARDWARE = (
    Flag("hardware.address", HARDWARE_PANEL),
    Flag("hardware.gpus_per_trial", HARDWARE_PANEL),
    Flag("hardware.workers_per_trial", HARDWARE_PANEL),
    Flag("hardware.cpus_per_trial", HARDWARE_PANEL),
    Flag("hardware.max_concurrent", HARDWARE_PANEL),
    Flag("hardware.wait_minutes", HARDWARE_PANEL),
)
