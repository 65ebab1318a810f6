"""Every file of the folder is what `prepare` writes: that is the whole contract."""

import logging
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
import ray
from ray.data import Dataset
from ray.exceptions import OutOfMemoryError

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.errors import DataError
from seqsweep.data_pipeline.on_ray import files, rows
from seqsweep.data_pipeline.on_ray.files import check_seen
from seqsweep.data_pipeline.on_ray.prepare import prepare_distributed
from seqsweep.data_pipeline.on_ray.shards import Written, check_arrived, write_shards
from seqsweep.data_pipeline.preparing.filters import FILTERS
from seqsweep.data_pipeline.preparing.prepare import prepare
from seqsweep.data_pipeline.schema import Manifest, Shard
from seqsweep.data_pipeline.store import MANIFEST, read_manifest

ROOT = Path(__file__).parents[3]
ON_RAY = "seqsweep.data_pipeline.on_ray.prepare"
Same = Callable[[DataConfig], Manifest]
WriteParts = Callable[..., str]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """A Ray of this module's own, unless the session has one already."""
    if ray.is_initialized():
        yield
        return
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: Ray's socket paths have a limit
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        _temp_dir=folder,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def parts(tmp_path: Path) -> WriteParts:
    """Write tables as the files of one folder."""

    def write(*tables: pa.Table, form: str = "parquet") -> str:
        folder = tmp_path / "log"
        folder.mkdir()
        for number, table in enumerate(tables):
            path = folder / f"part-{number}.{form}"
            if form == "parquet":
                pq.write_table(table, path)
            else:
                csv.write_csv(table, path)
        return str(folder)

    return write


@pytest.fixture
def same(tmp_path: Path) -> Same:
    """Prepare both ways and compare every byte."""

    def compare(config: DataConfig) -> Manifest:
        told: list[list[str]] = [[], []]
        alone = prepare(config, tmp_path / "alone", told[0].append)
        together = prepare_distributed(config, tmp_path / "together", told[1].append)
        assert together.name == alone.name
        assert read_manifest(together) == read_manifest(alone)
        assert contents(together) == contents(alone)
        assert told[0] == told[1]
        assert [path.name for path in together.parent.iterdir() if path.name[0] == "."] == []
        return read_manifest(together)

    return compare


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != MANIFEST}


def log_table(seed: int, num_rows: int = 400, *, num_users: int = 40, num_times: int = 10**6) -> pa.Table:
    """user, item, rating and timestamp at random: 9 of 10 rows are of half of the users and items."""
    generator = np.random.default_rng(seed)
    user, item = (generator.integers(0, size, num_rows) for size in (num_users, 30))
    often = generator.random(num_rows) < 0.9
    return pa.table(
        {
            "user": pa.array(1000 - np.where(often, user // 2, user)),
            "item": pa.array(np.where(often, item // 2, item) * 7),
            "rating": pa.array(generator.integers(1, 6, num_rows).astype(np.float64)),
            "timestamp": pa.array(generator.integers(0, num_times, num_rows)),
        }
    )


def with_text_ids(table: pa.Table) -> pa.Table:
    for at, name in enumerate(("user", "item")):
        text = pc.utf8_lpad(table[name].cast(pa.string()), 6, name[0])
        table = table.set_column(at, name, text)
    return table


FILTERED = {
    "min_rating": 2,
    "start_time": 50_000,
    "end_time": 950_000,
    "drop_duplicates": True,
    "min_user_interactions": 12,
    "min_item_interactions": 20,
    "max_users": 15,
    "seed": 3,
}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"shard_bytes": 700},
        {"min_user_interactions": 14, "min_item_interactions": 24},
        {"min_user_interactions": 14, "min_item_interactions": 24, "k_core": "single"},
        {"min_rating": 3, "start_time": 100_000, "end_time": 900_000},
        {"max_users": 7, "seed": 5},
        FILTERED,
    ],
    ids=lambda settings: ",".join(settings) or "nothing set",
)
def test_parquet_parts(parts: WriteParts, same: Same, settings: dict[str, Any]) -> None:
    path = parts(*(log_table(seed) for seed in range(3)))
    manifest = same(DataConfig.model_validate({"path": path, **settings}))
    assert manifest.counts[0].num_rows == 1200
    assert len(manifest.shards) > 20 or "shard_bytes" not in settings


@pytest.mark.parametrize("text", [False, True], ids=["integer ids", "text ids"])
def test_csv_parts(parts: WriteParts, same: Same, text: bool) -> None:
    tables = [log_table(seed) for seed in range(3)]
    path = parts(*(with_text_ids(table) if text else table for table in tables), form="csv")
    same(DataConfig.model_validate({"path": path, **FILTERED}))


def test_one_csv_file(write: Callable[[str, str], Path], same: Same) -> None:
    rows = "".join(f"{user},i{item % 5},{item}\n" for item in range(9) for user in ("b", "a", "c"))
    manifest = same(DataConfig(path=str(write("log.csv", "user,item,time\n" + rows))))
    assert (manifest.num_users, manifest.num_items, manifest.num_interactions) == (3, 5, 27)


def test_text_ids_and_ids_that_are_text_in_one_file_only(parts: WriteParts, same: Same) -> None:
    table = log_table(0)
    text = [table.set_column(0, "user", table["user"].cast(pa.string())) for table in (table, log_table(1))]
    odd = with_text_ids(log_table(2)).set_column(1, "item", log_table(2)["item"])
    manifest = same(DataConfig(path=parts(*text, odd)))
    assert manifest.num_users > 40  # "1000" and "uu1000" are two


def test_integers_of_two_kinds(parts: WriteParts, same: Same) -> None:
    table = log_table(0)
    unsigned = table.set_column(0, "user", table["user"].cast(pa.uint64()))
    same(DataConfig(path=parts(table, unsigned)))


def test_duplicates_in_several_files_keep_the_first(parts: WriteParts, same: Same) -> None:
    tables = [log_table(seed, num_times=40) for seed in (0, 1, 0)]
    manifest = same(DataConfig(path=parts(*tables), drop_duplicates=True))
    assert [counts.step for counts in manifest.counts] == ["read", "drop_duplicates"]
    assert manifest.counts[1].num_rows <= 800


def test_a_log_stored_by_item_is_ordered_by_hash(parts: WriteParts, same: Same) -> None:
    table = log_table(0, 1200, num_times=5).sort_by([("user", "ascending"), ("item", "ascending")])
    tables = [table.slice(first, 400) for first in (0, 400, 800)]
    assert same(DataConfig(path=parts(*tables), shard_bytes=3000, seed=4)).tie_order == "hash"


def test_ties_stay_in_row_order_across_files(parts: WriteParts, same: Same) -> None:
    manifest = same(DataConfig(path=parts(*(log_table(seed, num_times=3) for seed in range(3)))))
    assert manifest.tie_order == "rows"
    assert manifest.neighbours.num_tied > 300


def test_without_timestamps(parts: WriteParts, same: Same) -> None:
    path = parts(*(log_table(seed).select(["user", "item"]) for seed in range(3)))
    assert not same(DataConfig(path=path, drop_duplicates=True, shard_bytes=500)).has_timestamps


def test_files_without_rows(parts: WriteParts, same: Same, tmp_path: Path) -> None:
    table = log_table(0)
    assert same(DataConfig(path=parts(table.slice(0, 0), table, table.slice(0, 0)))).num_interactions == 400
    pq.write_table(table.slice(0, 0), tmp_path / "log" / "part-1.parquet")
    config = DataConfig(path=str(tmp_path / "log"))
    with pytest.raises(DataError, match="the file is empty") as caught:
        prepare(config, tmp_path / "alone")
    with pytest.raises(DataError) as same_caught:
        prepare_distributed(config, tmp_path / "together", print)
    assert str(same_caught.value) == str(caught.value)


@pytest.mark.parametrize("seed", range(4))
def test_random_logs(
    parts: WriteParts, same: Same, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seed: int
) -> None:
    """Small blocks and few ids: what lies in several blocks, and blocks of which a filter leaves nothing."""
    generator = np.random.default_rng(seed)
    monkeypatch.setattr(files, "PENDING_IDS", 3)
    monkeypatch.setattr(files, "BLOCK_ROWS", 8)
    monkeypatch.setattr(f"{ON_RAY}.GROUP_ROWS", 20)
    sizes = generator.integers(1, 60, 5)
    tables = [
        log_table(100 * seed + number, int(size), num_users=12, num_times=20)
        for number, size in enumerate(sizes)
    ]
    config = DataConfig(
        path=parts(*tables),
        min_rating=int(generator.integers(1, 4)),
        drop_duplicates=bool(generator.integers(2)),
        min_user_interactions=int(generator.integers(1, 6)),
        min_item_interactions=int(generator.integers(1, 4)),
        shard_bytes=int(generator.integers(1, 1000)),
    )
    try:
        prepare(config, tmp_path / "tried")
    except DataError as error:
        assert raised(config, tmp_path / "together") == str(error)
        return
    same(config)


def test_more_blocks_than_are_sorted(parts: WriteParts, same: Same, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "SORTED_BLOCKS", 0)
    path = parts(*(log_table(seed) for seed in range(3)))
    assert len(same(DataConfig(path=path, shard_bytes=3000)).shards) > 3


def raised(config: DataConfig, cache: Path) -> str:
    """The message of the DataError; nothing but the lock may be left."""
    with pytest.raises(DataError) as caught:
        prepare_distributed(config, cache, print)
    left = [path.name for path in cache.iterdir()] if cache.exists() else []
    assert all(name.endswith(".lock") for name in left)
    return str(caught.value)


def test_a_bad_row_in_the_third_file_and_a_worse_one_in_the_fourth(parts: WriteParts, tmp_path: Path) -> None:
    tables = [log_table(seed) for seed in range(4)]
    for number, row in ((2, 7), (3, 0)):
        user = tables[number]["user"].to_pylist()
        tables[number] = tables[number].set_column(0, "user", pa.array([*user[:row], None, *user[row + 1 :]]))
    config = DataConfig(path=parts(*tables))
    with pytest.raises(DataError, match=r"part-2\.parquet, row 8: empty user id") as caught:
        prepare(config, tmp_path / "alone")
    assert raised(config, tmp_path / "together") == str(caught.value)


def test_a_bad_line_in_a_csv_part(parts: WriteParts, tmp_path: Path) -> None:
    path = parts(*(log_table(seed) for seed in range(4)), form="csv")
    for name, line in (("part-2.csv", 9), ("part-3.csv", 2)):
        part = Path(path) / name
        lines = part.read_text().splitlines()
        lines[line - 1] = "1,2,3,-4"
        part.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"part-2\.csv, line 9: .*negative") as caught:
        prepare(DataConfig(path=path), tmp_path / "alone")
    assert raised(DataConfig(path=path), tmp_path / "together") == str(caught.value)


def test_errors_are_those_of_one_machine(
    parts: WriteParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parts(*(log_table(seed) for seed in range(2)))
    for settings in ({"min_rating": 9}, {"end_time": 0}, {"columns": {"user": "who"}}, {"format": "csv"}):
        config = DataConfig.model_validate({"path": "log", **settings})
        with pytest.raises(DataError) as caught:
            prepare(config, tmp_path / "alone")
        assert raised(config, tmp_path / "together") == str(caught.value)


def test_units_of_time_must_be_one(parts: WriteParts, tmp_path: Path) -> None:
    table = log_table(0)
    milliseconds = pa.array(np.arange(400) + 10**12)
    other = table.set_column(3, "timestamp", milliseconds)
    config = DataConfig(path=parts(table, other))
    assert "part-0.parquet has s and part-1.parquet has ms" in raised(config, tmp_path / "cache")
    pq.write_table(table.select(["user", "item"]), tmp_path / "log" / "part-1.parquet")
    assert "has s and part-1.parquet has no timestamps" in raised(config, tmp_path / "cache")


def test_stopped_in_the_middle_leaves_nothing(
    parts: WriteParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    config, cache = DataConfig(path=parts(log_table(0))), tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(f"{ON_RAY}.describe", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare_distributed(config, cache, print)
    assert [path.suffix for path in cache.iterdir()] == [".lock"]
    name = next(cache.iterdir()).stem
    (cache / f".staging-{name}" / "attempt-1").mkdir(parents=True)  # as a process leaves it that was killed
    assert contents(prepare_distributed(config, cache, print)).keys() == {
        "sequences-00000.arrow",
        "item_ids.parquet",
        "user_ids.parquet",
    }
    assert {path.name for path in cache.iterdir()} == {name, f"{name}.lock"}


def test_a_second_run_and_one_alone_find_the_folder(
    parts: WriteParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig(path=parts(log_table(0)))
    folder = prepare_distributed(config, tmp_path / "cache", print)
    monkeypatch.setattr(f"{ON_RAY}.read_files", None)
    assert prepare_distributed(config, tmp_path / "cache", print) == folder
    assert prepare_distributed(DataConfig(path=str(folder)), tmp_path / "cache", print) == folder
    monkeypatch.setattr("seqsweep.data_pipeline.preparing.prepare.read_interactions", None)
    assert prepare(config, tmp_path / "cache") == folder


def test_the_generated_log_is_left_to_one_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{ON_RAY}.prepare", lambda config, cache, notify: cache / config.path)
    assert prepare_distributed(DataConfig(), tmp_path, print) == tmp_path / "demo"


def test_a_cluster_that_fails_is_told_in_one_message(
    parts: WriteParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OutOfMemoryError("Task was killed\nmore of it")  # type: ignore[no-untyped-call]

    monkeypatch.setattr(f"{ON_RAY}.read_files", fail)
    message = raised(DataConfig(path=parts(log_table(0))), tmp_path / "cache")
    assert "the cluster failed while preparing it (Task was killed); give it more memory" in message


def test_every_filter_is_carried_out() -> None:
    """Whoever adds one must add it to prepare._passing, and here."""
    assert list(FILTERS) == ["min_rating", "time_range", "drop_duplicates", "k_core", "max_users"]


def test_a_worker_that_does_not_see_the_cache(
    parts: WriteParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_elsewhere(rows: Dataset, folder: Path, *rest: Any) -> list[Written]:
        return write_shards(rows, folder / "unseen" / folder.name, *rest)

    monkeypatch.setattr(f"{ON_RAY}.write_shards", write_elsewhere)
    message = raised(DataConfig(path=parts(log_table(0))), tmp_path / "cache")
    assert "the cache must be a folder that all nodes share" in message


def test_folders_that_nodes_do_not_share(tmp_path: Path) -> None:
    shard = Shard(
        name="sequences-00000.arrow", size=8, sha256="", first_user=0, num_users=1, num_interactions=3
    )
    with pytest.raises(DataError, match="the cache must be a folder that all nodes share"):
        check_arrived(tmp_path, [shard])
    (tmp_path / shard.name).write_bytes(b"8 bytes.")
    (tmp_path / "attempt-1").mkdir()
    check_arrived(tmp_path, [shard])
    assert [path.name for path in tmp_path.iterdir()] == [shard.name]
    with pytest.raises(DataError, match="not seen by every node"):
        check_seen(tmp_path / "log.csv")


LOSE_A_NODE = """
import logging, sys
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from seqsweep.data_pipeline.on_ray import prepare
from seqsweep.data_pipeline.config import DataConfig

quick = {"health_check_failure_threshold": 2, "health_check_period_ms": 500}
cluster = Cluster(True, head_node_args={"num_cpus": 1, "include_dashboard": False, "_system_config": quick})
node = cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
filtered = prepare._filtered

def lose_the_node(*arguments):
    cluster.remove_node(node, allow_graceful=False)
    return filtered(*arguments)

prepare._filtered = lose_the_node
config = DataConfig(path=sys.argv[1], shard_bytes=100_000)
print("in", prepare.prepare_distributed(config, Path(sys.argv[2]), print))
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.faults
def test_a_node_that_is_lost_takes_no_rows_with_it(parts: WriteParts, tmp_path: Path) -> None:
    """Its files are read again. They are too large for rows to be kept by the calling process."""
    path = parts(*(log_table(seed, 20_000, num_users=2000) for seed in range(8)))
    alone = prepare(DataConfig(path=path, shard_bytes=100_000), tmp_path / "alone")
    subprocess.run(
        [sys.executable, "-c", LOSE_A_NODE, path, str(tmp_path / "together")],
        cwd=ROOT,
        check=True,
        timeout=120,
    )
    together = tmp_path / "together" / alone.name
    assert read_manifest(together) == read_manifest(alone)
    assert contents(together) == contents(alone)
