"""What lies between the fields of a text file."""

import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from seqsweep.data_pipeline.formats.text_file import MAX_LINE_BYTES

CANDIDATES = (",", "\t", ";", "|", "::", "^")  # of equally good ones the first
SAMPLED_LINES = 20
BLANKS = re.compile(r"[ \t]+")


def choose_separator(lines: Sequence[str]) -> tuple[str, bool]:
    """What separates a table's fields, and whether quotation marks may enclose them.

    It is what cuts all of the first lines into equally many fields, and the more the better; else what the
    first line has most of. Only where nothing else is there blanks are taken.
    """
    separator = max(CANDIDATES, key=lambda mark: field_count(lines, mark))
    if field_count(lines, separator)[1] > 1:
        return separator, separator != "::"
    if len(BLANKS.split(lines[0].strip(" \t"))) == 1:
        return ",", True
    return (" ", True) if any('"' in line for line in lines[:SAMPLED_LINES]) else ("blanks", False)


def field_count(lines: Sequence[str], separator: str) -> tuple[bool, int]:
    """Whether all of the first lines have as many fields as the first one and more than one; and how many."""
    counts = [len(split_line(line, separator, separator != "::")) for line in lines[:SAMPLED_LINES]]
    return counts[0] > 1 and len(set(counts)) == 1, counts[0]


def split_line(line: str, separator: str, quoted: bool) -> list[str]:
    """Fields of one line; "blanks" are runs of spaces and tabs, and don't count at the line's edges."""
    if separator == "blanks":
        return BLANKS.split(line.strip(" \t"))
    if not quoted:
        return line.split(separator)
    try:
        return next(csv.reader([line], delimiter=separator), [""])
    except csv.Error:  # such as a field beyond csv.field_size_limit()
        return line.split(separator)


@contextmanager
def long_fields() -> Iterator[None]:
    """Lets Python's reader take what Arrow's takes: it stops at 131,072 characters a field of itself."""
    before = csv.field_size_limit(MAX_LINE_BYTES)
    try:
        yield
    finally:
        csv.field_size_limit(before)
