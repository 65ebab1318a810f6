"""Parquet, Arrow IPC and Feather files: read in batches, ids dictionary encoded as they come."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias, cast

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.errors import DataError
from seqsweep.data_pipeline.formats.columns import ROLES, Role, find_columns, first_bad_row
from seqsweep.data_pipeline.formats.text_file import one_line, printable
from seqsweep.data_pipeline.formats.timestamps import EXPECTED_TIME, parse_times, time_kind

COLUMNAR_SUFFIXES = {".parquet": "Parquet", ".arrow": "Arrow", ".feather": "Feather"}
AnyArray: TypeAlias = "pa.Array[Any] | pa.ChunkedArray[Any]"
IpcReader = pa.RecordBatchFileReader | pa.RecordBatchStreamReader
PARQUET_MAGIC = b"PAR1"
IPC_MAGIC = (b"ARROW1", b"\xff\xff\xff\xff")  # a file, a stream


def is_columnar(path: Path) -> bool:
    """Told from the first bytes, whatever the name."""
    with path.open("rb") as stream:
        return stream.read(6).startswith((PARQUET_MAGIC, *IPC_MAGIC))


def read_columnar(file: Path, config: DataConfig) -> pa.Table:
    """The columns of one file by role; none where it has no rows. Raises DataError with file and row."""
    form = COLUMNAR_SUFFIXES.get(file.suffix.lower(), "Parquet or Arrow")
    try:
        table = _read_parquet(file, config) if _is_parquet(file) else _read_ipc(file, config)
    except UNREADABLE as error:
        raise DataError(
            f"{file}: not readable as a {form} file: {one_line(error)}; expected a complete one; write or "
            "copy it again"
        ) from error
    return sound_columns(table, str(file))


# Of damaged files, whose lengths and types are as good as random; ArrowException has the others as well.
UNREADABLE = (OSError, pa.ArrowException, UnicodeDecodeError, MemoryError, OverflowError)


def columnar_schema(file: Path) -> pa.Schema:
    """Raises DataError where it can't be read."""
    try:
        if _is_parquet(file):
            return pq.read_schema(file)
        with pa.memory_map(str(file)) as source:
            return _open_ipc(source).schema
    except UNREADABLE as error:
        raise DataError(f"{file}: not readable: {one_line(error)}; write or copy it again") from error


def first_rows(file: Path, num_rows: int) -> list[dict[str, object]]:
    """Of the first batch that has any. Raises DataError where it can't be read."""
    try:
        if _is_parquet(file):
            with pq.ParquetFile(file) as parquet:
                return _first_rows(parquet.iter_batches(batch_size=num_rows), num_rows)
        with pa.memory_map(str(file)) as source:
            return _first_rows(_ipc_batches(_open_ipc(source)), num_rows)
    except UNREADABLE as error:
        raise DataError(f"{file}: not readable: {one_line(error)}; write or copy it again") from error


def _first_rows(batches: Iterable[pa.RecordBatch], num_rows: int) -> list[dict[str, object]]:
    batch = next((batch for batch in batches if len(batch)), None)
    if batch is None:
        return []
    batch.validate(full=True)
    return cast("list[dict[str, object]]", batch.slice(0, num_rows).to_pylist())


def read_frame(table: pa.Table | pd.DataFrame, config: DataConfig) -> pa.Table:
    """The columns of a table from Python by role; an index is not looked at. `config.path` is its name.

    Raises DataError with the row (from 1) that is no interaction.
    """
    where = config.path
    names = table.schema.names if isinstance(table, pa.Table) else [str(name) for name in table.columns]
    place = find_columns(names, config, where)
    columns = {role: _column(table, at, role, where) for role, at in place.items()}
    _check_types({role: column.type for role, column in columns.items()}, names, place, where)
    try:
        batches = pa.table(list(columns.values()), names=list(columns)).to_batches()
        parts = gather(batches, {role: role for role in columns})
    except pa.ArrowException as error:
        raise DataError(f"{where}: {one_line(error)}; expected plain columns; convert them") from error
    if parts.num_rows == 0:
        raise DataError(
            f"{where}: the table is empty; expected one interaction a row, at least user and item"
        )
    return sound_columns(parts, where)


def _column(table: pa.Table | pd.DataFrame, at: int, role: Role, where: str) -> AnyArray:
    return table.column(at) if isinstance(table, pa.Table) else _from_pandas(table.iloc[:, at], role, where)


def _from_pandas(column: pd.Series[Any], role: Role, where: str) -> AnyArray:
    is_gap = column.isna().to_numpy()
    if is_gap.any():
        nature = f"empty {role} id" if role in ("user", "item") else f"non-numeric {role} None"
        raise DataError(_explain(where, int(is_gap.argmax()), nature, role))
    try:
        return pa.Array.from_pandas(column)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        kinds = [type(value).__name__ for value in column]
        row = next((row for row, kind in enumerate(kinds) if kind != kinds[0]), 0)
        raise DataError(
            f"{where}, row {row + 1}: the {role} column {str(column.name)!r} has a {kinds[row]}, the "
            f"first one is a {kinds[0]} ({one_line(error)}); expected one plain type; convert it"
        ) from error


def sound_columns(table: pa.Table, where: str) -> pa.Table:
    """The table, times that were text as times. Raises DataError with the row that is no interaction."""
    if "timestamp" in table.column_names and pa.types.is_string(table.schema.field("timestamp").type):
        at = table.column_names.index("timestamp")
        table = table.set_column(at, "timestamp", _parse_times(table["timestamp"], where))
    for role in ROLES:
        if role in table.column_names and (bad := first_bad_row(table[role], role)):
            raise DataError(_explain(where, *bad, role))
    return table


def _is_parquet(file: Path) -> bool:
    """By its first bytes; where they tell nothing, by its name."""
    with file.open("rb") as stream:
        start = stream.read(6)
    return start.startswith(PARQUET_MAGIC) or (
        not start.startswith(IPC_MAGIC) and file.suffix.lower() not in (".arrow", ".feather")
    )


def _read_parquet(file: Path, config: DataConfig) -> pa.Table:
    with pq.ParquetFile(file) as parquet:
        columns = _choose_columns(parquet.schema_arrow, config, str(file))
        return gather(parquet.iter_batches(columns=list(columns.values())), columns)


def _read_ipc(file: Path, config: DataConfig) -> pa.Table:
    with pa.memory_map(str(file)) as source:
        reader = _open_ipc(source)
        columns = _choose_columns(reader.schema, config, str(file))
        return gather(_ipc_batches(reader), columns)


def _ipc_batches(reader: IpcReader) -> Iterable[pa.RecordBatch]:
    if isinstance(reader, pa.RecordBatchStreamReader):
        return reader
    return map(reader.get_batch, range(reader.num_record_batches))


def _open_ipc(source: pa.MemoryMappedFile) -> IpcReader:
    """Either of the two IPC forms: the .arrow files of some libraries are streams."""
    try:
        return pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        return pa.ipc.open_stream(source)


def _choose_columns(schema: pa.Schema, config: DataConfig, where: str) -> dict[Role, str]:
    """Role to column name. Raises DataError on a column whose type cannot play its role."""
    place = find_columns(schema.names, config, where)
    _check_types({role: schema.types[at] for role, at in place.items()}, schema.names, place, where)
    return {role: schema.names[at] for role, at in place.items()}


def _check_types(
    types: dict[Role, pa.DataType], names: list[str], place: dict[Role, int], where: str
) -> None:
    for role, kind in types.items():
        fits, expected = _fits(kind.value_type if isinstance(kind, pa.DictionaryType) else kind, role)
        if not fits:
            raise DataError(
                f"{where}: the {role} column {names[place[role]]!r} has type {printable(str(kind))}; "
                f"expected {expected}; convert it"
            )


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


def gather(batches: Iterable[pa.RecordBatch], columns: dict[Role, str]) -> pa.Table:
    """The columns by role, batch by batch; ids dictionary encoded. Raises ArrowInvalid on damaged data."""
    chunks: dict[Role, list[pa.Array[Any]]] = {role: [] for role in columns}
    for batch in batches:
        for role, name in columns.items():
            if len(batch):
                chunks[role].append(_simplify(batch.column(batch.schema.names.index(name)), role))
    arrays = [pa.chunked_array(parts) for parts in chunks.values() if parts]
    return pa.Table.from_arrays(arrays, names=list(columns) if arrays else [])


def _simplify(column: pa.Array[Any], role: Role) -> pa.Array[Any]:
    """Few types for what follows: text as string, integers as int64 if they fit, ids dictionary encoded."""
    column.validate(full=True)  # Arrow trusts what it reads: offsets of a damaged file lead anywhere
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary_decode()
    if _is_text(column.type):
        column = column.cast(pa.string())
    elif pa.types.is_integer(column.type) and column.type != pa.uint64():
        column = column.cast(pa.int64())
    return column.dictionary_encode() if role in ("user", "item") else column


def _parse_times(column: pa.ChunkedArray[Any], where: str) -> pa.ChunkedArray[Any]:
    try:
        return parse_times(column)
    except pa.ArrowInvalid as error:
        kind = time_kind(str(column[0]).strip())
        for row, text in enumerate(column.to_pylist()):
            if text is None or time_kind(text.strip()) != kind or kind is None:
                fault = f"non-numeric or negative timestamp {str(text)[:80]!r}"
                raise DataError(_explain(where, row, fault, "timestamp")) from error
        raise DataError(f"{where}: {one_line(error)}; expected {EXPECTED_TIME}; convert them") from error


def _explain(where: str, row: int, problem: str, role: Role) -> str:
    expected = {"timestamp": EXPECTED_TIME, "rating": "a number"}.get(role, "an integer or a string")
    return f"{where}, row {row + 1}: {problem}; expected {expected}; complete or remove the row"
