"""What trials, finalists and a whole study may spend."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from seqsweep.results.metric_names import MetricName

EvalSchedule = Literal["sparse", "every"]


class TrainBudget(BaseModel):
    """What a trial is judged by and when it gives up: equal for all trials of a study."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    patience: int = Field(10, ge=1, description="Epochs without a better value after which a trial ends.")
    objective: MetricName = Field(
        "ndcg@10",
        description="Metric to maximise on validation; several by commas make a Pareto front.",
    )
    autocast: bool = Field(True, description="Use bfloat16 on a GPU; a CPU always trains in float32.")
    # See sweep/engine/cuda_graphs.py; not measured yet, so not the default.
    cuda_graphs: bool = Field(False, description="Run steps as CUDA graphs.")
    eval_schedule: EvalSchedule = Field(
        "sparse", description="Which epochs are validated, beside rungs and the last one."
    )


class FinalistConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int = Field(
        3, ge=0, description="Best trials that are trained again over several seeds; 0: the best trial wins."
    )
    seeds: int = Field(3, ge=1, description="Trainings of each finalist.")


class BudgetConfig(BaseModel):
    """What a study may spend beside `search.trials`. None: no bound."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_hours: float | None = Field(None, gt=0, description="Stop this run after so many hours.")
    max_device_hours: float | None = Field(
        None, gt=0, description="Stop when all trials together have used so many device hours."
    )
    max_trial_minutes: float | None = Field(
        None, gt=0, description="Stop a trial that trains longer; it counts as pruned."
    )
    max_disk_gb: float | None = Field(
        None, gt=0, description="Stop when the study's folder exceeds this many gigabytes."
    )
