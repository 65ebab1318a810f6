"""A study's results through the log of a job: the way out where only the dashboard is seen.

Ray Jobs takes files to a cluster and brings none back. A short job on the head prints them in this frame:

    SEQSWEEP-PARCEL 1 <number of bytes> <sha256, in hex>
    <a gzipped tar in base64, 76 characters a line>
    SEQSWEEP-PARCEL-END

What is around it (lines of Ray's) is not looked at.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seqsweep.sweep.errors import ClusterError, UserError
from seqsweep.sweep.storage.bucket import BucketPath
from seqsweep.sweep.storage.study_folder import FETCHED, JOURNAL_NAME

VERSION = 1
MAX_BYTES = 256 * 2**20  # of the files; a log goes through the memory of two of Ray's processes
PARTS = (
    *("leaderboard.parquet", "epochs.parquet", "finalists.parquet", "report.html"),
    *("study.toml", "environment.json", "study.journal", "best"),
)
FRAME = re.compile(
    r"^SEQSWEEP-PARCEL (?P<version>\d+) (?P<size>\d+) (?P<sha256>[0-9a-f]{64})\n"
    r"(?P<body>[A-Za-z0-9+/=\n]*)^SEQSWEEP-PARCEL-END$",
    re.MULTILINE,
)


def pack(folder: Path) -> bytes:
    """The parts of a study that are worth bringing home; also while a driver writes it."""
    files = list(_files(folder))
    size = sum(path.stat().st_size for path in files)
    if size > MAX_BYTES:
        raise ClusterError(
            f"the results of {folder.name} must be at most {MAX_BYTES:,} bytes to come through a job's log, "
            f"and have {size:,}: copy {folder} from the head, or give --runs a folder that you share with "
            "the cluster"
        )
    buffer = io.BytesIO()
    # A few bytes saved are not worth minutes: weights hardly shrink.
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for path in files:
            _add(tar, path, str(path.relative_to(folder)))
    return buffer.getvalue()


def frame(data: bytes) -> Iterator[str]:
    """Lines, each with its end."""
    yield f"SEQSWEEP-PARCEL {VERSION} {len(data)} {hashlib.sha256(data).hexdigest()}\n"
    yield base64.encodebytes(data).decode("ascii")
    yield "SEQSWEEP-PARCEL-END\n"


def read_frame(log: str) -> bytes:
    """The parcel in a job's log. Raises ClusterError if there is none, or if it is not whole."""
    found = FRAME.search(log)
    if found is None:
        raise ClusterError("the job that packs the results printed no whole parcel: fetch again")
    if int(found["version"]) != VERSION:
        raise ClusterError(
            f"the parcel must be of version {VERSION}, got {found['version']}: the head has another seqsweep"
        )
    try:
        data = base64.b64decode(found["body"])
    except binascii.Error as error:
        raise ClusterError(f"the parcel is damaged ({error}): fetch again") from None
    digest = hashlib.sha256(data).hexdigest()
    if len(data) != int(found["size"]) or digest != found["sha256"]:
        raise ClusterError(
            f"the parcel is damaged: it must have {found['size']} bytes with sha256 {found['sha256'][:12]}, "
            f"got {len(data)} with {digest[:12]}: fetch again"
        )
    return data


def unpack(data: bytes, folder: Path, source: dict[str, str]) -> None:
    """A parcel's data as the whole folder. Raises UserError where that would replace more than a copy."""
    with _whole_folder(folder, source) as staging:
        try:
            with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
                tar.extractall(staging, filter="data")
        except (tarfile.TarError, EOFError) as error:
            raise ClusterError(f"the parcel is refused: {error}") from None


def fetch_from_store(place: BucketPath, folder: Path, source: dict[str, str]) -> int:
    """A study's parts from an object store; how many bytes that is."""
    num_bytes = 0
    with _whole_folder(folder, source) as staging:
        names = [name for name in place.names_below() if name.split("/")[0] in PARTS]
        if JOURNAL_NAME not in names:
            raise UserError(f"there is no study in {place}")
        for name in names:
            path = (staging / name).resolve()
            if not path.is_relative_to(staging.resolve()):
                raise UserError(f"{place} is refused: it holds a file named {name}")
            path.parent.mkdir(parents=True, exist_ok=True)
            num_bytes += path.write_bytes((place / name).read_bytes())
    return num_bytes


@contextmanager
def _whole_folder(folder: Path, source: dict[str, str]) -> Iterator[Path]:
    """What is written to the folder that it gives stands in the place of an older copy, or nothing does."""
    check_replaceable(folder)
    staging, replaced = (folder.with_name(f".{folder.name}.{word}") for word in ("fetching", "replaced"))
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    (staging / FETCHED).write_text(json.dumps(source, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(replaced, ignore_errors=True)
    if folder.exists():
        os.rename(folder, replaced)
    os.rename(staging, folder)
    shutil.rmtree(replaced, ignore_errors=True)


def check_replaceable(folder: Path) -> None:
    if folder.exists() and not (folder / FETCHED).is_file():
        raise UserError(
            f"{folder} is there already and was not fetched: a study of this machine would be lost. "
            "Give --to another folder"
        )


def _files(folder: Path) -> Iterator[Path]:
    for part in PARTS:
        path = folder / part
        yield from [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def _add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    """What it holds now: a journal may grow meanwhile, and a table be replaced."""
    content = path.read_bytes()
    member = tarfile.TarInfo(name)
    member.size, member.mtime = len(content), int(path.stat().st_mtime)
    tar.addfile(member, io.BytesIO(content))
