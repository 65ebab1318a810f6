"""JSON lines: an object a line, of which only the fields of an interaction are read, in blocks."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import IO, Any, Literal, cast

import pyarrow as pa
import pyarrow.json as arrow_json

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.errors import DataError
from seqsweep.data_pipeline.formats.columnar import gather
from seqsweep.data_pipeline.formats.columns import Role, find_columns, first_bad_row, id_problem
from seqsweep.data_pipeline.formats.text_file import (
    MAX_LINE_BYTES,
    explain_stream_error,
    one_line,
    open_bytes,
    open_lines,
    quoted,
    read_head,
)
from seqsweep.data_pipeline.formats.timestamps import EXPECTED_TIME, NUMBER, parse_times, time_kind

Kind = Literal["text", "integer", "number", "nothing", "true or false", "list", "object"]
KINDS: dict[type, Kind] = {
    str: "text",
    bool: "true or false",
    int: "integer",
    float: "number",
    type(None): "nothing",
    list: "list",
    dict: "object",
}
BLOCK_BYTES = 2**22
LONG_LINE = "straddl"  # Arrow's word for an object that is longer than a block
LINE = "one JSON object a line"

# What Arrow is told to expect, by how the first objects write it; of several the first that fits all rows.
ID_TYPES: dict[Kind, tuple[pa.DataType, ...]] = {"text": (pa.string(),), "integer": (pa.int64(),)}
TIME_TYPES: dict[Kind, tuple[pa.DataType, ...]] = {
    "text": (pa.string(),),
    "integer": (pa.int64(), pa.float64()),
    "number": (pa.float64(),),
}
RATING_TYPES: dict[Kind, tuple[pa.DataType, ...]] = {
    "text": (pa.string(),),
    "integer": (pa.float64(),),
    "number": (pa.float64(),),
}
TYPES: dict[Role, dict[Kind, tuple[pa.DataType, ...]]] = {
    "user": ID_TYPES,
    "item": ID_TYPES,
    "rating": RATING_TYPES,
    "timestamp": TIME_TYPES,
}
EXPECTED: dict[Role, str] = {
    "user": "an integer of 64 bits or a string",
    "item": "an integer of 64 bits or a string",
    "rating": "a number",
    "timestamp": EXPECTED_TIME,
}


@dataclass(frozen=True)
class JsonLayout:
    """fields: role to name. kinds: how the first objects write each. times: the first ones."""

    fields: dict[Role, str]
    kinds: dict[Role, Kind]
    times: tuple[str, ...]
    block_bytes: int = BLOCK_BYTES


def json_layout(path: Path, config: DataConfig) -> JsonLayout:
    """Which fields play which role. Raises DataError where there are none, or one is missing."""
    head = read_head(path)
    _parse_first(path, head.num_blank + 1, head.lines[0])
    objects = [found for line in head.lines if isinstance(found := _loads(line), dict)]
    names = list(dict.fromkeys(name for found in objects for name in found))
    where = f"{path}, line {head.num_blank + 1}"
    fields = {role: names[at] for role, at in find_columns(names, config, where).items()}
    kinds = {role: _kind([found.get(name) for found in objects]) for role, name in fields.items()}
    for role, kind in kinds.items():
        if kind not in TYPES[role]:
            raise DataError(
                f"{where}: the {role} {fields[role]!r} is written as {kind}; expected {EXPECTED[role]}; say "
                f'which field it is, such as columns={{"{role}": "..."}}, or convert it'
            )
    times = (found.get(fields.get("timestamp", "")) for found in objects)
    return JsonLayout(fields, kinds, tuple(str(time).strip() for time in times if time is not None))


def read_json_lines(path: Path, config: DataConfig) -> pa.Table:
    """The columns of one file by role. Raises DataError with the line that is no interaction."""
    layout = json_layout(path, config)
    try:
        table = _parse(path, layout)
        for role in layout.fields:
            if table.schema.field(role).type == pa.string():
                table = _set(table, role, _from_text(table[role], role))
            if bad := first_bad_row(table[role], role):
                raise _bad_line(path, layout, f"row {bad[0] + 1}: {bad[1]}")
        return table
    except OSError as error:
        raise explain_stream_error(path, error) from error
    except pa.ArrowInvalid as error:
        raise _bad_line(path, layout, one_line(error)) from error


def _set(table: pa.Table, role: Role, column: pa.ChunkedArray[Any]) -> pa.Table:
    return table.set_column(table.column_names.index(role), role, column)


def _from_text(column: pa.ChunkedArray[Any], role: Role) -> pa.ChunkedArray[Any]:
    return parse_times(column) if role == "timestamp" else column.cast(pa.float64())


def _parse(path: Path, layout: JsonLayout) -> pa.Table:
    """Tries the strictest types first; the last and most tolerant ones' error counts."""
    roles = list(layout.fields)
    *strict, last = (
        dict(zip(roles, types, strict=True))
        for types in product(*(TYPES[role][layout.kinds[role]] for role in roles))
    )
    for types in strict:
        try:
            return _parse_as(path, layout, types)
        except pa.ArrowInvalid as error:
            if LONG_LINE in str(error):
                break
    try:
        return _parse_as(path, layout, last)
    except pa.ArrowInvalid as error:
        if LONG_LINE not in str(error):
            raise
    return _parse_as(path, replace(layout, block_bytes=MAX_LINE_BYTES), last)


def _parse_as(path: Path, layout: JsonLayout, types: dict[Role, pa.DataType]) -> pa.Table:
    schema = pa.schema([pa.field(layout.fields[role], kind) for role, kind in types.items()])
    with open_bytes(path) as stream:
        reader = arrow_json.open_json(
            cast(IO[Any], stream),
            read_options=arrow_json.ReadOptions(block_size=layout.block_bytes),
            parse_options=arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
        return gather(cast(Iterator[pa.RecordBatch], reader), layout.fields)


def _loads(line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _parse_first(path: Path, number: int, line: str) -> None:
    """Raises DataError where the first line is no JSON object, with what it seems to be."""
    where = f"{path}, line {number}"
    if line.lstrip().startswith("["):
        raise DataError(f"{where}: a JSON array; expected {LINE}; convert it, such as with `jq -c '.[]'`")
    if isinstance(_loads(line), dict):
        return
    if _is_python_dict(line):
        raise DataError(
            f"{where}: a Python dictionary and no JSON ({quoted(line)}), as in the old Amazon files; "
            f"expected {LINE}; convert every line with `json.dumps(ast.literal_eval(line))`"
        )
    if line.lstrip().startswith("{") and not line.rstrip().endswith("}"):
        raise DataError(
            f"{where}: an object that does not end in its line ({quoted(line)}); expected {LINE}; convert "
            "it, such as with `jq -c .`"
        )
    raise DataError(f"{where}: no JSON object ({quoted(line)}); expected {LINE}; correct it, or set format")


def _is_python_dict(line: str) -> bool:
    try:
        return isinstance(ast.literal_eval(line.strip()), dict)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False


def _kind(values: list[object]) -> Kind:
    return next((KINDS[type(value)] for value in values if value is not None), "nothing")


def _bad_line(path: Path, layout: JsonLayout, reason: str) -> DataError:
    """The first line that is no interaction. Row by row: only for files known to be bad."""
    try:
        with open_lines(path) as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip() and (problem := _line_problem(line, layout)):
                    return DataError(f"{path}, line {number}: {problem} (in {quoted(line.rstrip())})")
    except OSError as error:
        return explain_stream_error(path, error)
    return DataError(f"{path}: {reason}; expected {LINE}; correct it, or set format and columns")


def _line_problem(line: str, layout: JsonLayout) -> str | None:
    if len(line) > MAX_LINE_BYTES:
        return f"a line longer than {MAX_LINE_BYTES >> 20} MiB; expected {LINE}; look for a missing line end"
    try:
        pairs = json.loads(line, object_pairs_hook=_Pairs)
    except RecursionError:
        return f"too deeply nested; expected {LINE} with plain fields; remove the nested ones"
    except ValueError as error:
        return f"no JSON: {one_line(error)}; expected {LINE}; correct or remove the line"
    if not isinstance(pairs, _Pairs):
        return f"no JSON object; expected {LINE}; correct or remove the line"
    names = [name for name, _ in pairs]
    for role, name in layout.fields.items():
        if names.count(name) > 1:
            return f"{name!r} twice; expected every field once; remove one of them"
        if problem := _value_problem(role, name, dict(pairs).get(name), layout):
            return problem
    return _text_problem(line)


class _Pairs(list[tuple[str, object]]):
    """An object's fields as they stand, with those that are there twice."""


def _text_problem(line: str) -> str | None:
    if any("\udc80" <= character <= "\udcff" for character in line):
        return "wrong encoding: not UTF-8; convert the file, such as with `iconv -f LATIN1 -t UTF-8`"
    try:
        json.dumps(json.loads(line), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return r"half of a surrogate pair, such as \ud83d alone; expected whole characters; correct the line"
    return None


def _value_problem(role: Role, name: str, value: object, layout: JsonLayout) -> str | None:
    usual = layout.kinds[role]
    kind: Kind = "object" if isinstance(value, _Pairs) else KINDS[type(value)]
    end = f"expected {EXPECTED[role]}; complete, correct or remove the line"
    if role in ("user", "item"):
        return _id_problem(role, name, value, kind, usual, end)
    if kind == "nothing":
        return f"no {role} ({name!r} is missing or null); {end}"
    if (kind == "text") != (usual == "text") or kind not in TYPES[role]:
        return (
            f"{role} {name!r} written as {kind}, before as {usual}; expected one form throughout; convert it"
        )
    text = str(value).strip()
    if role == "timestamp":
        own = time_kind(text)
        if own is None:
            return f"{'negative' if text.startswith('-') else 'non-numeric'} timestamp {quoted(text)}; {end}"
        first = time_kind(layout.times[0])
        if first not in (None, own):
            return f"timestamp {quoted(text)} is written as {own}, the first one as {first}; convert it"
        return None
    return f"non-numeric rating {quoted(text)}; {end}" if NUMBER.fullmatch(text) is None else None


def _id_problem(role: Role, name: str, value: object, kind: Kind, usual: Kind, end: str) -> str | None:
    if kind == "nothing":
        return f"no {role} id ({name!r} is missing or null); {end}"
    if kind not in TYPES[role]:
        return f"{role} {name!r} written as {kind}; {end}"
    if kind != usual:
        return (
            f"{role} {name!r} written as {kind}, before as {usual}; expected one form throughout; write all "
            "as text"
        )
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return f"{role} id {quoted(str(value))} is beyond 64 bits; {end}"
    if isinstance(value, str) and not value.strip():
        return f"empty {role} id; {end}"
    problem = id_problem(role, value)
    return f"{problem}; {end}" if problem else None
