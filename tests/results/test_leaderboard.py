import json
import os
from datetime import UTC, datetime, timedelta, timezone
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqsweep import load_leaderboard
from seqsweep.results.errors import TableError
from seqsweep.results.leaderboard import StudyFacts, build_epochs, build_leaderboard, write_table
from seqsweep.results.schema import EpochRecord, Hparam, TrialRecord, epochs_schema, leaderboard_schema

FACTS = StudyFacts(
    study="ml-1m",
    fingerprint="3f2a",
    objective="valid.ndcg@10",
    protocol="leave_one_out, full ranking",
    versions={"seqsweep": "0.1.0"},
)

RECORDS = [
    TrialRecord(trial=0, state="pruned", objective=0.10),
    TrialRecord(trial=1, state="complete", objective=0.30),
    TrialRecord(trial=2, state="complete", objective=0.20),
    TrialRecord(trial=3, state="failed", objective=0.90, error="diverged: loss is nan at epoch 2"),
    TrialRecord(trial=4, state="running", objective=0.95),
    TrialRecord(trial=5, state="running"),
    TrialRecord(trial=6, state="queued"),
    TrialRecord(trial=7, state="complete", objective=0.30),
    TrialRecord(trial=None, state="baseline", objective=0.05, model="popularity"),
    TrialRecord(trial=None, state="baseline", objective=0.12, model="markov"),
    TrialRecord(trial=None, state="ceiling", objective=0.55, model="ceiling-blind"),
    TrialRecord(trial=None, state="ceiling", objective=0.68, model="ceiling-aware"),
]


def column(table: pa.Table, name: str) -> list[object]:
    return table.column(name).to_pylist()


def with_hparams(*hparams: dict[str, Hparam]) -> list[TrialRecord]:
    return [
        TrialRecord(trial=number, state="complete", objective=-float(number), hparams=values)
        for number, values in enumerate(hparams)
    ]


def test_rows_come_best_first_then_by_state_then_baselines_and_ceilings() -> None:
    table = build_leaderboard(RECORDS)
    assert column(table, "trial") == [1, 7, 2, 0, 4, 5, 6, 3, None, None, None, None]
    assert column(table, "rank") == [1, 2, 3, 4] + [None] * 8
    assert column(table, "model")[-4:] == ["markov", "popularity", "ceiling-aware", "ceiling-blind"]


def test_the_order_does_not_depend_on_the_order_of_the_records() -> None:
    tables = [build_leaderboard(order) for order in permutations(RECORDS[:6])]
    assert all(table.equals(tables[0]) for table in tables)


@pytest.mark.parametrize("objective", [None, float("nan"), float("inf"), float("-inf")])
def test_a_finished_trial_without_a_finite_objective_has_no_rank(objective: float | None) -> None:
    records = [TrialRecord(trial=0, state="complete", objective=objective), RECORDS[2], RECORDS[4]]
    table = build_leaderboard(records)
    assert column(table, "trial") == [2, 0, 4]
    assert column(table, "rank") == [1, None, None]


@pytest.mark.parametrize("records", [[], RECORDS])
def test_the_schema_is_whole_with_and_without_rows(records: list[TrialRecord]) -> None:
    assert build_leaderboard(records).schema == leaderboard_schema({})
    assert build_epochs([]).schema == epochs_schema()


@pytest.mark.parametrize(
    ("values", "dtype", "written"),
    [
        ((1, 2), pa.int64(), [1, 2]),
        ((0.5, 2.0), pa.float64(), [0.5, 2.0]),
        ((1, 0.5), pa.float64(), [1.0, 0.5]),
        ((True, False), pa.bool_(), [True, False]),
        (("pre", "post"), pa.string(), ["pre", "post"]),
        (("auto", 3), pa.string(), ["auto", "3"]),
        ((0.1, "auto"), pa.string(), ["0.1", "auto"]),
        ((True, 1), pa.string(), ["true", "1"]),
    ],
)
def test_an_hparam_column_has_the_one_type_that_holds_all_values(
    values: tuple[Hparam, Hparam], dtype: pa.DataType, written: list[Hparam]
) -> None:
    table = build_leaderboard(with_hparams({"x": values[0]}, {"x": values[1]}, {}))
    assert table.schema.field("hparam.x").type == dtype
    assert column(table, "hparam.x") == [*written, None]


def test_a_nested_hparam_is_refused() -> None:
    with pytest.raises(TypeError, match=r"hparam layers must be .* got \[64, 32\]"):
        build_leaderboard(with_hparams({"layers": [64, 32]}))  # type: ignore[dict-item]


def test_family_hparams_fill_the_family_columns_and_no_others() -> None:
    table = build_leaderboard(with_hparams({"model": "sasrec", "residual": "mhc", "loss": "ce", "lr": 1e-3}))
    assert [column(table, name) for name in ("model", "residual", "loss")] == [["sasrec"], ["mhc"], ["ce"]]
    assert [name for name in table.column_names if name.startswith("hparam.")] == ["hparam.lr"]


def test_every_field_of_a_record_reaches_its_column() -> None:
    started = datetime(2026, 1, 2, 12, 30, tzinfo=timezone(timedelta(hours=2)))
    record = TrialRecord(
        trial=3,
        state="complete",
        objective=0.25,
        model="sasrec",
        residual="plain",
        loss="ce",
        hparams={"lr": 1e-3},
        valid={"ndcg@10": 0.25},
        test={"mrr": 0.125},
        best_epoch=7,
        epochs=9,
        num_parameters=2**40,
        seconds=1.5,
        device_seconds=1.25,
        eval_seconds=0.5,
        peak_memory_bytes=2**41,
        milliseconds_per_user=0.0625,
        started_at=started,
        ended_at=started + timedelta(seconds=1.5),
        node="10.0.0.1",
        device="cpu",
        attempts=2,
        retry_of=2,
        stopped_because="time_limit",
        on_front=True,
        error="none",
        checkpoint="trials/3/checkpoint.pt",
        seeds=3,
        spread={"valid.mrr.mean": 0.5},
    )
    row = build_leaderboard([record]).to_pylist()[0]
    nested = ("hparams", "valid", "test", "spread")
    given = {key: value for key, value in vars(record).items() if key not in nested}
    assert {key: value for key, value in row.items() if value is not None} == {
        "rank": 1,
        "hparam.lr": 1e-3,
        "valid.ndcg@10": 0.25,
        "test.mrr": 0.125,
        "valid.mrr.mean": 0.5,
        **given,
    }
    assert row["started_at"].isoformat() == "2026-01-02T10:30:00+00:00"


def test_finalists_come_first_by_their_mean() -> None:
    records = [
        TrialRecord(trial=0, state="complete", objective=0.9),
        TrialRecord(trial=1, state="complete", objective=0.8, spread={"valid.ndcg@10.mean": 0.5}),
        TrialRecord(trial=2, state="complete", objective=0.7, spread={"valid.ndcg@10.mean": 0.6}),
    ]
    table = build_leaderboard(records, "valid.ndcg@10")
    assert column(table, "trial") == [2, 1, 0] and column(table, "rank") == [1, 2, 3]


def test_epochs_come_by_trial_and_epoch() -> None:
    records = [
        EpochRecord(trial=1, epoch=1, loss=2.0),
        EpochRecord(trial=0, epoch=2, loss=float("nan")),
        EpochRecord(
            trial=0,
            epoch=1,
            loss=3.0,
            objective=0.1,
            valid={"hr@5": 0.2},
            lr=1e-3,
            seconds=4.0,
            eval_seconds=1.0,
        ),
    ]
    table = build_epochs(records)
    assert list(zip(column(table, "trial"), column(table, "epoch"), strict=True)) == [(0, 1), (0, 2), (1, 1)]
    assert {key: value for key, value in table.to_pylist()[0].items() if value is not None} == {
        "trial": 0,
        "epoch": 1,
        "loss": 3.0,
        "objective": 0.1,
        "valid.hr@5": 0.2,
        "lr": 1e-3,
        "seconds": 4.0,
        "eval_seconds": 1.0,
    }
    assert np.isnan(table.column("loss")[1].as_py())  # a loss that diverged is shown, not hidden as null


def test_plain_pandas_is_all_a_reader_needs(tmp_path: Path) -> None:
    records = with_hparams({"hidden_dim": 64, "lr": 1e-3, "norm": "pre"}, {"hidden_dim": 32, "lr": 1e-2})
    write_table(build_leaderboard(records), tmp_path / "leaderboard.parquet", FACTS)
    frame = pd.read_parquet(tmp_path / "leaderboard.parquet")
    assert isinstance(frame.index, pd.RangeIndex)
    assert [frame[name].iloc[0] for name in ("rank", "trial", "hparam.hidden_dim")] == [1, 0, 64]
    assert str(frame["started_at"].dtype) == "datetime64[us, UTC]"
    assert frame["hparam.hidden_dim"].dtype == np.int64
    assert frame.attrs["objective"] == "valid.ndcg@10"
    assert frame.attrs["versions"] == {"seqsweep": "0.1.0"}


def test_the_file_carries_the_facts_of_the_study(tmp_path: Path) -> None:
    path = tmp_path / "leaderboard.parquet"
    before = datetime.now(UTC).replace(microsecond=0)
    write_table(build_leaderboard([]), path, FACTS)
    raw = pq.read_schema(path).metadata
    assert raw is not None
    metadata = {key.decode(): value.decode() for key, value in raw.items()}
    assert metadata["study"] == "ml-1m"
    assert metadata["schema_version"] == "1"
    assert metadata["fingerprint"] == "3f2a"
    assert metadata["objective"] == "valid.ndcg@10"
    assert metadata["protocol"] == "leave_one_out, full ranking"
    assert json.loads(metadata["versions"]) == {"seqsweep": "0.1.0"}
    assert before <= datetime.fromisoformat(metadata["created"]) <= datetime.now(UTC)


@pytest.mark.parametrize("name", ["", "leaderboard.parquet"])
def test_load_leaderboard_takes_a_folder_or_a_file_and_keeps_integers(tmp_path: Path, name: str) -> None:
    write_table(build_leaderboard(RECORDS), tmp_path / "leaderboard.parquet", FACTS)
    frame = load_leaderboard(tmp_path / name)
    assert frame.dtypes["rank"] == pd.Int32Dtype()
    assert frame.dtypes["num_parameters"] == pd.Int64Dtype()
    assert frame["trial"].tolist()[:8] == [1, 7, 2, 0, 4, 5, 6, 3]
    assert frame["trial"].isna().sum() == 4
    assert frame.attrs["study"] == "ml-1m"


def test_a_missing_leaderboard_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"a table must exist, got no file at .*leaderboard\.parquet"):
        load_leaderboard(tmp_path)


def test_a_leaderboard_of_a_newer_seqsweep_is_refused(tmp_path: Path) -> None:
    table = build_leaderboard([]).replace_schema_metadata({"schema_version": "2"})
    pq.write_table(table, tmp_path / "leaderboard.parquet")
    with pytest.raises(ValueError, match="schema_version must be at most 1, got 2"):
        load_leaderboard(tmp_path)


def test_a_table_of_another_program_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "leaderboard.parquet")
    with pytest.raises(ValueError, match="written by seqsweep"):
        load_leaderboard(tmp_path)


@pytest.mark.parametrize("place", ["http://x/y", "https://x/leaderboard.parquet", "ftp://x"])
def test_a_uri_that_is_not_known_is_answered_with_those_that_are(place: str) -> None:
    with pytest.raises(TableError, match=rf"a URI must begin with one of s3://, gs://, .*, got {place}$"):
        load_leaderboard(place)


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "leaderboard.parquet"
    write_table(build_leaderboard(RECORDS), path, FACTS)
    whole = path.read_bytes()
    half = len(whole) // 2
    path.write_bytes(whole[:half] + bytes(len(whole) - half - 8) + whole[-8:])
    with pytest.raises(TableError, match=r"leaderboard\.parquet can't be read \(Couldn't deserialize thrift"):
        load_leaderboard(tmp_path)


def test_a_bucket_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise OSError("When reading information for key: AWS Error NETWORK_CONNECTION\nmore")

    monkeypatch.setattr(pq, "read_schema", refuse)
    with pytest.raises(
        TableError, match=r"^s3://b/one/leaderboard\.parquet\?region=x can't be read \(When .*_CONNECTION\)$"
    ):
        load_leaderboard("s3://b/one?region=x")


def test_a_write_that_fails_leaves_the_old_table_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "leaderboard.parquet"
    write_table(build_leaderboard([]), path, FACTS)

    def refuse(source: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        write_table(build_leaderboard(RECORDS), path, FACTS)
    assert list(tmp_path.iterdir()) == [path]
    assert pq.read_table(path).num_rows == 0
