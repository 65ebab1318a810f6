import os
from functools import partial
from pathlib import Path
from typing import IO, Any

import pytest
import torch

from seqsweep.sweep.errors import ConfigError
from seqsweep.sweep.settings.study_config import StudyConfig
from seqsweep.sweep.storage.bucket import BucketPath, StorageError, StudyPath
from seqsweep.sweep.storage.files import open_whole, write_whole
from seqsweep.sweep.storage.trial_files import (
    checkpoint_path,
    load_checkpoint,
    remove_trial_files,
    save_checkpoint,
    trials_with_checkpoint,
)

CPU = torch.device("cpu")


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> StudyPath:
    if request.param == "folder":
        return tmp_path / "mine"
    found: BucketPath = request.getfixturevalue("bucket")
    return found


def _put(content: bytes, file: IO[bytes]) -> None:
    file.write(content)


def test_what_is_written_is_read(place: StudyPath) -> None:
    path = place / "some" / "file"
    assert not path.exists()
    with pytest.raises(FileNotFoundError):
        open_whole(path)
    for content in (b"first", b"", b"second " * 1000):
        write_whole(path, partial(_put, content))
        assert path.exists()
        with open_whole(path) as file:
            assert file.read() == content


def test_a_write_that_fails_leaves_what_was_there(place: StudyPath) -> None:
    def fail(file: IO[bytes]) -> None:
        file.write(b"half")
        raise RuntimeError("killed")

    write_whole(place / "file", lambda file: file.write(b"whole"))
    with pytest.raises(RuntimeError, match="killed"):
        write_whole(place / "file", fail)
    with open_whole(place / "file") as file:
        assert file.read() == b"whole"


def test_a_file_that_is_replaced_while_it_is_read_is_read_again(
    bucket: BucketPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = bucket / "table"
    file.write_bytes(b"old")
    newer = [b"as long", b"newer and longer"]

    class Replacing:
        """Of a store in which the file is replaced between the question for its size and the first byte."""

        def __init__(self, filesystem: Any) -> None:
            self._filesystem = filesystem

        def __getattr__(self, name: str) -> Any:
            return getattr(self._filesystem, name)

        def open_input_file(self, path: str) -> Any:
            opened = self._filesystem.open_input_file(path)
            if newer:
                with self._filesystem.open_output_stream(path) as output:
                    output.write(newer.pop(0))
            return opened

    replacing = Replacing(bucket.filesystem)
    monkeypatch.setattr(BucketPath, "filesystem", property(lambda self: replacing))
    assert file.read_bytes() == b"newer and longer"


def test_checkpoints(place: StudyPath) -> None:
    assert trials_with_checkpoint(place) == set()
    weights = {"w": torch.arange(5.0)}
    for number in (0, 3, 12345):
        save_checkpoint(checkpoint_path(place, number), {"state": weights, "hparams": {"lr": number}})
    write_whole(place / "trials" / "00007" / "ranks.parquet", lambda file: file.write(b"."))
    assert trials_with_checkpoint(place) == {0, 3, 12345}
    loaded = load_checkpoint(checkpoint_path(place, 3), CPU)
    assert loaded["hparams"] == {"lr": 3} and torch.equal(loaded["state"]["w"], weights["w"])
    remove_trial_files(place, 3)
    remove_trial_files(place, 4)
    assert trials_with_checkpoint(place) == {0, 12345}
    with pytest.raises(FileNotFoundError):
        load_checkpoint(checkpoint_path(place, 3), CPU)


def test_a_place_reads_well_and_keeps_secrets() -> None:
    place = BucketPath("s3://key:secret@bucket/prefix/?scheme=http") / "mine"
    assert str(place) == "s3://bucket/prefix/mine"
    assert str(place / "trials" / "x") == "s3://bucket/prefix/mine/trials/x"
    assert str((place / "trials" / "x").with_name("y")) == "s3://bucket/prefix/mine/trials/y"
    assert "secret" not in str(BucketPath("s3://key:secret@bucket"))


def test_a_bucket_that_is_not_there_is_one_message(bucket: BucketPath) -> None:
    gone = BucketPath(bucket.store.replace("s3://", "s3://no-")) / "mine"
    with pytest.raises(StorageError, match=r"s3://no-bucket-.*/studies/mine/file can't be reached"):
        write_whole(gone / "file", lambda file: file.write(b"."))


@pytest.mark.parametrize("storage", ["/mnt/shared", "file:///mnt", "https://bucket", "s3://"])
def test_what_is_no_store_is_refused(storage: str) -> None:
    with pytest.raises(ConfigError, match="storage"):
        StudyConfig.build({"storage": storage})


def test_keys_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="storage must not hold keys") as caught:
        StudyConfig.build({"storage": "s3://key:secret@bucket/prefix"})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"runs": "s3://bucket/runs"}, "an object store is given as storage"),
        ({"storage": "s3://bucket", "budget": {"max_disk_gb": 1}}, "max_disk_gb"),
    ],
)
def test_what_does_not_go_with_a_store(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        StudyConfig.build(settings)


def test_an_option_that_the_store_has_not(bucket: BucketPath) -> None:
    with pytest.raises(ConfigError, match="can't be used: Unexpected query parameter"):
        (BucketPath(f"{bucket.store}&no_such=1") / "file").exists()


def test_where_trials_keep_their_files(tmp_path: Path) -> None:
    config = StudyConfig.build({"name": "mine", "runs": tmp_path})
    assert config.trial_files == config.folder == tmp_path / "mine"
    config = StudyConfig.build({"name": "mine", "runs": tmp_path, "storage": "s3://bucket/prefix"})
    assert config.folder == tmp_path / "mine" and str(config.trial_files) == "s3://bucket/prefix/mine"
    assert os.listdir(tmp_path) == []
