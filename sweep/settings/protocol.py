"""How models are compared: the split, the candidates, and what a user has seen."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from seqsweep.data_pipeline.cuts import DEFAULT_CUTS, Cut, check_cuts

if TYPE_CHECKING:
    from seqsweep.data_pipeline.split import Split
    from seqsweep.data_pipeline.store import SequenceLog

REPEATS_ARE_NORMAL = 0.01  # share of repeated (user, item) pairs above which seen items stay candidates


class ProtocolConfig(BaseModel):
    """How models are compared: which items are held out, and what they compete with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Literal["leave_one_out", "temporal"] = Field("leave_one_out", description="How to hold out items.")
    min_eval_interactions: int = Field(
        3, ge=3, description="Users with fewer interactions only train (leave_one_out)."
    )
    cuts: tuple[Cut, Cut] | None = Field(
        None, description="Two cuts of --split temporal: shares (0.8,0.9), dates, or seconds since 1970."
    )
    ranking: str = Field(
        "full",
        pattern=r"^(full|sampled:[1-9][0-9]*)$",
        description="Candidates of each ranking: all items (full), or a sample (sampled:100).",
    )
    seen: Literal["auto", "keep", "remove"] = Field(
        "auto", description="Whether items the user has seen stay candidates."
    )

    @model_validator(mode="before")
    @classmethod
    def _default_cuts(cls, values: Any) -> Any:
        """Written out, so that a study keeps the cuts that it began with."""
        if isinstance(values, dict) and values.get("split") == "temporal" and values.get("cuts") is None:
            return {**values, "cuts": DEFAULT_CUTS}
        return values

    @field_validator("cuts", mode="before")
    @classmethod
    def _plain_cuts(cls, cuts: Any) -> Any:
        return tuple(map(_plain_cut, cuts)) if isinstance(cuts, list | tuple) else cuts

    @model_validator(mode="after")
    def _settings_of_the_split(self) -> Self:
        if self.split == "leave_one_out" and self.cuts is not None:
            raise ValueError(f"cuts belong to split=temporal, got split=leave_one_out and cuts={self.cuts}")
        if self.split == "temporal" and self.min_eval_interactions != 3:
            raise ValueError(
                "min_eval_interactions belongs to split=leave_one_out, got split=temporal and "
                f"min_eval_interactions={self.min_eval_interactions}"
            )
        if self.cuts is not None:
            check_cuts(self.cuts)
        return self

    def open_split(self, log: SequenceLog, notify: Callable[[str], None] | None = None) -> Split:
        """The same for the driver and every worker. Raises DataError where the log does not allow it."""
        from seqsweep.data_pipeline.split import leave_one_out, silent, temporal

        if self.cuts is not None:
            return temporal(log, self.cuts, notify or silent)
        return leave_one_out(log.offset_U, self.min_eval_interactions)

    def describe(self, log: SequenceLog, split: Split) -> str:
        """One line, for whoever reads a leaderboard."""
        from seqsweep.data_pipeline.split import cut_dates

        cuts = f" ({' and '.join(cut_dates(log, split))})" if split.cut_times is not None else ""
        seen = "removed" if self.removes_seen(log) else "kept"
        return f"{self.split}{cuts}, ranking={self.ranking}, seen items {seen}"

    def removes_seen(self, log: SequenceLog) -> bool:
        if self.seen == "auto":
            return log.manifest.repeat_share <= REPEATS_ARE_NORMAL
        return self.seen == "remove"


def _plain_cut(cut: Any) -> Any:
    """Flags give numbers as text, and TOML has dates of its own."""
    if isinstance(cut, date):
        return cut.isoformat()
    if isinstance(cut, str):
        for number in (int, float):
            try:
                return number(cut)
            except ValueError:
                continue
    return cut
