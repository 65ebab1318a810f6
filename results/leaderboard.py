"""The tables of a study: built from records, written in one step, read with pandas."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from seqsweep.results.errors import TableError
from seqsweep.results.files import replace_file
from seqsweep.results.schema import (
    FAMILY,
    SCHEMA_VERSION,
    EpochRecord,
    Hparam,
    TrialRecord,
    epochs_schema,
    finalists_schema,
    leaderboard_schema,
)

LEADERBOARD_FILE = "leaderboard.parquet"
EPOCHS_FILE = "epochs.parquet"
FINALISTS_FILE = "finalists.parquet"

URI_SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "file")  # what pyarrow reads

Place = str | os.PathLike[str]

RANKED_STATES = ("complete", "pruned")
STATE_ORDER = ("complete", "pruned", "running", "queued", "failed", "baseline", "ceiling")

PLAIN_FIELDS = [f.name for f in fields(TrialRecord) if f.name not in ("hparams", "valid", "test", "spread")]


@dataclass(frozen=True)
class StudyFacts:
    """What every row of a study's tables has in common; it goes into the file metadata."""

    study: str
    fingerprint: str  # of the prepared data
    objective: str  # the column that is maximised, for example valid.ndcg@10
    protocol: str
    versions: Mapping[str, str]


def build_leaderboard(records: Sequence[TrialRecord], objective: str = "valid.ndcg@10") -> pa.Table:
    """Finalists first, by the mean of `objective` over their trainings; then trials by their best value."""
    types = _hparam_types(records)
    rows = [_trial_row(record, types) for record in sorted(records, key=partial(_row_order, objective))]
    num_ranked = sum(map(_is_ranked, records))
    for position, row in enumerate(rows[:num_ranked], start=1):
        row["rank"] = position
    spread = list(dict.fromkeys(name for record in records for name in record.spread))
    return pa.Table.from_pylist(rows, schema=leaderboard_schema(types, spread))


def build_finalists(rows: Iterable[Mapping[str, object]]) -> pa.Table:
    """Rows with the columns of `finalists_schema`, best finalist first as the caller orders them."""
    return pa.Table.from_pylist([dict(row) for row in rows], schema=finalists_schema())


def build_epochs(records: Iterable[EpochRecord]) -> pa.Table:
    rows = [
        {
            "trial": record.trial,
            "epoch": record.epoch,
            "loss": record.loss,
            "objective": record.objective,
            **_prefixed("valid", record.valid),
            "lr": record.lr,
            "seconds": record.seconds,
            "eval_seconds": record.eval_seconds,
        }
        for record in sorted(records, key=lambda record: (record.trial, record.epoch))
    ]
    return pa.Table.from_pylist(rows, schema=epochs_schema())


def write_table(table: pa.Table, path: Path, facts: StudyFacts) -> None:
    """A reader finds the old or the new table, whole."""
    table = table.replace_schema_metadata(_file_metadata(facts))
    replace_file(path, lambda staging: pq.write_table(table, staging))


def load_leaderboard(path: Place) -> pd.DataFrame:
    """One row a trial, with dtypes that keep integers beside nulls. `path`: a folder, a file, a URI."""
    return _load(path, LEADERBOARD_FILE)


def load_epochs(path: Place) -> pd.DataFrame:
    """One row a trial and validated epoch."""
    return _load(path, EPOCHS_FILE)


def load_finalists(path: Place) -> pd.DataFrame:
    """One row a training of a finalist; there is no such table before the first."""
    return _load(path, FINALISTS_FILE)


def _load(path: Place, name: str) -> pd.DataFrame:
    file = _table_at(os.fspath(path), name)
    try:
        _refuse_unreadable_version(file)
        return pd.read_parquet(file, dtype_backend="numpy_nullable")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"a table must exist, got no file at {file}; name a study's folder or its {name}"
        ) from None
    except (OSError, pa.ArrowInvalid) as error:
        reason = str(error).partition("\n")[0]
        if isinstance(error, OSError):  # a damaged file, a bucket that does not answer
            raise TableError(f"{file} can't be read ({reason})") from error
        raise TableError(
            f"{file} must be a table written by seqsweep, got no Parquet file ({reason})"
        ) from None


def _table_at(path: str, name: str) -> str:
    if "://" not in path:
        return path if names_a_file(path) else os.path.join(path, name)
    parts = urlsplit(path)
    if parts.scheme not in URI_SCHEMES:
        raise TableError(
            f"a URI must begin with one of {', '.join(f'{scheme}://' for scheme in URI_SCHEMES)}, got {path}"
        )
    return path if names_a_file(path) else parts._replace(path=f"{parts.path.rstrip('/')}/{name}").geturl()


def names_a_file(path: Place) -> bool:
    """Not a study's folder. After a URI options may follow: s3://bucket/prefix/study?region=.."""
    place = os.fspath(path)
    return urlsplit(place).path.endswith(".parquet") if "://" in place else not os.path.isdir(place)


def _refuse_unreadable_version(file: str) -> None:
    recorded = (pq.read_schema(file).metadata or {}).get(b"schema_version")
    if recorded is None:
        raise TableError(f"{file} must be a table written by seqsweep, got one without a schema_version")
    if int(recorded) > SCHEMA_VERSION:
        raise TableError(
            f"schema_version must be at most {SCHEMA_VERSION}, got {int(recorded)} in {file}; "
            "it was written by a newer seqsweep: upgrade, or read it with pandas.read_parquet"
        )


def _is_ranked(record: TrialRecord) -> bool:
    return record.state in RANKED_STATES and record.objective is not None and math.isfinite(record.objective)


def _row_order(objective: str, record: TrialRecord) -> tuple[bool, float, int, float, int, str]:
    ranked = _is_ranked(record)
    mean = record.spread.get(f"{objective}.mean")
    return (
        not ranked,
        math.inf if mean is None else -mean,
        0 if ranked else STATE_ORDER.index(record.state),
        -_objective_to_sort_by(record) if ranked or record.trial is None else 0.0,
        -1 if record.trial is None else record.trial,  # equal values: the earlier trial wins, as in Optuna
        record.model or "",
    )


def _objective_to_sort_by(record: TrialRecord) -> float:
    return -math.inf if record.objective is None or math.isnan(record.objective) else record.objective


def _trial_row(record: TrialRecord, types: Mapping[str, pa.DataType]) -> dict[str, object]:
    row: dict[str, object] = {name: getattr(record, name) for name in PLAIN_FIELDS}
    for name in FAMILY:
        if row[name] is None and name in record.hparams:
            row[name] = _text(record.hparams[name])
    for name, type_ in types.items():
        if name in record.hparams:
            row[f"hparam.{name}"] = _as_column_value(record.hparams[name], type_)
    return row | _prefixed("valid", record.valid) | _prefixed("test", record.test) | dict(record.spread)


def _prefixed(split: str, metrics: Mapping[str, float]) -> dict[str, object]:
    return {f"{split}.{name}": value for name, value in metrics.items()}


def _hparam_types(records: Iterable[TrialRecord]) -> dict[str, pa.DataType]:
    seen: dict[str, set[type]] = {}
    for record in records:
        for name, value in record.hparams.items():
            if name not in FAMILY:
                seen.setdefault(name, set()).add(_kind(name, value))
    return {name: _common_type(kinds) for name, kinds in seen.items()}


def _kind(name: str, value: Hparam) -> type:
    for kind in (bool, int, float, str):  # bool first: it is an int to isinstance
        if isinstance(value, kind):
            return kind
    raise TypeError(f"hparam {name} must be an int, float, str or bool, got {value!r}")


def _common_type(kinds: set[type]) -> pa.DataType:
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return pa.int64()
    if kinds <= {int, float}:
        return pa.float64()
    return pa.string()


def _as_column_value(value: Hparam, type_: pa.DataType) -> Hparam:
    if pa.types.is_string(type_):
        return _text(value)
    return float(value) if pa.types.is_floating(type_) else value


def _text(value: Hparam) -> str:
    return value if isinstance(value, str) else json.dumps(value)  # True is written true, as in TOML and JSON


def _file_metadata(facts: StudyFacts) -> dict[str, str]:
    attributes = {
        "study": facts.study,
        "schema_version": SCHEMA_VERSION,
        "fingerprint": facts.fingerprint,
        "objective": facts.objective,
        "protocol": facts.protocol,
        "versions": dict(facts.versions),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    plain = {key: value if isinstance(value, str) else json.dumps(value) for key, value in attributes.items()}
    return plain | {"PANDAS_ATTRS": json.dumps(attributes)}  # pandas gives them back as DataFrame.attrs
