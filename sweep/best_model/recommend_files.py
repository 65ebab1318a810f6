"""Files of `seqsweep recommend`: whom and what to recommend, and what comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.errors import DataError
from seqsweep.data_pipeline.formats.recognise import input_files
from seqsweep.data_pipeline.preparing.prepare import is_prepared
from seqsweep.data_pipeline.preparing.raw_log import places_among, read_ids
from seqsweep.results.files import replace_file
from seqsweep.sweep.best_model.evaluate import Say
from seqsweep.sweep.best_model.model_folder import Exported
from seqsweep.sweep.errors import UserError


def chosen_users(path: Path | None, raw_user_id: pa.Array[Any], say: Say) -> npt.NDArray[np.bool_] | None:
    """Which users of the log a file names. Raises DataError where it names none of them."""
    if path is None:
        return None
    named = read_ids(path)
    place = places_among(named, raw_user_id)
    if (place < 0).all():
        raise DataError(
            f"{path} must name users of the log, got {named[:3].to_pylist()} and none that is in it"
        )
    if (place < 0).any():
        say(f"{int((place < 0).sum()):,} of {len(named):,} users in {path} are not in the log")
    chosen_U = np.zeros(len(raw_user_id), np.bool_)
    chosen_U[place[place >= 0]] = True
    return chosen_U


def known_candidates(path: Path | None, exported: Exported, say: Say) -> pa.Array[Any] | None:
    """Those of a file that the model knows. Raises DataError where it knows none of them."""
    if path is None:
        return None
    named = read_ids(path)
    place = np.unique(places_among(named, exported.item_ids))
    known = place[place >= 0]
    if len(known) == 0:
        raise DataError(
            f"{path} must name items that the model knows, got {named[:3].to_pylist()} and none that it knows"
        )
    unknown = len(named.unique()) - len(known)
    if unknown:
        say(f"{unknown:,} of {len(named):,} candidates in {path} are not known to the model")
    return exported.item_ids.take(known)


def check_apart(out: Path, log: DataConfig) -> None:
    """The log is not written over. Raises UserError."""
    files = [] if is_prepared(log) else input_files(log)
    if out.resolve() in {file.resolve() for file in files}:
        raise UserError(f"--out must be another file than the log, got {out}")


def check_output(path: Path) -> None:
    """Before anything is computed. Raises UserError."""
    if path.suffix not in (".parquet", ".csv"):
        raise UserError(f"--out must end in .parquet or .csv, got {path}")
    check_folder(path, "--out")


def check_folder(path: Path, flag: str) -> None:
    if not path.absolute().parent.is_dir():
        raise UserError(f"{flag} must lie in a folder that is there, got {path}: make {path.parent} first")
    if path.is_dir():
        raise UserError(f"{flag} must be a file, got {path}, which is a folder")


def write_output(table: pa.Table, path: Path) -> None:
    write = pyarrow.csv.write_csv if path.suffix == ".csv" else pyarrow.parquet.write_table
    replace_file(path, lambda staging: write(table, staging))
