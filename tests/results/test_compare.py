from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from seqsweep import compare_studies, load_epochs, load_finalists, load_leaderboard
from seqsweep.results.leaderboard import (
    StudyFacts,
    build_epochs,
    build_finalists,
    build_leaderboard,
    write_table,
)
from seqsweep.results.schema import EpochRecord, TrialRecord

FACTS = StudyFacts("one", "3f2a", "valid.mrr", "leave_one_out", {"seqsweep": "0.1.0"})
TRIALS = [
    TrialRecord(
        trial=0,
        state="complete",
        model="sasrec",
        objective=0.5,
        valid={"mrr": 0.5},
        test={"mrr": 0.25},
        num_parameters=7,
        seconds=10.0,
        device_seconds=1800.0,
        seeds=2,
        spread={"valid.mrr.mean": 0.4, "valid.mrr.low": 0.3, "valid.mrr.high": 0.6},
    ),
    TrialRecord(trial=1, state="pruned", model="hstu", objective=0.2, seconds=5.0, device_seconds=900.0),
    TrialRecord(trial=2, state="failed", seconds=1.0, device_seconds=900.0),
    TrialRecord(trial=None, state="baseline", model="markov", objective=0.3),
    TrialRecord(trial=None, state="baseline", model="most_popular", objective=0.1),
]


def write_study(folder: Path, facts: StudyFacts, trials: list[TrialRecord], trainings: int = 0) -> Path:
    folder.mkdir()
    write_table(build_leaderboard(trials, facts.objective), folder / "leaderboard.parquet", facts)
    write_table(build_epochs([EpochRecord(trial=0, epoch=1)]), folder / "epochs.parquet", facts)
    if trainings:
        rows = [{"finalist_of": 0, "seconds": 2.0, "device_seconds": 1800.0}] * trainings
        write_table(build_finalists(rows), folder / "finalists.parquet", facts)
    return folder


def test_a_row_a_study_with_its_best_trial_and_its_cost(tmp_path: Path) -> None:
    one = write_study(tmp_path / "one", FACTS, TRIALS, trainings=2)
    two = write_study(tmp_path / "two", replace(FACTS, study="two"), [TRIALS[1]])
    frame = compare_studies([one, str(two)])
    assert frame["study"].tolist() == ["one", "two"]
    row = frame.loc[0].to_dict()
    assert (row["best_trial"], row["model"], row["objective"], row["num_parameters"]) == (0, "sasrec", 0.5, 7)
    assert (row["test.mrr"], row["valid.mrr.mean"], row["valid.mrr.low"], row["seeds"]) == (0.25, 0.4, 0.3, 2)
    assert [row[name] for name in ("trials", "complete", "pruned", "failed", "running")] == [3, 1, 1, 1, 0]
    assert row["baseline"] == 0.3
    assert row["seconds"] == 10 + 5 + 1 + 2 * 2
    assert row["device_hours"] == 0.5 + 0.25 + 0.25 + 2 * 0.5
    assert row["metric"] == "valid.mrr" and row["path"] == str(one)
    assert frame["comparable"].tolist() == [True, True]
    assert frame["test.mrr"].isna().tolist() == [False, True] and frame.dtypes["seeds"] == pd.Int64Dtype()


@pytest.mark.parametrize(
    "facts",
    [
        replace(FACTS, fingerprint="4"),
        replace(FACTS, objective="valid.hr@1"),
        replace(FACTS, protocol="temporal"),
    ],
)
def test_studies_of_other_data_protocol_or_objective_are_not_comparable(
    tmp_path: Path, facts: StudyFacts
) -> None:
    one = write_study(tmp_path / "one", FACTS, TRIALS)
    other = write_study(tmp_path / "other", facts, TRIALS)
    assert compare_studies([one, other, one])["comparable"].tolist() == [True, False, True]


def test_a_study_without_a_result_has_a_row(tmp_path: Path) -> None:
    empty = write_study(tmp_path / "empty", FACTS, [TRIALS[2]])
    row = compare_studies([empty]).loc[0]
    assert row["failed"] == 1 and pd.isna(row["model"]) and pd.isna(row["objective"])


def test_at_least_one_study_must_be_named() -> None:
    with pytest.raises(ValueError, match="at least one study"):
        compare_studies([])


def test_tables_are_read_by_folder_by_file_and_by_uri(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "one", FACTS, TRIALS, trainings=2)
    for place in (folder, folder / "leaderboard.parquet", folder.as_uri(), f"{folder.as_uri()}/"):
        pd.testing.assert_frame_equal(load_leaderboard(place), load_leaderboard(str(folder)))
    assert load_epochs(folder)["epoch"].tolist() == [1]
    assert load_finalists(folder.as_uri())["finalist_of"].tolist() == [0, 0]
    by_file = (folder / "leaderboard.parquet").as_uri()
    for place in (str(folder / "leaderboard.parquet"), by_file, f"{by_file}?region=x"):
        assert compare_studies([place])["finalist_trainings"].tolist() == [0]  # only a folder has their table
    assert compare_studies([folder.as_uri()])["finalist_trainings"].tolist() == [2]
    with pytest.raises(FileNotFoundError, match=r"got no file at file:///.*/none/epochs\.parquet"):
        load_epochs((tmp_path / "none").as_uri())
