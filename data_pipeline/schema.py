"""What lies in a prepared folder: the Arrow schema of its shards, and the manifest that vouches for them."""

import hashlib
import json
from typing import Literal, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 2  # raised whenever the same input would give other files or another manifest

MIN_INTERACTIONS = 3  # a history, a validation and a test target

SEQUENCES = pa.schema(
    [
        pa.field("user_id", pa.int32(), nullable=False),
        pa.field("item_id", pa.list_(pa.int32()), nullable=False),
        pa.field("timestamp", pa.list_(pa.int64()), nullable=False),
    ]
)
SEQUENCES_WITHOUT_TIME = pa.schema([SEQUENCES.field("user_id"), SEQUENCES.field("item_id")])

Settings = dict[str, str | int | float | bool | dict[str, str] | None]
TieOrder = Literal["rows", "hash"]
TimeUnit = Literal["s", "ms", "us", "ns"]
UNITS_PER_SECOND: dict[TimeUnit, int] = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Counts(_Record):
    """What was there after one step: "read", then one entry a filter that was asked for.

    Users and items are None where the log was appended to: who was left out before is not kept.
    """

    step: str
    num_rows: int
    num_users: int | None
    num_items: int | None


class Neighbours(_Record):
    """What neighbours in the users' sequences say; those of several shards add up.

    num_pairs: neighbours. num_tied: those with equal times. num_telling: tied ones of different items, of
    which num_ascending ascend by raw item id. num_repeats: interactions whose user had the item before.
    num_tied_targets: users with 3 interactions or more whose last two have equal times.
    """

    num_pairs: int = 0
    num_tied: int = 0
    num_telling: int = 0
    num_ascending: int = 0
    num_repeats: int = 0
    num_tied_targets: int = 0

    def __add__(self, other: Self) -> Self:
        mine, theirs = self.model_dump(), other.model_dump()
        return type(self)(**{name: mine[name] + theirs[name] for name in mine})


class StoredFile(_Record):
    name: str = Field(pattern=r"^[A-Za-z0-9_-]+\.(arrow|parquet)$")  # never a path out of the folder
    size: int
    sha256: str


class Shard(StoredFile):
    first_user: int
    num_users: int
    num_interactions: int


class Manifest(_Record):
    """The facts of a prepared log.

    inputs: SHA-256 of every input file in order; none for the generated log and for tables from Python.
    tie_order: what ordered equal times, the input's rows or the seeded hash; None without timestamps.
    lengths: users by length of their sequence: each entry counts from its number up to the next one's.
    leave_one_out: counts of that split: evaluated users, users that only train, cold targets.
    ceilings: split -> "aware" or "blind" (of time) -> metric -> best expected value that any model can
        reach; only for the generated log, where no filter changed it.
    """

    schema_version: int
    fingerprint: str
    name: str
    origin: str
    settings: Settings
    inputs: tuple[str, ...]
    counts: tuple[Counts, ...]
    num_users: int
    num_items: int
    num_interactions: int
    has_timestamps: bool
    time_unit: TimeUnit | None
    time_range: tuple[int, int] | None
    tie_order: TieOrder | None
    neighbours: Neighbours
    lengths: dict[int, int]
    leave_one_out: dict[str, int]
    shards: tuple[Shard, ...]
    tables: tuple[StoredFile, ...]
    ceilings: dict[str, dict[str, dict[str, float]]] | None = None

    @property
    def content(self) -> str:
        """32 hexadecimal digits of what the shards and id tables hold, whatever form the log had."""
        stored = [(file.name, file.sha256) for file in (*self.shards, *self.tables)]
        return hashlib.sha256(json.dumps(stored).encode()).hexdigest()[:32]

    @property
    def tie_share(self) -> float:
        """Share of neighbours in a user's sequence that have equal timestamps."""
        return self.neighbours.num_tied / max(self.neighbours.num_pairs, 1)

    @property
    def test_targets_tied(self) -> float:
        """Of the users with 3 interactions or more, the share whose last two have equal timestamps."""
        return self.neighbours.num_tied_targets / max(self.leave_one_out["num_eval_users"], 1)

    @property
    def repeat_share(self) -> float:
        """Share of the interactions whose user had the same item before."""
        return self.neighbours.num_repeats / self.num_interactions
