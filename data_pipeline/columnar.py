"""Parquet, Arrow IPC and Feather files: read in batches, ids dictionary encoded as they come."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.columns import Role, find_columns, first_bad_row, interactions_table
from data_pipeline.config import DataConfig
from data_pipeline.schema import DataError
from data_pipeline.times import EXPECTED_TIME, TIME_TYPES, time_kind

COLUMNAR_SUFFIXES = {".parquet": "Parquet", ".arrow": "Arrow", ".feather": "Feather"}


def read_columnar(files: list[Path], config: DataConfig) -> pa.Table:
    """The interactions of all files, one after the other as given. Raises DataError with file and row."""
    parts = [part for file in files if (part := _read_file(file, config)).num_rows > 0]
    if not parts:
        raise DataError(
            f"{config.path}: the file is empty; expected one interaction a row, at least user and item"
        )
    try:
        return interactions_table(pa.concat_tables(parts, promote_options="permissive"))
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(
            f"{config.path}: {error}; expected columns of one kind in all files, and timestamps that fit "
            "64 bits; convert them"
        ) from error


def _read_file(file: Path, config: DataConfig) -> pa.Table:
    form = COLUMNAR_SUFFIXES.get(file.suffix.lower(), "Parquet")
    try:
        table = _read_parquet(file, config) if form == "Parquet" else _read_ipc(file, config)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(
            f"{file}: not readable as a {form} file: {error}; expected a complete one; write or copy it again"
        ) from error
    if "timestamp" in table.column_names and pa.types.is_string(table.schema.field("timestamp").type):
        at = table.column_names.index("timestamp")
        table = table.set_column(at, "timestamp", _parse_times(table["timestamp"], file))
    roles: list[Role] = ["user", "item", "rating", "timestamp"]
    for role in roles:
        if role in table.column_names and (bad := first_bad_row(table[role], role)):
            raise DataError(_explain(file, *bad, role))
    return table


def _read_parquet(file: Path, config: DataConfig) -> pa.Table:
    with pq.ParquetFile(file) as parquet:
        columns = _choose_columns(parquet.schema_arrow, config, file)
        return _gather(parquet.iter_batches(columns=list(columns.values())), columns)


def _read_ipc(file: Path, config: DataConfig) -> pa.Table:
    """Either of the two IPC forms: the .arrow files of some libraries are streams."""
    source = pa.memory_map(str(file))
    try:
        reader = pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        stream = pa.ipc.open_stream(source)
        return _gather(stream, _choose_columns(stream.schema, config, file))
    batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
    return _gather(batches, _choose_columns(reader.schema, config, file))


def _choose_columns(schema: pa.Schema, config: DataConfig, file: Path) -> dict[Role, str]:
    """Role to column name. Raises DataError on a column whose type cannot play its role."""
    columns = {role: schema.names[at] for role, at in find_columns(schema.names, config, str(file)).items()}
    for role, name in columns.items():
        kind = schema.field(schema.names.index(name)).type
        fits, expected = _fits(kind.value_type if pa.types.is_dictionary(kind) else kind, role)
        if not fits:
            raise DataError(
                f"{file}: the {role} column {name!r} has type {kind}; expected {expected}; convert it"
            )
    return columns


def _fits(kind: pa.DataType, role: Role) -> tuple[bool, str]:
    if role in ("user", "item"):
        return pa.types.is_integer(kind) or _is_text(kind), "integers or strings"
    if role == "rating":
        return pa.types.is_integer(kind) or pa.types.is_floating(kind), "numbers"
    # float32 keeps 24 bits: today's seconds would be wrong by a minute
    time = pa.types.is_integer(kind) or pa.types.is_float64(kind) or pa.types.is_timestamp(kind)
    return time or pa.types.is_date(kind) or _is_text(kind), f"{EXPECTED_TIME}, never float32"


def _is_text(kind: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_binary)
    return any(test(kind) for test in tests)


def _gather(batches: Iterable[pa.RecordBatch], columns: dict[Role, str]) -> pa.Table:
    chunks: dict[Role, list[pa.Array[Any]]] = {role: [] for role in columns}
    for batch in batches:
        for role, name in columns.items():
            if len(batch):
                chunks[role].append(_simplify(batch.column(batch.schema.names.index(name)), role))
    arrays = [pa.chunked_array(parts) for parts in chunks.values() if parts]
    return pa.Table.from_arrays(arrays, names=list(columns) if arrays else [])


def _simplify(column: pa.Array[Any], role: Role) -> pa.Array[Any]:
    """Few types for what follows: text as string, integers as int64 if they fit, ids dictionary encoded."""
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    if _is_text(column.type):
        column = column.cast(pa.string())
    elif pa.types.is_integer(column.type) and column.type != pa.uint64():
        column = column.cast(pa.int64())
    return column.dictionary_encode() if role in ("user", "item") else column


def _parse_times(column: pa.ChunkedArray[Any], file: Path) -> pa.ChunkedArray[Any]:
    kind = time_kind(str(column[0]).strip())
    for time_type in TIME_TYPES[kind] if kind else ():
        try:
            return column.cast(time_type)
        except pa.ArrowInvalid:
            continue  # the loop below says which row it is
    for row, text in enumerate(column.to_pylist()):
        if text is None or time_kind(text.strip()) != kind or kind is None:
            raise DataError(
                _explain(file, row, f"non-numeric or negative timestamp {str(text)[:80]!r}", "timestamp")
            )
    raise DataError(
        f"{file}: the timestamps could not be read as {kind}; expected {EXPECTED_TIME}; convert them"
    )


def _explain(file: Path, row: int, problem: str, role: Role) -> str:
    expected = {"timestamp": EXPECTED_TIME, "rating": "a number"}.get(role, "an integer or a string")
    return f"{file}, row {row + 1}: {problem}; expected {expected}; complete or remove the row"
