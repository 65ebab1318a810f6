"""What `--help` prints: commands by what one wants to do, flags by what they are about; no boxes."""

from collections.abc import Mapping, Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

# Names that are not there yet, or not any more, are left out; a command that is nowhere here comes last.
SECTIONS = {
    "Search": ("run", "status", "stop", "extend", "retry", "enqueue", "warm-start", "train"),
    "Results": (
        "top",
        "compare",
        "report",
        "show",
        "recommend",
        "evaluate",
        "export",
        "reproduce",
        "dashboard",
    ),
    "Data and space": ("inspect", "prepare", "spaces"),
    "Clusters": ("submit", "jobs", "logs", "fetch"),
}
OTHERS = "This machine"
Rows = list[tuple[str, str]]


class Commands(TyperGroup):
    def format_commands(self, ctx: Any, formatter: Any) -> None:
        shown = {name: command for name, command in self.commands.items() if not command.hidden}
        listed = {name for names in SECTIONS.values() for name in names}
        sections: dict[str, Sequence[str]] = {
            **SECTIONS,
            OTHERS: [name for name in shown if name not in listed],
        }
        width = max(map(len, shown), default=0)
        _write(
            formatter,
            {
                title: [
                    (name.ljust(width), shown[name].get_short_help_str(200))
                    for name in names
                    if name in shown
                ]
                for title, names in sections.items()
            },
        )


class Command(TyperCommand):
    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, Rows] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                is_argument = parameter.param_type_name == "argument"
                panel = (
                    "Arguments" if is_argument else getattr(parameter, "rich_help_panel", None) or "Options"
                )
                sections.setdefault(panel, []).append(record)
        _write(formatter, sections)


def _write(formatter: Any, sections: Mapping[str, Rows]) -> None:
    for title, rows in sections.items():
        if rows:
            with formatter.section(title):
                formatter.write_dl(rows)


def print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"seqsweep {version('seqsweep')}")
        raise typer.Exit
