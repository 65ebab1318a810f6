"""How a text file is laid out: told from the settings and its first lines."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from data_pipeline.columns import Role, find_columns, is_usual_name, named_columns, needed_columns
from data_pipeline.config import DataConfig
from data_pipeline.schema import DataError
from data_pipeline.text_file import Head, cut, open_lines, read_head

# What columns without names mean: the forms of MovieLens, Amazon and the papers' preprocessed files.
COLUMNS_BY_COUNT: dict[int, dict[Role, int]] = {
    2: {"user": 0, "item": 1},
    3: {"user": 0, "item": 1, "timestamp": 2},
    4: {"user": 0, "item": 1, "rating": 2, "timestamp": 3},
}


@dataclass(frozen=True)
class TextLayout:
    """separator: a character, "::", or "blanks" for any run of spaces and tabs (edges of lines do not count).

    even_separator: the one character that is all there is between the columns of the first lines, if they are
        separated by blanks; worth a try before blanks are squeezed.
    header_lines: how many lines lie before the first row of data.
    expected: the layout in words, for error messages.
    """

    separator: str
    quoted: bool
    num_columns: int
    header_lines: int
    columns: dict[Role, int]
    expected: str
    even_separator: str | None = None

    def rows(self, path: Path) -> Iterator[tuple[int, str, list[str]]]:
        """Line number (1-based), text and fields of every row: for finding a mistake, not for reading."""
        with open_lines(path, newline="" if self.quoted else None) as stream:
            for number, text, fields in self._quoted(stream) if self.quoted else self._simple(stream):
                if number > self.header_lines and text and fields:
                    yield number, text, fields

    def _simple(self, stream: io.TextIOWrapper) -> Iterator[tuple[int, str, list[str]]]:
        separator = None if self.separator == "blanks" else self.separator
        for number, line in enumerate(stream, start=1):
            text = line.rstrip("\n")
            yield number, text, text.split(separator)

    def _quoted(self, stream: io.TextIOWrapper) -> Iterator[tuple[int, str, list[str]]]:
        reader, number = csv.reader(stream, delimiter=self.separator), 1
        for fields in reader:
            yield number, self.separator.join(fields), fields
            number = reader.line_num + 1


def plain_layout(path: Path, config: DataConfig) -> TextLayout:
    """`user item [timestamp]` with white space between."""
    head = read_head(path)
    layout = TextLayout(
        separator="blanks",
        quoted=False,
        num_columns=len(head.lines[0].split()),
        header_lines=head.num_blank,
        columns={},
        expected="`user item` or `user item timestamp` with white space between",
        even_separator=next((mark for mark in (" ", "\t") if _splits_evenly(head, mark)), None),
    )
    return _without_names(layout, path, config, head, (2, 3), 'for commas set format="delimited"')


def _splits_evenly(head: Head, mark: str) -> bool:
    return all(mark.join(line.split()) == line for line in head.lines)


def movielens_layout(path: Path, config: DataConfig) -> TextLayout:
    """`u.data` (tabs between) and `ratings.dat` (`::` between)."""
    head = read_head(path)
    separator, name = ("::", "`::`") if "::" in head.lines[0] else ("\t", "tabs")
    layout = TextLayout(
        separator=separator,
        quoted=False,
        num_columns=len(head.lines[0].split(separator)),
        header_lines=head.num_blank,
        columns={},
        expected=f"user, item, rating, timestamp with {name} between",
    )
    return _without_names(
        layout, path, config, head, (4,), "for other files set format to plain or delimited"
    )


def delimited_layout(path: Path, config: DataConfig) -> TextLayout:
    """.csv and .tsv, with a row of names or without. The separator is what the first row has most of."""
    head = read_head(path)
    separator = max(",\t;|", key=head.lines[0].count)
    names = [name.strip() for name in next(csv.reader(head.lines, delimiter=separator))]
    layout = TextLayout(
        separator=separator,
        quoted=True,
        num_columns=len(names),
        header_lines=head.num_blank,
        columns={},
        expected=f"user, item and perhaps rating and timestamp with {separator!r} between",
    )
    if not _is_header(names, config):
        return _without_names(layout, path, config, head, (2, 3, 4), "or give the file a row of names")
    columns = find_columns(names, config, f"{path}, line {head.num_blank + 1}")
    if len(head.lines) == 1:
        raise DataError(f"{path}: the file is empty below its header; expected one interaction a line")
    return TextLayout(separator, True, len(names), head.num_blank + 1, columns, layout.expected)


def _is_header(fields: list[str], config: DataConfig) -> bool:
    """A row of names: one is asked for or usual; or, unless columns are numbered, no field has a digit."""
    wanted = named_columns(config).values()
    if any(is_usual_name(field) or (field in wanted and not field.isdecimal()) for field in fields):
        return True
    if wanted:
        return not all(name.isdecimal() for name in wanted)
    return not any(character.isdigit() for field in fields for character in field)


def _without_names(
    layout: TextLayout,
    path: Path,
    config: DataConfig,
    head: Head,
    usual_counts: tuple[int, ...],
    way_out: str,
) -> TextLayout:
    """The layout with its columns: by the settings' numbers, or by how many there are."""
    where, count = f"{path}, line {head.num_blank + 1}", layout.num_columns
    if config.columns:
        columns = find_columns([str(position) for position in range(count)], config, where)
        return replace(layout, columns=columns, expected=f"{count} columns as in the first row")
    if count not in usual_counts:
        raise DataError(
            f"{where}: {count} columns in {cut(head.lines[0])}; expected {layout.expected}; where they mean "
            f'something else, number them from 0, such as columns={{"user": "0", "item": "1"}}; {way_out}'
        )
    what = f"the {count} columns are taken as {', '.join(COLUMNS_BY_COUNT[count])}"
    return replace(layout, columns=needed_columns(COLUMNS_BY_COUNT[count], config, where, what))
