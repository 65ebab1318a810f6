from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.errors import DataError
from seqsweep.data_pipeline.formats.sources import read_interactions
from seqsweep.data_pipeline.preparing.prepare import prepare

Write = Callable[[str, str | bytes], Path]
Read = Callable[..., pa.Table]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file under its name and return its path."""

    def write_file(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file


@pytest.fixture
def error_of(tmp_path: Path) -> Callable[[DataConfig], str]:
    """The message of the DataError that preparing raises; nothing may be left in the cache but the lock."""

    def prepare_and_fail(config: DataConfig) -> str:
        cache = tmp_path / "cache"
        with pytest.raises(DataError) as caught:
            prepare(config, cache)
        left = [path.name for path in cache.iterdir()] if cache.exists() else []
        assert all(name.endswith(".lock") for name in left)
        return str(caught.value)

    return prepare_and_fail


@pytest.fixture
def read_rows() -> Callable[[DataConfig], list[tuple[object, ...]]]:
    """All rows as tuples of raw values, in order."""

    def read(config: DataConfig) -> list[tuple[object, ...]]:
        return [tuple(row.values()) for row in read_interactions(config).to_pylist()]

    return read
