"""What trials, finalists and a whole study may spend."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
)

from seqsweep.results.metric_names import MetricName

EvalSchedule = Literal["sparse", "every"]


class TrainBudget(BaseModel):
    """What a trial is judged by and when it gives up: equal for all trials of a study."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    patience: PositiveInt = 10  # epochs without a better objective after which training ends
    objective: MetricName = "ndcg@10"  # of validation; larger is better
    autocast: bool = True  # bfloat16 on a GPU; a CPU always trains in float32
    cuda_graphs: bool = False  # see sweep.engine.cuda_graphs; not measured yet, so not the default
    eval_schedule: EvalSchedule = "sparse"  # when validation is due, beside rungs and the last epoch


class FinalistConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int = Field(default=3, ge=0)  # best configurations that are trained again; 0: the best trial wins
    seeds: int = Field(default=3, ge=1)  # trainings of each


class BudgetConfig(BaseModel):
    """Beside `search.trials`. None: no bound."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_hours: PositiveFloat | None = None  # of one start: a night, a queue's slot
    max_device_hours: PositiveFloat | None = None  # of all trials, over all starts
    max_trial_minutes: PositiveFloat | None = (
        None  # a trial that trains longer is stopped and counts as pruned
    )
    max_disk_gb: PositiveFloat | None = None  # of the study's folder, 1e9 bytes each
