"""Processes on two nodes map the log: it lies on each node once."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.store_sharing_nodes import measure_on_nodes
from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.preparing.prepare import prepare
from tests.cluster.nodes import why_not

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NUM_USERS, NUM_EACH = 10_000, 100


@pytest.mark.parametrize("num_processes", [4, pytest.param(8, marks=pytest.mark.long)])
def test_the_log_lies_on_each_node_once(tmp_path: Path, num_processes: int) -> None:
    missing = why_not()
    if missing is not None:
        pytest.skip(missing)
    items = np.random.default_rng(0).integers(0, 1000, NUM_USERS * NUM_EACH)
    users, times = np.divmod(np.arange(len(items)), NUM_EACH)
    log = pd.DataFrame({"user_id": users, "item_id": items, "timestamp": times})
    log.to_parquet(tmp_path / "log.parquet")
    prepared = prepare(DataConfig(path=str(tmp_path / "log.parquet")), tmp_path / "cache", print)
    few, many = measure_on_nodes(prepared, 2, [2, num_processes])
    for row in (few, many):
        assert row["nodes"] == 2 and row["objects_a_node"] == [row["objects"]] * 2
        assert row["store_mb_a_node"] == pytest.approx([row["log_mb"]] * 2, rel=0.05)
        assert row["copies_a_node"] == pytest.approx(1, abs=0.1)
    assert many["store_pss_grown_share"] < 0.1
