import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.errors import DataError
from seqsweep.data_pipeline.formats.sources import read_interactions
from seqsweep.data_pipeline.preparing.prepare import fingerprint_of, prepare
from seqsweep.data_pipeline.store import open_log, read_item_ids, read_user_ids

Write = Callable[[str, str | bytes], Path]
ROOT = Path(__file__).parents[3]
LOG = "".join(f"{user} {item} {item // 2}\n" for user in range(20) for item in range(user + 3))


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@given(
    st.lists(
        st.tuples(st.sampled_from(["u", "v", "w"]), st.integers(0, 9), st.integers(0, 9)),
        min_size=1,
        max_size=40,
    )
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_sequences_are_the_log_grouped_and_sorted(tmp_path: Path, rows: list[tuple[str, int, int]]) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user,item,time\n" + "".join(f"{user},{item},{time}\n" for user, item, time in rows))
    users = list(dict.fromkeys(user for user, _, _ in rows))
    items = list(dict.fromkeys(item for _, item, _ in rows))
    if max(sum(row[0] == user for row in rows) for user in users) < 3:
        with pytest.raises(DataError, match="fewer than 3 interactions for every user"):
            prepare(DataConfig(path=str(path)), tmp_path / "cache")
        return
    folder = prepare(DataConfig(path=str(path), shard_bytes=40), tmp_path / "cache")
    log = open_log(folder)
    assert read_user_ids(folder)["raw_user_id"].to_pylist() == users
    assert read_item_ids(folder)["raw_item_id"].to_pylist() == items
    item, time = np.concatenate(log.item_chunks()), np.concatenate(log.timestamp_chunks())
    for number, user in enumerate(users):
        here = slice(log.offset_U[number], log.offset_U[number + 1])
        expected = sorted(((t, i) for u, i, t in rows if u == user), key=lambda pair: pair[0])
        got = [(int(t), items[i - 1]) for t, i in zip(time[here], item[here], strict=True)]
        if log.manifest.tie_order == "rows":
            assert got == expected
        assert sorted(got) == sorted(expected)


def test_second_run_returns_at_once(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DataConfig(path=str(write("log.txt", LOG)))
    folder = prepare(config, tmp_path / "cache")
    monkeypatch.setattr("seqsweep.data_pipeline.preparing.prepare.read_interactions", None)
    assert prepare(config, tmp_path / "cache") == folder


def test_same_bytes_elsewhere_give_the_same_folder_and_shards(write: Write, tmp_path: Path) -> None:
    first = prepare(DataConfig(path=str(write("log.txt", LOG))), tmp_path / "cache")
    (tmp_path / "other").mkdir()
    second = prepare(DataConfig(path=str(write("other/log.txt", LOG))), tmp_path / "other" / "cache")
    assert first.name == second.name
    assert digests(first) == digests(second)


@pytest.mark.parametrize(
    "settings",
    [
        {"min_user_interactions": 4},
        {"min_item_interactions": 2},
        {"k_core": "single"},
        {"drop_duplicates": True},
        {"start_time": 1},
        {"end_time": 5},
        {"seed": 1},
        {"shard_bytes": 100},
        {"columns": {"user": "1", "item": "0"}},
        {"columns": {"user": "0", "item": "1"}},
    ],
)
def test_every_setting_changes_the_fingerprint(
    write: Write, tmp_path: Path, settings: dict[str, object]
) -> None:
    path = str(write("log.txt", LOG))
    plain = prepare(DataConfig(path=path), tmp_path / "cache")
    changed = prepare(DataConfig.model_validate({"path": path, **settings}), tmp_path / "cache")
    assert plain.name != changed.name


def test_content_changes_the_fingerprint(write: Write, tmp_path: Path) -> None:
    first = prepare(DataConfig(path=str(write("log.txt", LOG))), tmp_path / "cache")
    second = prepare(DataConfig(path=str(write("log.txt", LOG + "1 1 1\n"))), tmp_path / "cache")
    assert first.name != second.name


def test_what_auto_stands_for_is_the_same_preparation(write: Write, tmp_path: Path) -> None:
    path = str(write("log.txt", LOG))
    assert prepare(DataConfig(path=path), tmp_path) == prepare(
        DataConfig(path=path, format="plain"), tmp_path
    )


def test_filters_are_counted_and_told(tmp_path: Path, write: Write) -> None:
    path = write(
        "u.data", "".join(f"{user}\t{item}\t{item}\t{item}\n" for user in (1, 2) for item in (1, 2, 3, 4, 5))
    )
    told: list[str] = []
    config = DataConfig(path=str(path), min_rating=2, end_time=5, min_user_interactions=2)
    manifest = open_log(prepare(config, tmp_path / "cache", told.append)).manifest
    assert [(count.step, count.num_rows, count.num_users, count.num_items) for count in manifest.counts] == [
        ("read", 10, 2, 5),
        ("min_rating", 8, 2, 4),
        ("time_range", 6, 2, 3),
        ("k_core", 6, 2, 3),
    ]
    assert "min_rating left 8 of 10 interactions, 2 users and 4 items" in told


def test_ties_are_told(tmp_path: Path, write: Write) -> None:
    told: list[str] = []
    prepare(DataConfig(path=str(write("log.txt", LOG))), tmp_path / "cache", told.append)
    assert any("stored by item id" in message and "seeded hash" in message for message in told)
    assert any("warning: " in message and "of the test targets tie" in message for message in told)


@pytest.mark.parametrize("name", ["sequences-00000.arrow", "user_ids.parquet", "manifest.json"])
def test_damaged_cache_is_named_and_rebuilt(write: Write, tmp_path: Path, name: str) -> None:
    config = DataConfig(path=str(write("log.txt", LOG)))
    folder = prepare(config, tmp_path / "cache")
    before = digests(folder)
    (folder / name).write_bytes(b"damaged")
    told: list[str] = []
    assert prepare(config, tmp_path / "cache", told.append) == folder
    assert any(name in message and "prepared again" in message for message in told)
    assert digests(folder) == before
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [
        folder.name,
        f"{folder.name}.lock",
    ]


def test_input_that_changes_while_it_is_read(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error_of: Callable[[DataConfig], str]
) -> None:
    path = write("log.txt", LOG)

    def append_and_read(config: DataConfig) -> object:
        with path.open("a") as stream:
            stream.write("1 1 1\n")
        return read_interactions(config)

    monkeypatch.setattr("seqsweep.data_pipeline.preparing.prepare.read_interactions", append_and_read)
    assert "the input changed while it was read" in error_of(DataConfig(path=str(path)))


def test_sample_of_users_is_drawn_last(write: Write, tmp_path: Path) -> None:
    path = write("log.txt", LOG)
    config = DataConfig(path=str(path), max_users=5, min_item_interactions=2)
    log = open_log(prepare(config, tmp_path / "cache"))
    whole = open_log(prepare(config.model_copy(update={"max_users": None}), tmp_path / "cache"))
    assert [count.step for count in log.manifest.counts] == ["read", "k_core", "max_users"]
    assert (log.num_users, whole.num_users) == (5, 20)
    sample = read_user_ids(tmp_path / "cache" / log.manifest.fingerprint).to_pydict()
    everybody = read_user_ids(tmp_path / "cache" / whole.manifest.fingerprint).to_pydict()
    length = dict(zip(everybody["raw_user_id"], everybody["count"], strict=True))
    # whole sequences, nobody twice
    assert sample["count"] == [length[user] for user in dict.fromkeys(sample["raw_user_id"])]
    other = open_log(prepare(config.model_copy(update={"seed": 1}), tmp_path / "cache"))
    others = read_user_ids(tmp_path / "cache" / other.manifest.fingerprint).to_pydict()
    assert others["raw_user_id"] != sample["raw_user_id"]


def test_a_prepared_folder_is_a_log_too(write: Write, tmp_path: Path) -> None:
    folder = prepare(DataConfig(path=str(write("log.txt", LOG))), tmp_path / "cache")
    config = DataConfig(path=str(folder))
    assert prepare(config, tmp_path / "elsewhere") == folder
    assert fingerprint_of(config) == folder.name
    with pytest.raises(DataError, match=r"settings of its own; got max_users=3: leave them out"):
        prepare(config.model_copy(update={"max_users": 3}), tmp_path / "elsewhere")
    (folder / "item_ids.parquet").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"item_ids.parquet: checksum or size differs"):
        prepare(config, tmp_path / "elsewhere")


def test_a_cache_that_was_moved(write: Write, tmp_path: Path) -> None:
    path, cache = write("log.txt", LOG), tmp_path / "cache"
    folder = prepare(DataConfig(path=str(path)), cache)
    (tmp_path / "moved").mkdir()
    cache.rename(tmp_path / "moved" / "cache")
    path.rename(tmp_path / "moved" / "log.txt")
    told: list[str] = []
    moved = DataConfig(path=str(tmp_path / "moved" / "log.txt"))
    assert prepare(moved, tmp_path / "moved" / "cache", told.append).name == folder.name
    assert told == []  # found, not prepared again
    assert open_log(tmp_path / "moved" / "cache" / folder.name).num_users == 20


def test_a_folder_of_a_newer_version_stays(write: Write, tmp_path: Path) -> None:
    config = DataConfig(path=str(write("log.txt", LOG)))
    folder = prepare(config, tmp_path / "cache")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 99}))
    before = digests(folder)
    with pytest.raises(DataError, match=r"written by a newer seqsweep .* update seqsweep"):
        prepare(config, tmp_path / "cache")
    assert digests(folder) == before


@pytest.mark.parametrize(
    "name", ["../outside.arrow", "/etc/passwd", "a/b.arrow", "sequences.arrow\n", ".arrow"]
)
def test_a_manifest_names_no_file_outside_its_folder(write: Write, tmp_path: Path, name: str) -> None:
    config = DataConfig(path=str(write("log.txt", LOG)))
    folder = prepare(config, tmp_path / "cache")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["shards"][0]["name"] = name
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"not a manifest: .*name"):
        open_log(folder)
    assert open_log(prepare(config, tmp_path / "cache")).num_users == 20  # prepared again


@pytest.mark.parametrize("name", ["a b.txt", "..txt.txt", "[x].txt", "-x.txt", "\n.txt", "a\x1b[31m.txt"])
def test_any_file_name_goes(write: Write, tmp_path: Path, name: str) -> None:
    folder = prepare(DataConfig(path=str(write(name, LOG)), format="plain"), tmp_path / "cache")
    assert folder.parent == tmp_path / "cache"
    assert open_log(folder).manifest.origin == name


def test_a_full_disk_leaves_nothing(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("seqsweep.data_pipeline.preparing.build.write_ids", full)
    with pytest.raises(OSError, match="No space left"):
        prepare(DataConfig(path=str(write("log.txt", LOG))), tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


SLOW_PREPARE = """
import sys, time
from pathlib import Path
from seqsweep.data_pipeline.preparing import build
from seqsweep.data_pipeline.preparing.prepare import DataConfig, prepare
write = build.write_ids
def slow(*arguments):
    print("writing", flush=True)
    time.sleep(float(sys.argv[3]))
    return write(*arguments)
build.write_ids = slow
print(prepare(DataConfig(path=sys.argv[1]), Path(sys.argv[2]), print), flush=True)
"""


def start(path: Path, cache: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLOW_PREPARE, str(path), str(cache), str(seconds)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def read_line(process: subprocess.Popen[str], expected: str) -> None:
    assert process.stdout is not None
    while (line := process.stdout.readline()) and expected not in line:
        pass
    assert expected in line


def test_killed_in_the_middle_is_recovered(write: Write, tmp_path: Path) -> None:
    path, cache = write("log.txt", LOG), tmp_path / "cache"
    with start(path, cache, seconds=60) as process:
        read_line(process, "writing")
        process.send_signal(signal.SIGKILL)
    staged = [folder for folder in cache.iterdir() if folder.name.startswith(".staging-")]
    assert len(staged) == 1
    assert list(staged[0].iterdir())
    folder = prepare(DataConfig(path=str(path)), cache)
    assert open_log(folder).num_users == 20
    assert sorted(path.name for path in cache.iterdir()) == [folder.name, f"{folder.name}.lock"]


KILLED = """
import sys
from pathlib import Path
from seqsweep.data_pipeline.preparing.prepare import DataConfig, prepare
print("begins", flush=True)
while True:
    prepare(DataConfig(path=sys.argv[1], shard_bytes=20_000), Path(sys.argv[2]))
    if sys.argv[3] == "once":
        break
    for path in Path(sys.argv[2]).iterdir():  # so that it is at work whenever it is killed
        if path.is_dir() and not path.name.startswith("."):
            path.rename(path.with_name(f".done-{path.name}"))
            __import__("shutil").rmtree(path.with_name(f".done-{path.name}"))
"""
NUM_KILLS = int(os.environ.get("SEQSWEEP_KILLS", "6"))


def test_killed_at_any_moment(write: Write, tmp_path: Path) -> None:
    """Whatever a kill leaves, a folder that has its place is whole, and the next preparation succeeds."""
    generator = np.random.default_rng(0)
    rows = np.column_stack([generator.integers(0, 900, 30_000), generator.integers(0, 99, 30_000)])
    path, cache = write("log.txt", "".join(f"{user} {item}\n" for user, item in rows)), tmp_path / "cache"
    for _ in range(NUM_KILLS):
        command = [sys.executable, "-c", KILLED, str(path), str(cache), "again"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            read_line(process, "begins")
            time.sleep(generator.random() * 0.6)
            process.send_signal(signal.SIGKILL)
        for folder in cache.iterdir() if cache.exists() else []:
            if folder.is_dir() and not folder.name.startswith("."):
                open_log(folder)
    folder = prepare(DataConfig(path=str(path), shard_bytes=20_000), cache)
    assert open_log(folder).num_users == len(np.unique(rows[:, 0]))
    assert {path.name for path in cache.iterdir() if not path.name.startswith(".done")} == {
        folder.name,
        f"{folder.name}.lock",
    }


def test_of_two_processes_one_works_and_the_other_waits(write: Write, tmp_path: Path) -> None:
    path, cache = write("log.txt", LOG), tmp_path / "cache"
    with start(path, cache, seconds=0.7) as first:
        read_line(first, "writing")
        told: list[str] = []
        began = time.monotonic()
        folder = prepare(DataConfig(path=str(path)), cache, told.append)
        waited = time.monotonic() - began
        first.wait(timeout=20)
    assert told == ["another process prepares the same log: waiting for it"]
    assert waited > 0.5
    assert open_log(folder).num_users == 20
    assert os.listdir(cache / folder.name)
    shutil.rmtree(cache)
