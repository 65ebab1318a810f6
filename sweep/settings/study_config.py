"""StudyConfig: everything the sampler may not move. TOML in and out; every error names the key."""

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

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

    models: tuple[str, ...] = ("sasrec",)
    function: str | None = None  # FILE:NAME of a user's own space, instead of the families'
    fix: dict[str, bool | int | float | str] = {}  # hparams that do not move
    narrow: dict[str, str] = {}  # hparams that move less: LOW:HIGH, or choices by commas

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

    address: str | None = None  # of a running Ray cluster ("auto": the one on this machine); None starts one
    # None: 1 for each worker where there are GPUs, else 0; may be a fraction
    gpus_per_trial: NonNegativeFloat | None = None
    workers_per_trial: PositiveInt | None = None  # that train one model together; None: one for each GPU
    # Of each worker. None: 1 without GPUs, else the cores divided among the GPUs
    cpus_per_trial: PositiveFloat | None = None
    max_concurrent: PositiveInt | None = None  # None: as many trials as the cluster holds
    wait_minutes: NonNegativeFloat = 0  # for an autoscaler's first node that can hold a trial

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

    name: str = "demo"
    seed: int = Field(default=0, ge=0)
    runs: Path = Path("runs")
    storage: str | None = None  # of an object store, for nodes that share no folder
    cache: Path = Path(".cache/prepared")
    data: DataConfig = DataConfig()
    protocol: ProtocolConfig = ProtocolConfig()
    space: SpaceConfig = SpaceConfig()
    search: SearchConfig = SearchConfig()
    training: TrainBudget = TrainBudget()
    finalists: FinalistConfig = FinalistConfig()
    budget: BudgetConfig = BudgetConfig()
    hardware: HardwareConfig = HardwareConfig()
    tensorboard: bool = False  # event files beside the study's own tables

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

    def as_begun(self, attributes: Mapping[str, Any]) -> Self:
        """As the study with these attributes trains: one from before there were schedules has none."""
        begun = attributes.get("identity", {}).get("training", {"eval_schedule": None})
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
            raise ConfigError(f"{path} is not TOML: {error}") from None
        return cls.build(merge(values, overrides or {}))

    def to_toml(self) -> str:
        return toml_text(self.model_dump(mode="json", exclude_none=True))


def merge(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, value in overrides.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return merged


def toml_text(values: Mapping[str, Any]) -> str:
    top = {k: v for k, v in values.items() if not isinstance(v, dict)}
    tables = {k: v for k, v in values.items() if isinstance(v, dict)}
    parts = [_toml_lines(top), *(f"[{name}]\n{_toml_lines(table)}" for name, table in tables.items())]
    return "\n".join(parts)


def _toml_lines(table: Mapping[str, Any]) -> str:
    return "".join(f"{_toml_key(key)} = {_toml_value(value)}\n" for key, value in table.items())


def _toml_key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key)


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml_key(k)} = {_toml_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)  # strings, numbers and booleans read the same in TOML
