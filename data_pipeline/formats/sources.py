"""SOURCES: every form in which a log can lie on disk, and how it becomes a table of interactions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import pyarrow as pa

from seqsweep.data_pipeline import demo
from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.errors import DataError
from seqsweep.data_pipeline.formats.columnar import read_columnar, read_frame
from seqsweep.data_pipeline.formats.columns import interactions_table, name_list
from seqsweep.data_pipeline.formats.json_lines import read_json_lines
from seqsweep.data_pipeline.formats.recognise import input_files, source_format
from seqsweep.data_pipeline.formats.text import read_text
from seqsweep.data_pipeline.formats.text_file import one_line
from seqsweep.data_pipeline.formats.text_layout import LAYOUTS
from seqsweep.data_pipeline.formats.user_lines import read_sequences


def _read_laid_out(form: str, file: Path, config: DataConfig) -> pa.Table:
    return read_text(file, LAYOUTS[form](file, config))


# format -> how one file of it is read: its columns by role, as `columns.interactions_table` takes them
SOURCES: dict[str, Callable[[Path, DataConfig], pa.Table]] = {
    **{form: partial(_read_laid_out, form) for form in LAYOUTS},
    "json_lines": read_json_lines,
    "sequences": read_sequences,
    "columnar": read_columnar,
}


def read_interactions(config: DataConfig) -> pa.Table:
    """Columns user, item (dictionary encoded), timestamp (int64) if there is one, and rating (float64) if a
    filter asks for it, in the order of the input's rows. The unit of time is in the schema's metadata.

    Several files are read one after the other, in order of name. Raises DataError on whatever cannot be read,
    with file, line and the way out.
    """
    form = source_format(config)
    if form == "demo":
        return demo.generate(demo.DemoConfig(seed=config.seed)).interactions
    files = input_files(config)
    parts = [SOURCES[form](file, config) for file in files]
    if not any(part.num_rows for part in parts):
        raise DataError(
            f"{config.path}: the file is empty; expected one interaction a row, at least user and item"
        )
    return _joined(parts, files, config)


def read_table(table: pa.Table | pd.DataFrame, config: DataConfig) -> pa.Table:
    """As `read_interactions`, for what is in memory: of one content both give the same.

    table: columns by the settings' or usual names, of the types that Parquet files may have; a DataFrame's
    index is not looked at. `config.path` is the name that errors give it. Raises DataError with the row.
    """
    return _joined([read_frame(table, config)], [Path(config.path)], config)


def _joined(parts: Sequence[pa.Table], files: Sequence[Path], config: DataConfig) -> pa.Table:
    there = [(part, file) for part, file in zip(parts, files, strict=True) if part.num_rows]
    first, first_file = there[0]
    for part, file in there:
        if part.column_names != first.column_names:
            expected = f"{first_file} has {name_list(first.column_names)}"
            raise DataError(
                f"{file}: has {name_list(part.column_names)} where {expected}; "
                "expected the same in all files; complete it, or choose files with a glob"
            )
    try:
        return interactions_table([part for part, _ in there])
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(
            f"{config.path}: {one_line(error)}; expected columns of one kind in all files, and timestamps "
            "that fit 64 bits; convert them"
        ) from error
