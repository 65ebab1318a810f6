import time
from pathlib import Path

import pytest

from seqsweep.data_pipeline.formats.progress import bytes_read, reading


def test_the_place_in_the_file_that_is_open(tmp_path: Path) -> None:
    files = [tmp_path / name for name in "abc"]
    for file in files:
        file.write_bytes(b"x" * 1000)
    assert bytes_read(files) is None
    with files[1].open("rb", buffering=0) as stream:
        stream.read(300)
        assert bytes_read(files) == 1300


def test_told_only_of_what_takes_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, told = tmp_path / "log.csv", list[str]()
    file.write_bytes(b"x" * 1000)
    with reading("log.csv", [file], told.append, interval_s=0.01):
        time.sleep(0.05)
    assert told == []
    monkeypatch.setattr("seqsweep.data_pipeline.formats.progress.TOLD_BYTES", 1000)
    with (
        reading("log.csv", [file], told.append, interval_s=0.01),
        file.open("rb", buffering=0) as stream,
    ):
        stream.read(250)
        while len(told) < 2:
            time.sleep(0.01)
    assert told[:2] == ["reading log.csv (0.0 GB)", "reading log.csv: 25%"]
