"""How a search proposes, prunes and ends."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from seqsweep.results.metric_names import METRIC_NAMES

PrunerName = Literal["asha", "median", "patient", "none"]
SamplerName = Literal["auto", "tpe", "random", "nsga2", "gp", "cmaes"]

OBJECTIVE_DIRECTIONS: dict[str, str] = {  # of what may be an objective beside that of training
    **dict.fromkeys(METRIC_NAMES, "maximize"),
    "num_parameters": "minimize",
    "milliseconds_per_user": "minimize",
    "peak_memory_bytes": "minimize",
    "device_seconds": "minimize",
}


class SearchConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    trials: int = Field(20, ge=1, description="Number of trials in all, queued ones included.")
    sampler: SamplerName = Field("auto", description="How hyperparameters are proposed.")
    # The command line's `auto` is asha with one objective, none with several.
    pruner: PrunerName = Field("asha", description="How trials are stopped early.")
    objectives: tuple[str, ...] = Field(
        (), description="Objectives beside training.objective; the leaderboard then has a Pareto front."
    )
    reduction_factor: int = Field(
        3, ge=2, description="One in so many of the trials that reach a rung goes on."
    )
    grace_epochs: int | None = Field(
        None, ge=1, description="Epochs before which nothing is pruned; by the log if left out."
    )
    grace_factors: dict[str, int] = Field({}, description="Multiples of grace_epochs by model.")
    max_epochs: int = Field(100, ge=1, description="Maximum epochs per trial.")
    max_attempts: int = Field(4, ge=1, description="Attempts before a trial whose worker dies has failed.")

    @field_validator("objectives")
    @classmethod
    def _known(cls, objectives: tuple[str, ...]) -> tuple[str, ...]:
        if set(objectives) - OBJECTIVE_DIRECTIONS.keys() or len(set(objectives)) < len(objectives):
            raise ValueError(f"must be different ones of {', '.join(OBJECTIVE_DIRECTIONS)}")
        return objectives

    @model_validator(mode="before")
    @classmethod
    def _auto_pruner(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("pruner", "auto") == "auto":
            return {**values, "pruner": "none" if values.get("objectives") else "asha"}
        return values
