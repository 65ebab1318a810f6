import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.errors import DataError
from seqsweep.data_pipeline.preparing.prepare import prepare
from seqsweep.data_pipeline.schema import SEQUENCES, SEQUENCES_WITHOUT_TIME, Manifest
from seqsweep.data_pipeline.store import SequenceLog, open_log, read_item_ids, read_user_ids


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Users x (b c a), y (a b), z (c a a): 3 items, ties at z, shards of one user each."""
    path = tmp_path / "log.csv"
    path.write_text("user,item,time\nx,b,5\ny,a,1\nx,c,6\nz,c,1\nz,a,2\ny,b,3\nz,a,2\nx,a,9\n")
    return prepare(DataConfig(path=str(path), shard_bytes=1), tmp_path / "cache")


def test_sequences_and_ids(folder: Path) -> None:
    log = open_log(folder)
    assert (log.num_users, log.num_items, log.has_timestamps) == (3, 3, True)
    assert [chunk.tolist() for chunk in log.item_chunks()] == [[1, 3, 2], [2, 1], [3, 2, 2]]
    assert [chunk.tolist() for chunk in log.timestamp_chunks()] == [[5, 6, 9], [1, 3], [1, 2, 2]]
    assert log.offset_U.tolist() == [0, 3, 5, 8]
    assert log.offset_U.dtype == np.int64
    assert read_item_ids(folder).to_pydict() == {
        "item_id": [1, 2, 3],
        "raw_item_id": ["b", "a", "c"],
        "count": [2, 4, 2],
    }
    assert read_user_ids(folder).to_pydict() == {
        "user_id": [0, 1, 2],
        "raw_user_id": ["x", "y", "z"],
        "count": [3, 2, 3],
    }


def test_manifest_facts(folder: Path) -> None:
    manifest = open_log(folder).manifest
    assert (manifest.num_users, manifest.num_items, manifest.num_interactions) == (3, 3, 8)
    assert (manifest.time_unit, manifest.time_range) == ("s", (1, 9))
    assert (manifest.tie_share, manifest.tie_order) == (1 / 5, "rows")
    assert manifest.test_targets_tied == 1 / 2
    assert manifest.repeat_share == 1 / 8
    assert [(shard.first_user, shard.num_users, shard.num_interactions) for shard in manifest.shards] == [
        (0, 1, 3),
        (1, 1, 2),
        (2, 1, 3),
    ]
    assert (manifest.name, manifest.origin, manifest.ceilings) == ("log", "log.csv", None)
    assert Manifest(**json.loads(manifest.model_dump_json())) == manifest


def test_shards_are_mapped_and_not_copied(folder: Path) -> None:
    before = pa.total_allocated_bytes()
    log = open_log(folder)
    chunks = log.item_chunks()
    assert pa.total_allocated_bytes() == before
    assert all(not chunk.flags.owndata and not chunk.flags.writeable for chunk in chunks)
    assert log.shards[0].schema == SEQUENCES
    assert [chunk.dtype for chunk in chunks] == [np.int32] * 3


def test_log_is_rebuilt_from_plain_parts(folder: Path) -> None:
    log = open_log(folder)
    tables = []
    for shard in log.shards:  # as another process would receive them
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, shard.schema) as writer:
            writer.write_table(shard)
        tables.append(pa.ipc.open_stream(sink.getvalue()).read_all())
    again = SequenceLog(manifest=Manifest(**log.manifest.model_dump()), shards=tuple(tables))
    assert again.offset_U.tolist() == log.offset_U.tolist()
    assert np.concatenate(again.item_chunks()).tolist() == np.concatenate(log.item_chunks()).tolist()


def test_log_without_time(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_text("1 5\n1 6\n1 7\n")
    log = open_log(prepare(DataConfig(path=str(path)), tmp_path / "cache"))
    assert log.shards[0].schema == SEQUENCES_WITHOUT_TIME
    assert log.timestamp_chunks() == []
    assert (log.manifest.time_unit, log.manifest.time_range, log.manifest.tie_order) == (None, None, None)


@pytest.mark.parametrize("name", ["sequences-00001.arrow", "item_ids.parquet"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damaged_file_is_named(folder: Path, name: str, damage: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "remove":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content if damage == "flip" else content[:-1])
    with pytest.raises(DataError, match=rf"{name}: checksum or size differs .* prepare the log again"):
        open_log(folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no readable manifest"),
        ("{", "no readable manifest"),
        ('{"schema_version": 1}', "must be 2, got 1"),
        ('{"schema_version": 99}', "written by a newer seqsweep .schema_version 99, this one reads 2"),
    ],
)
def test_manifest_missing_or_foreign(folder: Path, content: str | None, words: str) -> None:
    (folder / "manifest.json").unlink()
    if content is not None:
        (folder / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=words):
        open_log(folder)
