"""Which format a log has, and which files it lies in: by name, by its first bytes and by its first lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.errors import DataError
from seqsweep.data_pipeline.formats.columnar import COLUMNAR_SUFFIXES, is_columnar
from seqsweep.data_pipeline.formats.columns import role_of_usual_name
from seqsweep.data_pipeline.formats.separators import SAMPLED_LINES, choose_separator, field_count, split_line
from seqsweep.data_pipeline.formats.text_file import COMPRESSIONS, read_head, strip_compression
from seqsweep.data_pipeline.formats.text_layout import RECBOLE_NAME, SEPARATOR_NAMES

FORMATS = ("demo", "plain", "delimited", "movielens", "recbole", "json_lines", "sequences", "columnar")

FORMAT_OF_SUFFIX = {
    ".csv": "delimited",
    ".tsv": "delimited",
    ".inter": "recbole",
    ".jsonl": "json_lines",
    ".ndjson": "json_lines",
    ".sequences": "sequences",
    ".seq": "sequences",
    **dict.fromkeys(COLUMNAR_SUFFIXES, "columnar"),
}
# Endings of all sorts of text: what they mean where the first lines tell nothing.
LIKELY_FORMAT = {".txt": "plain", ".data": "movielens", ".dat": "movielens", ".json": "json_lines"}
WAY_OUT = f"set format to one of {', '.join(FORMATS[1:])}"
NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")


@dataclass(frozen=True)
class Recognised:
    """why: one half of a sentence, as in "delimited, by its name"."""

    format: str
    why: str


def guess_format(path: Path) -> str:
    """The key of SOURCES that one file is taken for. Raises DataError where nothing tells it."""
    return recognise(path).format


def recognise(path: Path) -> Recognised:
    """The format of one file, and why. Raises DataError where nothing tells it, and on unreadable text."""
    suffix = strip_compression(path).suffix.lower()
    if path.is_file() and _is_columnar(path):
        return Recognised("columnar", "its first bytes are those of Parquet or Arrow files")
    if suffix in FORMAT_OF_SUFFIX:
        return Recognised(FORMAT_OF_SUFFIX[suffix], f"by its name, which ends in {suffix}")
    if path.is_file() and (found := _by_first_lines(path)):
        return found
    if suffix in LIKELY_FORMAT:
        return Recognised(LIKELY_FORMAT[suffix], f"by its name, which ends in {suffix}")
    if not path.exists():
        raise _missing(path)
    raise DataError(
        f"{path}: the format cannot be told from the name or the first lines; expected "
        f"{', '.join([*LIKELY_FORMAT, *FORMAT_OF_SUFFIX])} (text also with {', '.join(COMPRESSIONS)}), or "
        f"rows of equally many fields; rename it, or {WAY_OUT}"
    )


def _is_columnar(path: Path) -> bool:
    try:
        return is_columnar(path)
    except OSError as error:
        raise DataError(f"{path}: could not be read: {error}; check the disk and its permissions") from error


def _by_first_lines(path: Path) -> Recognised | None:
    lines = read_head(path).lines[:SAMPLED_LINES]
    first = lines[0].strip()
    if first.startswith(("{", "[")):
        return Recognised("json_lines", f"its first line begins with {first[0]}")
    if all(RECBOLE_NAME.fullmatch(name) for name in first.split("\t")):
        return Recognised("recbole", "its first line has names with types and tabs between")
    separator, _ = choose_separator(lines)
    is_even, count = field_count(lines, separator)
    blanks = {len(split_line(line, "blanks", quoted=False)) for line in lines}
    if is_even and separator in ("\t", "::") and count == 4 and _are_ratings(lines, separator):
        name = SEPARATOR_NAMES[separator]
        return Recognised("movielens", f"its first lines have 4 columns of numbers with {name} between")
    if separator in ("blanks", " ", "\t") and blanks in ({2}, {3}):
        return Recognised("plain", f"its first lines have {blanks.pop()} columns with white space between")
    if is_even and separator not in ("blanks", " "):
        name = SEPARATOR_NAMES.get(separator, repr(separator))
        return Recognised("delimited", f"its first lines have {count} columns with {name} between")
    if separator == "blanks" and _has_names(lines, blanks):
        (count,) = blanks
        return Recognised("delimited", f"its first lines have {count} columns with white space between")
    return None


def _are_ratings(lines: Sequence[str], separator: str) -> bool:
    """Whether rating and time are numbers in the first line, which then has no names."""
    return all(NUMBER.fullmatch(field.strip()) for field in split_line(lines[0], separator, quoted=False)[2:])


def _has_names(lines: Sequence[str], counts: set[int]) -> bool:
    roles = {role_of_usual_name(field) for field in split_line(lines[0], "blanks", quoted=False)}
    return len(counts) == 1 and {"user", "item"} <= roles


def source_format(config: DataConfig) -> str:
    """The key of SOURCES that reads `config.path`. Raises DataError where it cannot be told."""
    return recognise_source(config).format


def recognise_source(config: DataConfig) -> Recognised:
    """As `recognise`, for all files of a log together."""
    if config.format in FORMATS:
        return Recognised(config.format, "as the settings say")
    if config.format != "auto":
        raise DataError(f"format must be auto or one of {', '.join(FORMATS)}, got {config.format!r}")
    if config.path == "demo":
        return Recognised("demo", "generated, as the path is demo")
    path = Path(config.path)
    if path.is_file() or not (files := _visible_files(path)):
        return recognise(path) if path.is_file() else _by_name_alone(path)
    return _common_format(path, files)


def _by_name_alone(path: Path) -> Recognised:
    if path.is_dir():
        raise DataError(f"{path}: the folder holds no files; check the path")
    return recognise(path)


def _common_format(path: Path, files: Sequence[Path]) -> Recognised:
    """Of those files whose format can be told: a folder may hold a README."""
    found = _recognisable(files)
    if not found:
        return recognise(files[0])
    formats = list(dict.fromkeys(one.format for one in found.values()))
    if len(formats) > 1:
        each = [
            _told_files(form, [file for file, one in found.items() if one.format == form]) for form in formats
        ]
        raise DataError(
            f"{path}: the files have several formats: {'; '.join(each)}; expected one; choose files with a "
            f"glob such as '{path if path.is_dir() else path.parent}/*{files[0].suffix}', or {WAY_OUT}"
        )
    (first, *_) = found.values()
    return first


def _told_files(form: str, files: Sequence[Path]) -> str:
    return f"{form} ({', '.join(file.name for file in files[:3])}{', ..' if len(files) > 3 else ''})"


def _recognisable(files: Iterable[Path]) -> dict[Path, Recognised]:
    found = {}
    for file in files:
        try:
            found[file] = recognise(file)
        except DataError:
            if _suffix(file) in LIKELY_FORMAT:
                raise  # an empty .txt, say: to pass over it would lose rows that nobody misses
    return found


def _suffix(file: Path) -> str:
    return strip_compression(file).suffix.lower()


def _visible_files(path: Path) -> list[Path]:
    """Files of a folder (and those in it) or glob by name; no hidden ones and none like `_SUCCESS`."""
    top = path if path.is_dir() else None
    inside = path.rglob("*") if top else map(Path, glob(str(path), recursive=True))
    return sorted(
        file
        for file in inside
        if not any(
            part.startswith((".", "_")) for part in (file.relative_to(top).parts if top else file.parts[-1:])
        )
        and file.suffix.lower() != ".crc"
        and file.is_file()
    )


def input_files(config: DataConfig) -> list[Path]:
    """The files to read, in order of name; none for the generated log. Raises DataError where none is."""
    form = source_format(config)
    if form == "demo":
        return []
    path = Path(config.path)
    if path.is_file():
        return [path]
    files = _visible_files(path)
    if not files:
        raise (
            DataError(f"{path}: the folder holds no files; check the path")
            if path.is_dir()
            else _missing(path)
        )
    if config.format == "auto":
        return list(_recognisable(files)) or files
    return [file for file in files if _may_have_format(file, form)] or files


def _may_have_format(file: Path, form: str) -> bool:
    """Whether a format that is asked for may be that of this file of a folder: its name may say otherwise."""
    suffix = _suffix(file)
    if suffix in FORMAT_OF_SUFFIX:
        return FORMAT_OF_SUFFIX[suffix] == form
    try:
        return suffix in ("", *LIKELY_FORMAT) or recognise(file).format == form
    except DataError:
        return False


def _missing(path: Path) -> DataError:
    return DataError(f"{path}: no such file; check the path (relative ones start at {Path.cwd()})")
