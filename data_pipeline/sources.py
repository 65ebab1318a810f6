"""SOURCES: every form in which a log can lie on disk, and how it becomes a table of interactions."""

from collections.abc import Callable
from glob import glob
from pathlib import Path

import pyarrow as pa

from data_pipeline import demo
from data_pipeline.columnar import COLUMNAR_SUFFIXES, read_columnar
from data_pipeline.config import DataConfig
from data_pipeline.layout import delimited_layout, movielens_layout, plain_layout
from data_pipeline.schema import DataError
from data_pipeline.text import read_text
from data_pipeline.text_file import COMPRESSIONS, strip_compression


def _read_demo(files: list[Path], config: DataConfig) -> pa.Table:
    return demo.generate(demo.DemoConfig(seed=config.seed)).interactions


def _read_plain(files: list[Path], config: DataConfig) -> pa.Table:
    return read_text(files[0], plain_layout(files[0], config))


def _read_movielens(files: list[Path], config: DataConfig) -> pa.Table:
    return read_text(files[0], movielens_layout(files[0], config))


def _read_delimited(files: list[Path], config: DataConfig) -> pa.Table:
    return read_text(files[0], delimited_layout(files[0], config))


SOURCES: dict[str, Callable[[list[Path], DataConfig], pa.Table]] = {
    "demo": _read_demo,
    "plain": _read_plain,
    "movielens": _read_movielens,
    "delimited": _read_delimited,
    "columnar": read_columnar,
}

FORMAT_OF_SUFFIX = {
    ".txt": "plain",
    ".data": "movielens",
    ".dat": "movielens",
    ".csv": "delimited",
    ".tsv": "delimited",
    **dict.fromkeys(COLUMNAR_SUFFIXES, "columnar"),
}


def read_interactions(config: DataConfig) -> pa.Table:
    """Columns user, item (dictionary encoded), timestamp (int64) if there is one, and rating (float64) if a
    filter asks for it, in the order of the input's rows. The unit of time is in the schema's metadata.

    Raises DataError on whatever cannot be read, with file, line and the way out.
    """
    return SOURCES[source_format(config)](input_files(config), config)


def source_format(config: DataConfig) -> str:
    """The key of SOURCES that reads `config.path`."""
    if config.format in SOURCES:
        return config.format
    if config.format != "auto":
        raise DataError(f"format must be auto or one of {', '.join(SOURCES)}, got {config.format!r}")
    if config.path == "demo":
        return "demo"
    path = Path(config.path)
    suffix = strip_compression(path).suffix.lower()
    if path.is_dir():
        return "columnar"
    if suffix not in FORMAT_OF_SUFFIX:
        raise DataError(
            f"{path}: the format cannot be told from the name; expected {', '.join(FORMAT_OF_SUFFIX)} (text "
            f"also with {', '.join(COMPRESSIONS)}) or a folder of Parquet, Arrow or Feather files; "
            f"rename it, or set format to one of {', '.join(SOURCES)}"
        )
    return FORMAT_OF_SUFFIX[suffix]


def input_files(config: DataConfig) -> list[Path]:
    """The files to read, in order; none for the generated log. Raises DataError where nothing is there."""
    form = source_format(config)
    if form == "demo":
        return []
    path = Path(config.path)
    if path.is_file():
        return [path]
    if form != "columnar":
        what = "a folder, expected a file" if path.is_dir() else "no such file"
        raise DataError(f"{path}: {what}; check the path (relative ones start at {Path.cwd()})")
    inside = path.rglob("*") if path.is_dir() else map(Path, glob(config.path))
    files = sorted(file for file in inside if file.suffix.lower() in COLUMNAR_SUFFIXES and file.is_file())
    if not files:
        endings = ", ".join(COLUMNAR_SUFFIXES)
        raise DataError(f"{path}: no such file, and no {endings} files there; check the path")
    return files
