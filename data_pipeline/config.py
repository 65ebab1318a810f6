"""Every setting that decides which interactions enter the sequences, and in which order."""

from datetime import date
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from seqsweep.data_pipeline.dates import whole_seconds

ColumnRole = Literal["user", "item", "rating", "timestamp", "time"]


class DataConfig(BaseModel):
    """What to read and how to prepare it; all but `path` enters the fingerprint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(
        "demo",
        min_length=1,
        description="Log to read: a file, a folder or a glob; `demo` is a generated one.",
    )
    format: str = Field("auto", description="Format of the log; `auto` recognises it.")  # of `SOURCES`
    columns: dict[ColumnRole, str] = Field(
        {}, description="Columns by name or 0-based number, e.g. user=userId,item=movieId,timestamp=time."
    )
    min_rating: float | None = Field(None, description="Leave out ratings below this.")
    min_user_interactions: int = Field(1, ge=1, description="Leave out users with fewer interactions.")
    min_item_interactions: int = Field(1, ge=1, description="Leave out items with fewer interactions.")
    k_core: Literal["iterated", "single"] = Field(
        # The papers' scripts count once.
        "iterated",
        description="Apply the two minima until nothing changes, or once.",
    )
    drop_duplicates: bool = Field(
        False, description="Keep only the first of rows with equal user, item and timestamp."
    )
    start_time: int | None = Field(
        None, description="Leave out earlier interactions: seconds since 1970 or an ISO date."
    )
    end_time: int | None = Field(None, description="Leave out interactions at this time or later.")
    max_users: int | None = Field(
        None, ge=1, description="Sample this many users after all filters, for a quick look."
    )
    seed: int = Field(
        0, ge=0, description="Seed of the demo log, of ties stored by item id, and of the sample of users."
    )
    shard_bytes: int = Field(128 * 2**20, ge=1, description="Largest size of a shard, in bytes.")

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
