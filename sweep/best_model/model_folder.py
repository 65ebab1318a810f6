"""What `best/` holds, written and read: all that is needed to recommend, and to evaluate again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors
import torch
from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.schema import TimeUnit
from seqsweep.models import MODELS, ModelConfig, SequenceModel
from seqsweep.results.best_folder import (
    CONFIG_FILE,
    ITEM_IDS_FILE,
    METRICS_FILE,
    WEIGHTS_FILE,
    find_best,
    load_weights,
)
from seqsweep.results.schema import Hparam
from seqsweep.sweep.engine.state import build_model
from seqsweep.sweep.errors import UserError, describe_validation_error, first_line
from seqsweep.sweep.settings.protocol import ProtocolConfig


class ModelError(UserError, ValueError):
    """A folder that holds no model, or one that this version can't use."""


class Clock(BaseModel):
    """Of the log that was trained on. Models that use time read others' times in its unit."""

    model_config = ConfigDict(frozen=True)

    unit: TimeUnit
    usual_gap: PositiveInt  # median of the users' smallest gaps: for users who have none


class ExportedConfig(BaseModel):
    """config.json. What has a default was not written by the first versions."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    model: str
    hparams: dict[str, Hparam]
    config: dict[str, Hparam]
    num_items: PositiveInt
    fingerprint: str
    trial: int
    finalist_of: int | None = None
    epoch: int | None = None
    protocol: ProtocolConfig | None = None  # `seen` as it was decided for the log
    data: DataConfig | None = None  # of the path the name alone
    autocast: bool = True
    num_threads: PositiveInt | None = None  # of the trial on a CPU: the last digit hangs on it
    clock: Clock | None = None


@dataclass(frozen=True)
class Exported:
    folder: Path
    config: ExportedConfig
    metrics: dict[str, Any]  # metrics.json
    item_ids: pa.Array[Any]  # raw ids of items 1, 2, ...
    model: SequenceModel  # on its device, in eval mode

    @property
    def device(self) -> torch.device:
        return self.model.item_embedding.weight.device

    @property
    def autocast(self) -> bool:
        return self.config.autocast and self.device.type == "cuda"

    @property
    def removes_seen(self) -> bool:
        """As it was compared; where that is not known the usual way."""
        return self.config.protocol is None or self.config.protocol.seen == "remove"


def find_model(model: str, runs: Path) -> Path:
    """Of a model that is named by its folder, by its study's folder, or by its study's name below `runs`."""
    for place in (Path(model), runs / model):
        if (place / CONFIG_FILE).is_file():
            return place
        best = find_best(place)
        if best.is_dir():
            return best
        if place.is_dir() and (place / "study.journal").is_file():
            raise ModelError(f"{place} has no best/: its study has not come to an end; go on with it first")
    there = sorted(path.parent.name for path in runs.glob("*/best"))
    known = f"; below {runs} are those of {', '.join(there)}" if there else f"; below {runs} there is none"
    raise ModelError(f"there is no model {model!r}: name a best/ folder or a study{known}")


def read_exported(folder: Path, device: str | torch.device | None = None) -> Exported:
    """The model in a `best/` folder. Raises ModelError; what is read has no code in it.

    device: the GPU if there is one, else the CPU, where None is given.
    """
    place = _device(device)
    while True:
        before = _identity(folder)
        try:
            exported = _read(folder, place)
        except (ModelError, FileNotFoundError):
            if _identity(folder) == before:
                raise
            continue  # exchanged meanwhile: the parts may be of two models
        if _identity(folder) == before:
            return exported


def _identity(folder: Path) -> int | None:
    try:
        return folder.stat().st_ino
    except FileNotFoundError:
        return None


def _read(folder: Path, place: torch.device) -> Exported:
    config = _config(folder)
    model_config = _model_config(folder, config)
    metrics = _metrics(folder)
    item_ids = _item_ids(folder, config)
    model = _model(folder, config, model_config).to(place).eval()
    return Exported(folder, config, metrics, item_ids, model)


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        if place.type not in ("cpu", "cuda"):
            raise RuntimeError("cpu and cuda can be used")
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error)
        raise ModelError(f"device must be one that torch has here, got {str(device)!r}: {reason}") from None
    return place


def _json(folder: Path, name: str) -> dict[str, Any]:
    path = _file(folder, name)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ModelError(f"{path} is not JSON: {error}; {EXPORT_AGAIN}") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path} must hold a JSON object, got {type(content).__name__}; {EXPORT_AGAIN}")
    return content


def _metrics(folder: Path) -> dict[str, Any]:
    metrics = _json(folder, METRICS_FILE)
    for part in ("valid", "test"):
        if not isinstance(metrics.get(part, {}), dict):
            raise ModelError(f"{folder / METRICS_FILE} must have values by name for {part}; {EXPORT_AGAIN}")
    return metrics


EXPORT_AGAIN = "export it again by going on with its study (seqsweep run STUDY)"


def _file(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise ModelError(f"a model's folder must hold {name}, and {folder} does not; {EXPORT_AGAIN}")
    return path


def _config(folder: Path) -> ExportedConfig:
    content = _json(folder, CONFIG_FILE)
    name = content.get("model")
    if name not in MODELS:
        raise ModelError(
            f"model in {folder / CONFIG_FILE} must be one of {', '.join(MODELS)}, got {name!r}: "
            "a newer seqsweep may know it, update"
        )
    try:
        return ExportedConfig(**content)
    except ValidationError as error:
        raise ModelError(
            f"{folder / CONFIG_FILE}: {describe_validation_error(error, 'key')}; {EXPORT_AGAIN}"
        ) from None


def _model_config(folder: Path, config: ExportedConfig) -> ModelConfig:
    try:
        return MODELS[config.model].Config(**config.config)
    except ValidationError as error:
        problems = describe_validation_error(error, "key")
        raise ModelError(
            f"config in {folder / CONFIG_FILE} does not fit {config.model}: {problems}; "
            "a newer seqsweep may know it, update"
        ) from None


def _item_ids(folder: Path, config: ExportedConfig) -> pa.Array[Any]:
    path = _file(folder, ITEM_IDS_FILE)
    try:
        table = pq.read_table(path, columns=["item_id", "raw_item_id"]).combine_chunks()
        number = table["item_id"].to_numpy()
        raw: pa.Array[Any] = table["raw_item_id"].combine_chunks()
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{path} is no table of item ids: {reason}; {EXPORT_AGAIN}") from None
    if len(number) != config.num_items or (number != np.arange(1, len(number) + 1)).any():
        raise ModelError(
            f"{path} must have the items 1 to {config.num_items} of {CONFIG_FILE} in order, got "
            f"{len(number)} rows that are not those; {EXPORT_AGAIN}"
        )
    if raw.null_count or len(raw.unique()) != len(raw):
        raise ModelError(f"{path} must have one raw id an item, got repeated or missing ones; {EXPORT_AGAIN}")
    return raw


def _model(folder: Path, config: ExportedConfig, model_config: ModelConfig) -> SequenceModel:
    path = _file(folder, WEIGHTS_FILE)
    try:
        weights = {name: torch.from_numpy(array) for name, array in load_weights(folder).items()}
    except (safetensors.SafetensorError, OSError, TypeError, KeyError) as error:
        raise ModelError(f"{path} is not a whole file of weights: {error}; {EXPORT_AGAIN}") from None
    model_class = MODELS[config.model]
    with torch.device("meta"):  # shapes without memory: config.json may ask for any
        wanted = model_class(model_config, config.num_items).state_dict()
    for name in sorted(wanted.keys() | weights.keys()):
        want, have = (
            "none" if tensors.get(name) is None else f"{tensors[name].dtype} {tuple(tensors[name].shape)}"
            for tensors in (wanted, weights)
        )
        if want != have:
            raise ModelError(
                f"weights in {path} must fit {config.model} as {CONFIG_FILE} has it: {name} must be {want}, "
                f"got {have}; {EXPORT_AGAIN}"
            )
        if not torch.isfinite(weights[name]).all():
            raise ModelError(f"weights in {path} must be finite, {name} is not; {EXPORT_AGAIN}")
    model = build_model(model_class, model_config, config.num_items, seed=0, device=torch.device("cpu"))
    model.load_state_dict(weights)
    return model
