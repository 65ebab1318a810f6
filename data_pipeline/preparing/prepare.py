"""prepare(): from a raw log to a verified folder of shards; a second call with the same input returns it."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pandas as pd
import pyarrow as pa

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.errors import DataError
from seqsweep.data_pipeline.formats.progress import reading
from seqsweep.data_pipeline.formats.recognise import input_files
from seqsweep.data_pipeline.formats.sources import read_interactions, read_table
from seqsweep.data_pipeline.preparing.build import Origin, build_log
from seqsweep.data_pipeline.preparing.fingerprint import compute_fingerprint, hash_inputs
from seqsweep.data_pipeline.schema import Manifest
from seqsweep.data_pipeline.store import MANIFEST, NewerManifestError, damaged_files, read_manifest

Notify = Callable[[str], None]
Build = Callable[[Path], Manifest]  # writes into the folder that it is given


def _silent(message: str) -> None:
    """For callers that want no progress."""


def prepare(config: DataConfig, cache: Path, notify: Notify = _silent) -> Path:
    """The folder `<cache>/<fingerprint>` with the log's shards, id tables and manifest, built if need be.

    A folder that exists is complete: it is built beside its place and renamed last. Of several processes that
    prepare the same, one works and the others wait. Where `config.path` is such a folder itself it is taken
    as it is. Raises DataError on a mistake in the log or the settings.
    """
    if is_prepared(config):
        return checked_log(config)
    files = input_files(config)
    inputs = hash_inputs(files)
    origin = Origin(compute_fingerprint(config, inputs), inputs)

    def build(staging: Path) -> Manifest:
        before = _signatures(files)
        manifest = build_log(config, origin, _read(config, files, notify), staging, notify)
        if _signatures(files) != before:
            raise DataError(
                f"{config.path}: the input changed while it was read; prepare it again when it is at rest"
            )
        return manifest

    return prepare_with(build, origin.fingerprint, cache, notify)


def _read(config: DataConfig, files: list[Path], notify: Notify) -> pa.Table:
    with reading(config.path, files, notify):
        return read_interactions(config)


def prepare_table(
    table: "pa.Table | pd.DataFrame", config: DataConfig, cache: Path, notify: Notify = _silent
) -> Path:
    """As `prepare`, for interactions that are in memory; `config.path` is the name the log goes by."""
    interactions = read_table(table, config)
    config = config.model_copy(update={"format": "columnar"})  # whose columns tables have
    inputs = (_hash_table(interactions),)
    origin = Origin(compute_fingerprint(config, inputs), inputs)
    build = partial(_build_table, config, origin, interactions, notify)
    return prepare_with(build, origin.fingerprint, cache, notify)


def _build_table(
    config: DataConfig, origin: Origin, table: pa.Table, notify: Notify, staging: Path
) -> Manifest:
    return build_log(config, origin, table, staging, notify)


def _hash_table(table: pa.Table) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return hashlib.sha256(sink.getvalue()).hexdigest()


def fingerprint_of(config: DataConfig) -> str:
    """Of the log as it is prepared with these settings, without preparing it."""
    if is_prepared(config):
        return read_manifest(Path(config.path)).fingerprint
    return compute_fingerprint(config, hash_inputs(input_files(config)))


def is_prepared(config: DataConfig) -> bool:
    """Whether `config.path` is a prepared folder."""
    return config.format == "auto" and (Path(config.path) / MANIFEST).is_file()


def checked_log(config: DataConfig) -> Path:
    """The prepared folder that is named. Raises DataError where it is damaged or settings are given too."""
    given = config.model_dump(exclude={"path"}, exclude_defaults=True)
    if given:
        settings = ", ".join(f"{key}={value}" for key, value in given.items())
        raise DataError(
            f"{config.path} is a prepared log, with settings of its own; got {settings}: "
            "leave them out, or prepare the raw log with them"
        )
    folder = Path(config.path)
    if damaged := damaged_files(folder, read_manifest(folder)):
        raise DataError(
            f"{folder / damaged[0]}: checksum or size differs from the manifest's; prepare the log again"
        )
    return folder


def prepare_with(build: Build, fingerprint: str, cache: Path, notify: Notify) -> Path:
    """`<cache>/<fingerprint>`, as it is if it is sound, else as `build` makes it."""
    folder = cache / fingerprint
    if _is_sound(folder, _silent):
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f"{fingerprint}.lock", notify):
        if not _is_sound(folder, notify):
            _stage(build, folder)
    return folder


def _is_sound(folder: Path, notify: Notify) -> bool:
    """Whether a complete folder is there. Damage is told, so that nobody wonders at the work."""
    if not folder.exists():
        return False
    try:
        damaged = [
            f"{name} in {folder} does not fit its checksum"
            for name in damaged_files(folder, read_manifest(folder))
        ]
    except NewerManifestError:
        raise
    except DataError as error:
        damaged = [str(error)]
    for problem in damaged:
        notify(f"{problem}: the log is prepared again")
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


def _stage(build: Build, folder: Path) -> None:
    staging = folder.with_name(f".staging-{folder.name}")
    shutil.rmtree(staging, ignore_errors=True)  # of a process that was killed: we hold the lock
    staging.mkdir()
    try:
        _write_manifest(staging, build(staging))
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
