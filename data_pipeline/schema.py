"""What lies in a prepared folder: the Arrow schema of its shards, and the manifest that vouches for them."""

from typing import Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION = 1

SEQUENCES = pa.schema(
    [
        pa.field("user_id", pa.int32(), nullable=False),
        pa.field("item_id", pa.list_(pa.int32()), nullable=False),
        pa.field("timestamp", pa.list_(pa.int64()), nullable=False),
    ]
)
SEQUENCES_WITHOUT_TIME = pa.schema([SEQUENCES.field("user_id"), SEQUENCES.field("item_id")])

Settings = dict[str, str | int | float | bool | dict[str, str] | None]
TimeUnit = Literal["s", "ms", "us", "ns"]
UNITS_PER_SECOND: dict[TimeUnit, int] = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


class DataError(ValueError):
    """A mistake in the user's data or settings, told in one message: where, what, and the way out."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Counts(_Record):
    """What was there after one step: "read", then one entry a filter that was asked for."""

    step: str
    num_rows: int
    num_users: int
    num_items: int


class StoredFile(_Record):
    name: str
    size: int
    sha256: str


class Shard(StoredFile):
    first_user: int
    num_users: int
    num_interactions: int


class Manifest(_Record):
    """The facts of a prepared log.

    tie_share: share of neighbours in a user's sequence that have equal timestamps.
    tie_order: what ordered them, the input's rows or the seeded hash; None without timestamps.
    test_targets_tied: share of evaluated users whose last two interactions have equal timestamps.
    repeat_share: share of the interactions whose user had the same item before.
    ceilings: split -> "aware" or "blind" (of time) -> metric -> best expected value that any model can
        reach; only for the generated log, where no filter changed it.
    """

    schema_version: int
    fingerprint: str
    name: str
    origin: str
    settings: Settings
    counts: tuple[Counts, ...]
    num_users: int
    num_items: int
    num_interactions: int
    has_timestamps: bool
    time_unit: TimeUnit | None
    time_range: tuple[int, int] | None
    tie_share: float
    tie_order: Literal["rows", "hash"] | None
    test_targets_tied: float
    repeat_share: float
    shards: tuple[Shard, ...]
    tables: tuple[StoredFile, ...]
    ceilings: dict[str, dict[str, dict[str, float]]] | None = None
