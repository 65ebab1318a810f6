"""Every setting that decides which interactions enter the sequences, and in which order."""

from datetime import date
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from seqsweep.data_pipeline.dates import whole_seconds

ColumnRole = Literal["user", "item", "rating", "timestamp", "time"]


class DataConfig(BaseModel):
    """What to read and how to prepare it; all but `path` enters the fingerprint.

    path: a file, a folder or glob of Parquet, Arrow or Feather files, or "demo" for the generated log.
    format: a key of `sources.SOURCES`; "auto" tells it from the file's name.
    columns: role to column, by name or by 0-based number, such as {"user": "userId", "item": "1"}.
    start_time, end_time: seconds since 1970 or an ISO date, whatever unit the log has; the start is kept,
        the end is not.
    drop_duplicates: keep the first of rows with equal user, item and timestamp.
    k_core: "iterated" repeats both minima to a fixed point; "single" counts once, as the papers' scripts do.
    max_users: a sample of that many users, drawn after all other filters: for a quick look.
    seed: generates the demo log, orders ties that were stored by item id, and draws the sample of users.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field("demo", min_length=1)
    format: str = "auto"
    columns: dict[ColumnRole, str] = {}
    min_rating: float | None = None
    min_user_interactions: int = Field(1, ge=1)
    min_item_interactions: int = Field(1, ge=1)
    k_core: Literal["iterated", "single"] = "iterated"
    drop_duplicates: bool = False
    start_time: int | None = None
    end_time: int | None = None
    max_users: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0)
    shard_bytes: int = Field(128 * 2**20, ge=1)

    @field_validator("start_time", "end_time", mode="before")
    @classmethod
    def _seconds(cls, value: Any) -> Any:
        if isinstance(value, date):  # TOML has dates of its own
            value = value.isoformat()
        return whole_seconds(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def check(self) -> Self:
        if self.start_time is not None and self.end_time is not None and self.start_time >= self.end_time:
            raise ValueError(
                f"start_time must be below end_time, got start_time={self.start_time} "
                f"and end_time={self.end_time}"
            )
        if "time" in self.columns and "timestamp" in self.columns:
            raise ValueError("columns may name the time once, as time or as timestamp, got both")
        return self
