"""prepare(): from a raw log to a verified folder of shards; a second call with the same input returns it."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipeline.build import build_log
from data_pipeline.config import DataConfig
from data_pipeline.fingerprint import compute_fingerprint
from data_pipeline.schema import DataError, Manifest
from data_pipeline.sources import input_files
from data_pipeline.store import MANIFEST, damaged_files, read_manifest

__all__ = ["DataConfig", "prepare"]

Notify = Callable[[str], None]


def _silent(message: str) -> None:
    """For callers that want no progress."""


def prepare(config: DataConfig, cache: Path, notify: Notify = _silent) -> Path:
    """The folder `<cache>/<fingerprint>` with the log's shards, id tables and manifest, built if need be.

    A folder that exists is complete: it is built beside its place and renamed last. Of several processes that
    prepare the same, one works and the others wait. Raises DataError on a mistake in the log or the settings.
    """
    files = input_files(config)
    fingerprint = compute_fingerprint(config, files)
    folder = cache / fingerprint
    if _is_sound(folder, _silent):
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f"{fingerprint}.lock", notify):
        if not _is_sound(folder, notify):
            _build(config, files, folder, notify)
    return folder


def _is_sound(folder: Path, notify: Notify) -> bool:
    """Whether a complete folder is there. Damage is told, so that nobody wonders at the work."""
    if not folder.exists():
        return False
    try:
        damaged = damaged_files(folder, read_manifest(folder))
    except DataError as error:
        damaged = [str(error)]
    for name in damaged:
        notify(f"{name} in {folder} does not fit its checksum: the log is prepared again")
    return not damaged


@contextmanager
def _locked(path: Path, notify: Notify) -> Iterator[None]:
    """One process at a time. The lock file stays: removing it would let two processes lock two files."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            notify("another process prepares the same log: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(config: DataConfig, files: list[Path], folder: Path, notify: Notify) -> None:
    staging = folder.with_name(f".staging-{folder.name}")
    shutil.rmtree(staging, ignore_errors=True)  # of a process that was killed: we hold the lock
    staging.mkdir()
    try:
        before = _signatures(files)
        manifest = build_log(config, staging, folder.name, notify)
        if _signatures(files) != before:
            raise DataError(
                f"{config.path}: the input changed while it was read; prepare it again when it is at rest"
            )
        _write_manifest(staging, manifest)
        _publish(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _signatures(files: list[Path]) -> list[tuple[int, int]]:
    return [(file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    staging = folder / f"{MANIFEST}.staging"
    with staging.open("w") as stream:
        stream.write(manifest.model_dump_json(indent=2) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(staging, folder / MANIFEST)


def _publish(staging: Path, folder: Path) -> None:
    """Put the finished folder in its place; a damaged one there goes first, aside and then away."""
    aside = folder.with_name(f".damaged-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    if folder.exists():
        os.replace(folder, aside)
    os.replace(staging, folder)
    shutil.rmtree(aside, ignore_errors=True)
