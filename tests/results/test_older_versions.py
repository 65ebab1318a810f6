"""Tables of a real study of the generated log, written by each version of the schema, are read as ever."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from seqsweep import compare_studies, load_epochs, load_finalists, load_leaderboard
from seqsweep.results.schema import SCHEMA_VERSION

FIXTURES = Path(__file__).parents[1] / "fixtures"
LOADERS = {"leaderboard": load_leaderboard, "epochs": load_epochs, "finalists": load_finalists}


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
@pytest.mark.parametrize(("name", "load"), LOADERS.items())
def test_it_is_read_with_the_dtypes_it_had(
    version: int, name: str, load: Callable[[Path], pd.DataFrame]
) -> None:
    folder = FIXTURES / f"leaderboard-v{version}"
    frame = load(folder)
    assert frame.attrs["schema_version"] == version and frame.attrs["study"] == "demo"
    expected = json.loads((folder / "dtypes.json").read_text(encoding="utf-8"))[name]
    assert {column: str(dtype) for column, dtype in frame.dtypes.items()} == expected
    assert len(frame) == pq.read_metadata(folder / f"{name}.parquet").num_rows > 0


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_what_it_holds_fits_together(version: int) -> None:
    folder = FIXTURES / f"leaderboard-v{version}"
    trials, epochs, trainings = (load(folder) for load in LOADERS.values())
    ranked = trials[trials["rank"].notna()]
    best = epochs.groupby("trial")["objective"].max()
    assert ranked["objective"].tolist() == best.loc[ranked["trial"]].tolist()
    of_best = trainings[
        (trainings["finalist_of"] == trials.loc[0, "trial"]) & (trainings["state"] == "complete")
    ]
    assert trials.loc[0, "valid.ndcg@10.mean"] == pytest.approx(of_best["objective"].mean(), abs=1e-12)
    assert compare_studies([folder, folder])["comparable"].all()


@pytest.mark.parametrize(("name", "load"), LOADERS.items())
def test_a_newer_version_is_refused_with_the_way_out(
    tmp_path: Path, name: str, load: Callable[[Path], pd.DataFrame]
) -> None:
    table = pq.read_table(FIXTURES / f"leaderboard-v{SCHEMA_VERSION}" / f"{name}.parquet")
    newer = {b"schema_version": str(SCHEMA_VERSION + 1).encode()}
    pq.write_table(table.replace_schema_metadata(newer), tmp_path / f"{name}.parquet")
    with pytest.raises(ValueError, match=r"newer seqsweep: upgrade, or read it with pandas\.read_parquet"):
        load(tmp_path)
