"""Counts of public logs, where they are at hand: they may not be part of the project."""

import os
from pathlib import Path

import pandas as pd
import pytest

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.preparing.prepare import prepare, prepare_table
from seqsweep.data_pipeline.split import count_cold_targets, leave_one_out
from seqsweep.data_pipeline.store import SequenceLog, open_log

ROOT = Path(__file__).parents[3]
DATA = ROOT / os.environ.get("SEQSWEEP_DATA", "../shared/data")


def prepared(name: str, cache: Path) -> SequenceLog:
    if not (DATA / name).exists():
        pytest.skip(f"{name} is not in SEQSWEEP_DATA ({DATA}): it may be used but not shipped")
    return open_log(prepare(DataConfig(path=str(DATA / name)), cache))


@pytest.mark.parametrize(
    ("name", "interactions", "users", "items", "has_timestamps"),
    [
        ("ml-100k/u.data", 100_000, 943, 1_682, True),
        ("ml-1m/ml-1m.txt.gz", 999_611, 6_040, 3_416, False),
        ("ml-1m/ml-1m-positive.txt.gz", 575_281, 6_038, 3_533, True),
        ("games/Video.txt", 287_107, 31_013, 23_715, False),
        ("beauty/beauty.txt", 198_502, 22_363, 12_101, True),
    ],
)
def test_counts(
    tmp_path: Path, name: str, interactions: int, users: int, items: int, has_timestamps: bool
) -> None:
    log = prepared(name, tmp_path)
    assert log.manifest.num_interactions == interactions
    assert (log.num_users, log.num_items, log.has_timestamps) == (users, items, has_timestamps)
    assert log.offset_U[-1] == sum(map(len, log.item_chunks())) == interactions


@pytest.mark.parametrize("name", ["ml-100k/u.data", "beauty/beauty.txt"])
def test_test_targets_that_tie(tmp_path: Path, name: str) -> None:
    manifest = prepared(name, tmp_path).manifest
    assert manifest.test_targets_tied == pytest.approx(0.44, abs=0.01)
    assert manifest.tie_order == "rows"


def test_games(tmp_path: Path) -> None:
    log = prepared("games/Video.txt", tmp_path)
    split = leave_one_out(log.offset_U)
    assert split.counts["num_eval_users"] == 30_901
    assert leave_one_out(log.offset_U, min_eval_interactions=4).counts["num_eval_users"] == 30_629
    cold = count_cold_targets(log, split)["num_cold_test_targets"]
    assert cold / split.counts["num_eval_users"] == pytest.approx(0.038, abs=0.001)


def test_one_content_in_every_form(tmp_path: Path) -> None:
    whole = prepared("ml-100k/u.data", tmp_path / "cache")
    names = ["user_id", "item_id", "rating", "timestamp"]
    rows = pd.read_csv(DATA / "ml-100k/u.data", sep="\t", names=names)
    rows.to_parquet(tmp_path / "log.parquet", index=False)
    reviews = dict(zip(names, ["reviewerID", "asin", "overall", "unixReviewTime"], strict=True))
    rows.rename(columns=reviews).to_json(tmp_path / "log.jsonl.gz", orient="records", lines=True)
    typed = ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]
    rows.to_csv(tmp_path / "log.inter", sep="\t", index=False, header=typed)
    rows.sample(frac=1, random_state=0).to_csv(tmp_path / "scattered.csv", index=False)
    (tmp_path / "parts").mkdir()
    for part in range(3):
        rows[part * 40_000 : (part + 1) * 40_000].to_csv(tmp_path / "parts" / f"{part}.csv", index=False)
    forms = ["log.parquet", "log.jsonl.gz", "log.inter", "parts"]
    folders = [prepare(DataConfig(path=str(tmp_path / form)), tmp_path / "cache") for form in forms]
    folders.append(prepare_table(rows, DataConfig(path="in memory"), tmp_path / "cache"))
    contents = {open_log(folder).manifest.content for folder in folders}
    assert contents == {whole.manifest.content}
    scattered = prepare(DataConfig(path=str(tmp_path / "scattered.csv")), tmp_path / "cache")
    assert open_log(scattered).manifest.content not in contents  # ids go by first appearance
