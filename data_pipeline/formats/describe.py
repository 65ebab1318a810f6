"""What a log would be taken for, in words: for people who want to know before they prepare it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.formats.columnar import columnar_schema, first_rows
from seqsweep.data_pipeline.formats.columns import Role, find_columns
from seqsweep.data_pipeline.formats.json_lines import json_layout
from seqsweep.data_pipeline.formats.recognise import Recognised, input_files, recognise_source
from seqsweep.data_pipeline.formats.text_file import printable, read_head
from seqsweep.data_pipeline.formats.text_layout import LAYOUTS, SEPARATOR_NAMES, TextLayout
from seqsweep.data_pipeline.formats.timestamps import unit_of
from seqsweep.data_pipeline.formats.user_lines import check_sequences
from seqsweep.data_pipeline.schema import TimeUnit
from seqsweep.data_pipeline.store import MANIFEST

NUM_ROWS = 3


@dataclass(frozen=True)
class SourceGuess:
    """How a log is read. Nothing is read for it but the first lines of the first file.

    why: what tells the format, one half of a sentence. separator: in words; None where there is none.
    header: whether the file has names for its columns. columns: role to name, or number from 0 as text.
    time_unit: as the first rows have it; None where the file has no times, or only all rows tell it.
    rows: the first 3 as text, cut to 80 characters. flags: what would say the same on the command line.
    """

    format: str
    why: str
    files: tuple[Path, ...]
    separator: str | None
    header: bool
    columns: dict[str, str]
    time_unit: TimeUnit | None
    rows: tuple[str, ...]
    flags: str


@dataclass(frozen=True)
class _Found:
    columns: dict[str, str]
    rows: Sequence[str]
    header: bool = False
    separator: str | None = None
    times: Sequence[str] = ()
    names: Sequence[str] = ()


def describe_source(config: DataConfig) -> SourceGuess:
    """What `read_interactions` would do. Raises DataError where that is clear from the first lines."""
    if config.format == "auto" and (Path(config.path) / MANIFEST).is_file():
        return _prepared(Path(config.path))
    recognised, files = recognise_source(config), input_files(config)
    found = _found(recognised.format, files, config)
    return SourceGuess(
        format=recognised.format,
        why=recognised.why,
        files=tuple(files),
        separator=found.separator,
        header=found.header,
        columns=found.columns,
        time_unit=unit_of(list(found.times)),
        rows=tuple(printable(row) for row in found.rows),
        flags=_flags(recognised, found),
    )


def _prepared(folder: Path) -> SourceGuess:
    files = tuple(sorted(folder.glob("*.arrow")))
    columns = {"user": "user_id", "item": "item_id"}
    return SourceGuess("prepared", "it has a manifest", files, None, True, columns, None, (), "")


def _found(form: str, files: Sequence[Path], config: DataConfig) -> _Found:
    if form == "demo":
        return _Found({"user": "user", "item": "item", "timestamp": "timestamp"}, [], header=True)
    if form == "columnar":
        return _found_columnar(files, config)
    if form == "json_lines":
        layout = json_layout(files[0], config)
        fields = {str(role): name for role, name in layout.fields.items()}
        return _Found(fields, read_head(files[0]).lines[:NUM_ROWS], True, times=layout.times)
    if form == "sequences":
        check_sequences(files[0], config)
        head = read_head(files[0]).lines[:NUM_ROWS]
        return _Found({"user": "0", "item": "1 and all after it"}, head, separator="white space")
    return _found_text(files[0], LAYOUTS[form](files[0], config))


def _found_text(file: Path, layout: TextLayout) -> _Found:
    rows = list(islice(layout.rows(file), NUM_ROWS))
    at = layout.columns.get("timestamp")
    return _Found(
        columns=_named(layout.columns, layout.names),
        rows=[text for _, text, _ in rows],
        header=layout.names is not None,
        separator=SEPARATOR_NAMES.get(layout.separator, repr(layout.separator)),
        times=[fields[at] for _, _, fields in rows if at is not None and at < len(fields)],
        names=layout.names or (),
    )


def _found_columnar(files: Sequence[Path], config: DataConfig) -> _Found:
    names = columnar_schema(files[0]).names
    place = find_columns(names, config, str(files[0]))
    rows = first_rows(files[0], NUM_ROWS)
    times = [str(row[names[place["timestamp"]]]) for row in rows] if "timestamp" in place else []
    return _Found(_named(place, names), [str(row) for row in rows], True, times=times, names=names)


def _named(columns: dict[Role, int], names: Sequence[str] | None) -> dict[str, str]:
    return {role: names[at] if names else str(at) for role, at in columns.items()}


def _flags(recognised: Recognised, found: _Found) -> str:
    if recognised.format == "demo":
        return "--data demo"
    if recognised.format == "sequences":
        return "--format sequences"
    columns = ",".join(f"{role}={_as_flag(name, found.names)}" for role, name in found.columns.items())
    return f"--format {recognised.format} --columns {columns}"


def _as_flag(name: str, names: Sequence[str]) -> str:
    """The name, or its number where a shell or the flag's own commas would cut it."""
    is_plain = all(character.isalnum() or character in "_-.:" for character in name)
    if is_plain or name not in names:
        return name
    return str(list(names).index(name))
