"""StudyConfig: everything the sampler may not move. TOML in and out; every error names the key."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.sweep.errors import ConfigError, describe_validation_error
from seqsweep.sweep.settings.budgets import BudgetConfig, FinalistConfig, TrainBudget
from seqsweep.sweep.settings.protocol import ProtocolConfig
from seqsweep.sweep.settings.search import SearchConfig
from seqsweep.sweep.storage.bucket import BucketPath, StudyPath, check_store

ALL = "all"  # in place of the names of models
BEFORE_SCHEDULES = {"eval_schedule": "every"}  # what a study that says nothing of it was begun with
Scalar = int | float | str | bool


class SpaceConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[str, ...] = Field(("sasrec",), description="Families to search, by commas, or `all`.")
    function: str | None = Field(None, description="A space of your own, FILE:NAME.")
    fix: dict[str, bool | int | float | str] = Field({}, description="Pin a hyperparameter, e.g. loss=ce.")
    narrow: dict[str, str] = Field(
        {}, description="Narrow a hyperparameter's range, e.g. dropout=0.1:0.4 or loss=ce,gbce."
    )

    def names(self) -> list[str]:
        from seqsweep.search_spaces import SEARCH_SPACES

        return list(SEARCH_SPACES) if self.models == (ALL,) else list(self.models)

    @field_validator("models")
    @classmethod
    def _known(cls, models: tuple[str, ...]) -> tuple[str, ...]:
        from seqsweep.search_spaces import SEARCH_SPACES  # brings Optuna

        if models != (ALL,) and (not models or set(models) - SEARCH_SPACES.keys()):
            raise ValueError(f"must be {ALL}, or one or more of {', '.join(SEARCH_SPACES)}")
        return models


class HardwareConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str | None = Field(
        None, description="A running Ray cluster, or `auto` for this machine's; one is started if left out."
    )
    gpus_per_trial: float | None = Field(
        None, ge=0, description="GPUs per trial, or a fraction of one; one a worker where there are GPUs."
    )
    workers_per_trial: int | None = Field(
        None, ge=1, description="Processes that train one model together; one a GPU if left out."
    )
    cpus_per_trial: float | None = Field(
        None, gt=0, description="Cores of each worker; 1 without GPUs, else the cores shared among the GPUs."
    )
    max_concurrent: int | None = Field(
        None, ge=1, description="Trials at a time; as many as the cluster holds if left out."
    )
    wait_minutes: float = Field(
        0, ge=0, description="Minutes to wait for an autoscaler's first node that can hold a trial."
    )

    @model_validator(mode="after")
    def _a_gpu_or_less_a_worker(self) -> Self:
        gpus = self.gpus_per_trial or 0
        if gpus > 1 and gpus != int(gpus):
            raise ValueError(f"gpus_per_trial must be whole where it is above 1, got {gpus:g}")
        if gpus > self.num_workers:
            raise ValueError(
                "gpus_per_trial must not be more than workers_per_trial, as a worker uses one GPU, got "
                f"gpus_per_trial={gpus:g} and workers_per_trial={self.num_workers}"
            )
        return self

    @property
    def num_workers(self) -> int:
        """Of a trial."""
        return self.workers_per_trial or max(1, int(self.gpus_per_trial or 0))


class StudyConfig(BaseModel):
    """One study. `name` is the folder below `runs`; `driver.opening.IDENTITY` says what may not change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field("demo", description="Name of the study.")
    seed: int = Field(0, ge=0, description="Random seed.")
    runs: Path = Field(Path("runs"), description="Folder of all studies.")
    storage: str | None = Field(
        None, description="Object store for a cluster that shares no folder, e.g. s3://bucket/prefix."
    )
    cache: Path = Field(Path(".cache/prepared"), description="Folder of prepared logs.")
    data: DataConfig = DataConfig()
    protocol: ProtocolConfig = ProtocolConfig()
    space: SpaceConfig = SpaceConfig()
    search: SearchConfig = SearchConfig()
    training: TrainBudget = TrainBudget()
    finalists: FinalistConfig = FinalistConfig()
    budget: BudgetConfig = BudgetConfig()
    hardware: HardwareConfig = HardwareConfig()
    tensorboard: bool = Field(False, description="Write TensorBoard event files beside the study's tables.")

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
            raise ValueError("must be letters, digits, '.', '_' or '-', at most 100, and name a folder")
        return name

    @field_validator("storage")
    @classmethod
    def _a_store(cls, storage: str | None) -> str | None:
        if storage is not None:
            check_store(storage)
        return storage

    @field_validator("runs")
    @classmethod
    def _a_folder(cls, runs: Path) -> Path:
        if re.match(r"[a-z0-9]+:/", str(runs)):
            raise ValueError("must be a folder; an object store is given as storage")
        return runs

    @model_validator(mode="after")
    def _disk_of_this_machine(self) -> Self:
        if self.storage is not None and self.budget.max_disk_gb is not None:
            raise ValueError(
                "max_disk_gb is of the study's folder, and storage keeps the checkpoints elsewhere"
            )
        return self

    @property
    def folder(self) -> Path:
        """Where the driver writes."""
        return self.runs.absolute() / self.name

    @property
    def trial_files(self) -> StudyPath:
        """Where trials keep theirs: a place that every node reaches."""
        return self.folder if self.storage is None else BucketPath(self.storage) / self.name

    def with_recorded_defaults(self, identity: Mapping[str, Any] | None) -> Self:
        """As the study with this identity trains: one from before there were schedules has none."""
        begun = (identity or {}).get("training", {"eval_schedule": None})
        if "eval_schedule" in begun or "eval_schedule" in self.training.model_fields_set:
            return self
        return self.model_copy(update={"training": self.training.model_copy(update=BEFORE_SCHEDULES)})

    def with_whole_paths(self) -> Self:
        """For a file that is read from wherever the study is gone on with."""
        data = Path(self.data.path)
        return self.model_copy(
            update={
                "runs": self.runs.absolute(),
                "cache": self.cache.absolute(),
                "data": self.data.model_copy(
                    update={"path": str(data.absolute()) if data.exists() else self.data.path}
                ),
            }
        )

    @classmethod
    def build(cls, values: Mapping[str, Any]) -> Self:
        try:
            return cls(**values)
        except ValidationError as error:
            raise ConfigError(describe_validation_error(error, "setting")) from None

    @classmethod
    def load(cls, path: Path, overrides: Mapping[str, Any] | None = None) -> Self:
        """Read TOML; `overrides`, nested like the file, win. Raises ConfigError."""
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"no such settings file: {path}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{path} is not TOML: {error}; mend it, or give it with --data if it is a log"
            ) from None
        return cls.build(merge(values, overrides or {}))

    def to_toml(self) -> str:
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def merge(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, value in overrides.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return merged
