"""Which column plays which role, and ids of any kind as codes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, cast

import pyarrow as pa
import pyarrow.compute as pc

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.errors import DataError
from seqsweep.data_pipeline.formats.text_file import printable, quoted
from seqsweep.data_pipeline.formats.timestamps import encode_time

Role = Literal["user", "item", "rating", "timestamp"]
ROLES: tuple[Role, ...] = ("user", "item", "rating", "timestamp")

# Usual header names, in order of preference, compared in lower case and without "_", "-" and blanks.
USUAL_NAMES: dict[Role, tuple[str, ...]] = {
    "user": ("user", "userid", "uid", "reviewerid", "customerid", "visitorid", "memberid"),
    "item": (
        "item",
        "itemid",
        "iid",
        "movieid",
        "movie",
        "parentasin",
        "asin",
        "productid",
        "product",
        "sku",
    ),
    "rating": ("rating", "overall", "score", "stars"),
    "timestamp": ("timestamp", "time", "ts", "unixreviewtime", "unixtime", "datetime", "date", "eventtime"),
}
PLAIN_INTEGER = r"^(0|-?[1-9][0-9]{0,18})$"
NOT_IN_IDS = {
    "\0": "a NUL byte",
    "\ufeff": "a byte order mark",
}  # of damaged files, and of files pasted together


def named_columns(config: DataConfig) -> dict[Role, str]:
    """The settings' columns by role; "time" is short for "timestamp"."""
    return {"timestamp" if key == "time" else key: name for key, name in config.columns.items()}


def is_usual_name(name: str) -> bool:
    return role_of_usual_name(name) is not None


def role_of_usual_name(name: str) -> Role | None:
    return next((role for role in ROLES if _plain(name) in USUAL_NAMES[role]), None)


def _plain(name: str) -> str:
    return re.sub(r"[_\- ]", "", name.strip().lower())


def find_columns(names: Sequence[str], config: DataConfig, where: str) -> dict[Role, int]:
    """Role to position: by the settings' names, then by usual ones. Raises DataError where one is missing."""
    wanted = named_columns(config)
    found = {role: _named_column(role, name, names, where) for role, name in wanted.items()}
    if len(set(found.values())) < len(found):
        raise DataError(f"{where}: columns must name a different column for every role, got {wanted}")
    for role in ROLES:
        position = _usual_column(role, names)
        if role not in found and position is not None and position not in found.values():
            found[role] = position
    return needed_columns(found, config, where, f"the columns are {name_list(names)}")


def name_list(names: Sequence[str]) -> str:
    """Names in one line of bearable length."""
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(printable(name, 40) for name in names[:20]) + more


def needed_columns(found: dict[Role, int], config: DataConfig, where: str, what: str) -> dict[Role, int]:
    """Without the ratings that no filter asks for. Raises DataError on a column that is missing."""
    needed: list[Role] = ["user", "item"]
    if config.min_rating is not None:
        needed.append("rating")
    if config.start_time is not None or config.end_time is not None:
        needed.append("timestamp")
    if missing := [role for role in needed if role not in found]:
        flag = ",".join(f"{role}=NAME" for role in missing)
        raise DataError(
            f"{where}: missing column {' and '.join(missing)}: {what}; expected {', '.join(needed)}; say "
            f'which it is by name or 0-based number: --columns {flag}, or columns={{{missing[0]} = "NAME"}} '
            "in a study.toml"
        )
    return {role: found[role] for role in ROLES if role in found and (role != "rating" or role in needed)}


def _named_column(role: Role, name: str, names: Sequence[str], where: str) -> int:
    if name in names:
        return names.index(name)
    if name.isdecimal() and int(name) < len(names):
        return int(name)
    raise DataError(
        f"{where}: missing column {name!r} for {role}: the columns are {name_list(names)}; "
        f"choose one of them by name, or by number from 0 to {len(names) - 1}"
    )


def _usual_column(role: Role, names: Sequence[str]) -> int | None:
    plain = [_plain(name) for name in names]
    return next((plain.index(usual) for usual in USUAL_NAMES[role] if usual in plain), None)


def interactions_table(parts: Sequence[pa.Table]) -> pa.Table:
    """Columns by role: ids dictionary encoded, times int64 (their unit in the metadata), ratings float64.

    parts: of one log, in order, with the same roles; at least one. Ids that are integers in some parts and
    text in others become text. Raises ArrowInvalid or ArrowTypeError where columns don't go together, and
    where times don't fit 64 bits.
    """
    for role in ("user", "item"):
        if role in parts[0].column_names:
            parts = _ids_of_one_type(parts, role)
    table = pa.concat_tables(parts, promote_options="permissive")
    columns: dict[str, pa.ChunkedArray[Any]] = {}
    metadata: dict[str, str] = {}
    for role in table.column_names:
        if role in ("user", "item"):
            columns[role] = encode_ids(table[role])
        elif role == "timestamp":
            columns[role], metadata["time_unit"] = encode_time(table[role])
        else:
            columns[role] = table[role].cast(pa.float64())
    return pa.Table.from_arrays(list(columns.values()), names=list(columns), metadata=metadata)


def _ids_of_one_type(parts: Sequence[pa.Table], role: str) -> Sequence[pa.Table]:
    if len({part.schema.field(role).type for part in parts}) == 1:
        return parts
    return [part.set_column(part.column_names.index(role), role, _as_text(part[role])) for part in parts]


def _as_text(column: pa.ChunkedArray[Any]) -> pa.ChunkedArray[Any]:
    chunks = [cast("pa.DictionaryArray[Any, Any]", chunk) for chunk in column.chunks]
    return pa.chunked_array(
        [
            pa.DictionaryArray.from_arrays(chunk.indices, chunk.dictionary.cast(pa.string()))
            for chunk in chunks
        ]
    )


def encode_ids(column: pa.ChunkedArray[Any]) -> pa.ChunkedArray[Any]:
    """Codes of all chunks into one dictionary. Expects a dictionary encoded column of at least one chunk.

    Text becomes integers where that loses nothing in any id: "7" would, but "007" keeps all of them text.
    """
    column = column.unify_dictionaries()
    ids = cast("pa.DictionaryArray[Any, Any]", column.chunk(0)).dictionary
    if not pa.types.is_string(ids.type):
        return column
    codes = [cast("pa.DictionaryArray[Any, Any]", chunk).indices for chunk in column.chunks]
    trimmed = pc.utf8_trim_whitespace(ids)
    if not trimmed.equals(ids):  # "1, 7": the blank is no part of the id
        merged = trimmed.dictionary_encode()
        codes, ids = [merged.indices.take(code) for code in codes], merged.dictionary
    ids = _integers_if_plain(ids)
    return pa.chunked_array([pa.DictionaryArray.from_arrays(code, ids) for code in codes])


def _integers_if_plain(ids: pa.Array[Any]) -> pa.Array[Any]:
    if not pc.all(pc.match_substring_regex(ids, PLAIN_INTEGER)).as_py():
        return ids
    try:
        return ids.cast(pa.int64())
    except pa.ArrowInvalid:  # of 19 digits some are beyond 64 bits
        return ids


def first_bad_row(column: pa.ChunkedArray[Any], role: Role) -> tuple[int, str] | None:
    """Row (0-based) and nature of the first value that no interaction can have; None where all are sound."""
    start = 0
    for chunk in column.chunks:
        bad = _bad_ids(chunk) if isinstance(chunk, pa.DictionaryArray) else _bad_numbers(chunk, role)
        if bad is not None and (row := pc.index(bad, pa.scalar(True)).as_py()) >= 0:
            return start + row, _nature(chunk[row].as_py(), role)
        start += len(chunk)
    return None


def _bad_ids(chunk: pa.DictionaryArray[Any, Any]) -> pa.Array[Any] | None:
    bad = pc.is_null(chunk.dictionary)
    if pa.types.is_string(chunk.dictionary.type):
        trimmed = pc.utf8_trim_whitespace(chunk.dictionary)
        bad = pc.or_kleene(bad, pc.equal(trimmed, pa.scalar("")))
        for mark in NOT_IN_IDS:
            bad = pc.or_kleene(bad, pc.match_substring(chunk.dictionary, mark))
    if chunk.null_count == 0 and not pc.any(bad).as_py():
        return None
    return bad.take(chunk.indices).fill_null(True)


def _bad_numbers(chunk: pa.Array[Any], role: Role) -> pa.Array[Any]:
    if pa.types.is_temporal(chunk.type):
        chunk = chunk.cast(pa.int32() if pa.types.is_date32(chunk.type) else pa.int64())
    bad = pc.invert(pc.is_finite(chunk))
    if role == "timestamp":
        bad = pc.or_kleene(bad, pc.less(chunk, pa.scalar(0)))
        if pa.types.is_floating(chunk.type):
            bad = pc.or_kleene(bad, pc.greater_equal(chunk, pa.scalar(2.0**63)))
        if chunk.type == pa.uint64():
            bad = pc.or_kleene(bad, pc.greater_equal(chunk, pa.scalar(2**63, pa.uint64())))
    return bad.fill_null(True)


def _nature(value: object, role: Role) -> str:
    if role in ("user", "item"):
        return id_problem(role, value) or f"empty {role} id"
    if value is None or not isinstance(value, int | float) or value != value:  # a gap, a date, NaN
        fault = "non-numeric" if value is None or value != value else "negative"
        return f"{fault} {role} {value}"
    if role == "timestamp":
        return f"{'negative' if value < 0 else 'too large a'} {role} {value}"
    return f"non-numeric {role} {value}"


def id_problem(role: Role, value: object) -> str | None:
    """What keeps an id from being one, unless it is empty."""
    for mark, name in NOT_IN_IDS.items():
        if isinstance(value, str) and mark in value:
            return f"{name} in the {role} id {quoted(value)}"
    return None
