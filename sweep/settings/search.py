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

    trials: int = Field(default=20, ge=1)  # in all, queued ones included
    sampler: SamplerName = "auto"
    pruner: PrunerName = "asha"  # `auto` is asha with one objective, none with several
    objectives: tuple[str, ...] = ()  # beside training.objective: the leaderboard then has a Pareto front
    reduction_factor: int = Field(default=3, ge=2)  # one in so many of the trials at a rung goes on
    grace_epochs: int | None = Field(default=None, ge=1)  # nothing is pruned before; None: `suggest_grace`
    grace_factors: dict[str, int] = {}  # by model: so many times the grace_epochs
    max_epochs: int = Field(default=100, ge=1)  # the most a trial may train
    max_attempts: int = Field(default=4, ge=1)  # a trial fails when its worker has died so often

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
