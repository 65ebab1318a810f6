"""How a text file is laid out: told from the settings and its first lines."""

import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.errors import DataError
from seqsweep.data_pipeline.formats.columns import (
    Role,
    find_columns,
    is_usual_name,
    name_list,
    named_columns,
    needed_columns,
    role_of_usual_name,
)
from seqsweep.data_pipeline.formats.separators import choose_separator, long_fields, split_line
from seqsweep.data_pipeline.formats.text_file import Head, one_line, open_lines, quoted, read_head

# What columns without names mean: the forms of MovieLens, Amazon and the papers' preprocessed files.
COLUMNS_BY_COUNT: dict[int, dict[Role, int]] = {
    2: {"user": 0, "item": 1},
    3: {"user": 0, "item": 1, "timestamp": 2},
    4: {"user": 0, "item": 1, "rating": 2, "timestamp": 3},
}
SEPARATOR_NAMES = {"\t": "tabs", "blanks": "white space", "::": "`::`", " ": "blanks"}
RECBOLE_NAME = re.compile(r"(?P<name>[^:]+):(?P<type>token|token_seq|float|float_seq)")
# What may play which role in RecBole's atomic files: https://recbole.io/docs/user_guide/data/atomic_files.html
RECBOLE_TYPES: dict[Role, tuple[str, ...]] = {
    "user": ("token",),
    "item": ("token",),
    "rating": ("float", "token"),
    "timestamp": ("float", "token"),
}


@dataclass(frozen=True)
class TextLayout:
    """separator: a character, "::", or "blanks" for any run of spaces and tabs (edges of lines do not count).

    even_separator: the one character that is all there is between the columns of the first lines, if they are
        separated by blanks; worth a try before blanks are squeezed.
    header_lines: how many lines lie before the first row of data.
    names: the columns' names, if the file has them.
    expected: the layout in words, for error messages.
    """

    separator: str
    quoted: bool
    num_columns: int
    header_lines: int
    columns: dict[Role, int]
    expected: str
    even_separator: str | None = None
    names: tuple[str, ...] | None = None

    def rows(self, path: Path) -> Iterator[tuple[int, str, list[str]]]:
        """Line number (1-based), text and fields of every row: for finding a mistake, not for reading."""
        with open_lines(path, newline="" if self.quoted else None) as stream, long_fields():
            for number, text, fields in self._quoted(stream) if self.quoted else self._simple(stream):
                if number > self.header_lines and text and fields:
                    yield number, text, fields

    def _simple(self, stream: io.TextIOWrapper) -> Iterator[tuple[int, str, list[str]]]:
        for number, line in enumerate(stream, start=1):
            text = line.rstrip("\n")
            if self.separator == "blanks":
                text = text.strip(" \t")
            yield number, text, split_line(text, self.separator, quoted=False)

    def _quoted(self, stream: io.TextIOWrapper) -> Iterator[tuple[int, str, list[str]]]:
        reader, number = csv.reader(stream, delimiter=self.separator), 1
        for fields in reader:
            yield number, self.separator.join(fields), fields
            number = reader.line_num + 1


def plain_layout(path: Path, config: DataConfig) -> TextLayout:
    """`user item [timestamp]` with white space between, without names or below them."""
    head = read_head(path)
    layout = TextLayout(
        separator="blanks",
        quoted=False,
        num_columns=len(split_line(head.lines[0], "blanks", quoted=False)),
        header_lines=head.num_blank,
        columns={},
        expected="`user item` or `user item timestamp` with white space between",
        even_separator=next((mark for mark in (" ", "\t") if _splits_evenly(head, mark)), None),
    )
    way_out = 'for commas set format="delimited", for a user\'s items in one line format="sequences"'
    return _with_columns(layout, path, config, head, (2, 3), way_out)


def _splits_evenly(head: Head, mark: str) -> bool:
    return all(mark.join(split_line(line, "blanks", quoted=False)) == line for line in head.lines)


def movielens_layout(path: Path, config: DataConfig) -> TextLayout:
    """`u.data` (tabs between) and `ratings.dat` (`::` between)."""
    head = read_head(path)
    separator = "::" if "::" in head.lines[0] else "\t"
    layout = TextLayout(
        separator=separator,
        quoted=False,
        num_columns=len(head.lines[0].split(separator)),
        header_lines=head.num_blank,
        columns={},
        expected=f"user, item, rating, timestamp with {SEPARATOR_NAMES[separator]} between",
    )
    way_out = "for other files set format to plain or delimited"
    return _with_columns(layout, path, config, head, (4,), way_out)


def delimited_layout(path: Path, config: DataConfig) -> TextLayout:
    """.csv and .tsv, with a row of names or without. The separator is told from the first lines."""
    head = read_head(path)
    separator, quoted = choose_separator(head.lines)
    name = SEPARATOR_NAMES.get(separator, repr(separator))
    layout = TextLayout(
        separator=separator,
        quoted=quoted,
        num_columns=len(_first_row(path, head, separator, quoted)),
        header_lines=head.num_blank,
        columns={},
        expected=f"user, item and perhaps rating and timestamp with {name} between",
        even_separator=" " if separator == "blanks" and _splits_evenly(head, " ") else None,
    )
    return _with_columns(layout, path, config, head, (2, 3, 4), "or give the file a row of names")


def _first_row(path: Path, head: Head, separator: str, quoted: bool) -> list[str]:
    try:
        if quoted:
            with long_fields():
                return next(csv.reader(head.lines, delimiter=separator))
    except csv.Error as error:
        raise DataError(
            f"{path}, line {head.num_blank + 1}: {one_line(error)}; expected fields, with every quotation "
            "mark closed; correct the row"
        ) from error
    return split_line(head.lines[0], separator, quoted)


def recbole_layout(path: Path, config: DataConfig) -> TextLayout:
    """RecBole's atomic files: tabs between, and names with types in the first line."""
    head = read_head(path)
    where, fields = f"{path}, line {head.num_blank + 1}", head.lines[0].split("\t")
    matches = [RECBOLE_NAME.fullmatch(field.strip()) for field in fields]
    typed = [match for match in matches if match is not None]
    if len(typed) < len(fields):
        raise DataError(
            f"{where}: the header {quoted(head.lines[0])} is not typed; expected names with types and tabs "
            "between, such as user_id:token, item_id:token, timestamp:float; name the types, or for others "
            'set format="delimited"'
        )
    names = [match["name"].strip() for match in typed]
    columns = find_columns(names, _without_types(config), where)
    for role, position in columns.items():
        if (kind := typed[position]["type"]) not in RECBOLE_TYPES[role]:
            raise DataError(
                f"{where}: the {role} column {names[position]!r} has type {kind}; expected "
                f"{' or '.join(RECBOLE_TYPES[role])}; write one interaction a row, or say which column it "
                f'is, such as columns={{"{role}": "..."}}'
            )
    _check_rows_below(path, head)
    return TextLayout(
        separator="\t",
        quoted=False,
        num_columns=len(fields),
        header_lines=head.num_blank + 1,
        columns=columns,
        expected=f"{len(fields)} columns as in the header, with tabs between",
        names=tuple(names),
    )


def _without_types(config: DataConfig) -> DataConfig:
    """`user_id:token` may be named as it stands in the header."""
    columns = {
        role: match["name"] if (match := RECBOLE_NAME.fullmatch(name)) else name
        for role, name in config.columns.items()
    }
    return config.model_copy(update={"columns": columns})


def _is_header(fields: list[str], config: DataConfig, *, is_certain: bool) -> bool:
    """A row of names: one is asked for or usual; or, unless columns are numbered, no field has a digit.

    is_certain: only where a named column is asked for, or there are usual names for user and item: without
        quotation marks and endings that promise a table, `anna date` is a row.
    """
    wanted = named_columns(config).values()
    names = [name for name in wanted if not name.isdecimal()]
    if any(name in fields for name in names):
        return True
    if is_certain:
        return {"user", "item"} <= {role_of_usual_name(field) for field in fields}
    if any(is_usual_name(field) for field in fields):
        return True
    if wanted:
        return bool(names)
    return not any(character.isdigit() for field in fields for character in field)


def _with_columns(
    layout: TextLayout,
    path: Path,
    config: DataConfig,
    head: Head,
    usual_counts: tuple[int, ...],
    way_out: str,
) -> TextLayout:
    """The layout with its columns: by their names if there are any, the settings' numbers, or by count."""
    where, count = f"{path}, line {head.num_blank + 1}", layout.num_columns
    first = [name.strip() for name in _first_row(path, head, layout.separator, layout.quoted)]
    if _is_header(first, config, is_certain=not layout.quoted):
        columns = find_columns(first, config, where)
        _check_rows_below(path, head)
        header_lines = head.num_blank + 1
        return replace(layout, header_lines=header_lines, columns=columns, names=tuple(first))
    if config.columns:
        columns = find_columns([str(position) for position in range(count)], config, where)
        return replace(layout, columns=columns, expected=f"{count} columns as in the first row")
    if count not in usual_counts:
        raise DataError(
            f"{where}: {count} columns in {quoted(head.lines[0])}; expected {layout.expected}; where they "
            f'mean something else, number them from 0, as in columns={{"user": "0", "item": "1"}}; {way_out}'
        )
    what = f"the {count} columns are taken as {name_list(list(COLUMNS_BY_COUNT[count]))}"
    return replace(layout, columns=needed_columns(COLUMNS_BY_COUNT[count], config, where, what))


def _check_rows_below(path: Path, head: Head) -> None:
    if len(head.lines) == 1:
        raise DataError(f"{path}: the file is empty below its header; expected one interaction a line")


LAYOUTS: dict[str, Callable[[Path, DataConfig], TextLayout]] = {
    "plain": plain_layout,
    "movielens": movielens_layout,
    "delimited": delimited_layout,
    "recbole": recbole_layout,
}
