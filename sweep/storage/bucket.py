"""A place in an object store that the nodes of a cluster reach without sharing a folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:  # imported where it is used, as settings name buckets and must be light
    from pyarrow import fs

from seqsweep.sweep.errors import ConfigError, UserError, first_line

SCHEMES = ("s3", "gs")


class StorageError(UserError, RuntimeError):
    """The object store does not do what was asked."""


@dataclass(frozen=True)
class BucketPath:
    """A place in an object store, with the few methods of pathlib's that are needed here.

    `store` is a URI of pyarrow's, `s3://bucket/prefix?endpoint_override=..&scheme=http`; `key` lies below it.
    """

    store: str
    key: str = ""

    def __truediv__(self, name: str) -> BucketPath:
        return BucketPath(self.store, f"{self.key}/{name}" if self.key else name)

    def __str__(self) -> str:
        """Without what may be secret: a user and a password, and options."""
        place = re.sub(r"//[^/@]*@", "//", self.store.split("?")[0]).rstrip("/")
        return f"{place}/{self.key}" if self.key else place

    @property
    def filesystem(self) -> fs.FileSystem:
        return _filesystem(self.store)[0]

    @property
    def in_filesystem(self) -> str:
        root = _filesystem(self.store)[1].rstrip("/")
        return f"{root}/{self.key}" if self.key else root

    @property
    def parent(self) -> BucketPath:
        return BucketPath(self.store, self.key.rpartition("/")[0])

    def with_name(self, name: str) -> BucketPath:
        return self.parent / name

    def exists(self) -> bool:
        return self.size() is not None

    def size(self) -> int | None:
        """In bytes; None if there is no such file."""
        from pyarrow import fs

        with self._errors():
            found = self.filesystem.get_file_info(self.in_filesystem)
        return found.size if found.type == fs.FileType.File else None

    def read_bytes(self) -> bytes:
        """Whole, also while it is replaced: so many bytes are asked for as it had when it was opened."""
        while True:
            with self._errors(), self.filesystem.open_input_file(self.in_filesystem) as file:
                content: bytes = file.read()
            if len(content) == self.size():
                return content

    def write_bytes(self, content: bytes | memoryview) -> None:
        with self._errors(), self.filesystem.open_output_stream(self.in_filesystem) as file:
            file.write(content)

    def unlink(self) -> None:
        with self._errors():
            self.filesystem.delete_file(self.in_filesystem)

    def remove_all(self) -> None:
        """All files below."""
        for name in self.names_below():
            with suppress(FileNotFoundError):
                (self / name).unlink()

    def names_below(self) -> list[str]:
        """Of all files below, however deep, relative to this place."""
        from pyarrow import fs

        with self._errors():
            found = self.filesystem.get_file_info(
                fs.FileSelector(self.in_filesystem, recursive=True, allow_not_found=True)
            )
            start = len(self.in_filesystem) + 1
        return sorted(info.path[start:] for info in found if info.type == fs.FileType.File)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raises StorageError for what the store refuses; FileNotFoundError stays."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StorageError(
                f"{self} can't be reached ({first_line(error)}): see that the bucket is there and "
                "that this machine has its credentials, then start the same command again"
            ) from error


StudyPath = Path | BucketPath


@lru_cache(maxsize=8)
def _filesystem(store: str) -> tuple[fs.FileSystem, str]:
    """Raises OSError, ConfigError for options that the store has not."""
    import pyarrow as pa
    from pyarrow import fs

    try:
        return fs.FileSystem.from_uri(store)
    except (pa.ArrowInvalid, ValueError) as error:
        raise ConfigError(f"storage={BucketPath(store)} can't be used: {first_line(error)}") from None


def check_store(uri: str) -> None:
    """Raises ConfigError for what is no URI of an object store; nothing is asked of the store."""
    parts = urlsplit(uri)
    if parts.password is not None:  # a study's settings are copied, sent and printed
        raise ConfigError(
            "storage must not hold keys: give them in the environment, or by the machine's role"
        )
    if parts.scheme not in SCHEMES or not parts.hostname:
        raise ConfigError(
            f"storage must be {' or '.join(f'{scheme}://BUCKET/PREFIX' for scheme in SCHEMES)}, got {uri}; "
            "a folder that all nodes share is given as runs"
        )
