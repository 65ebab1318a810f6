"""The best model of a study as a folder of plain files; no pickle in anything written or read here."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy

from seqsweep.results.files import sync

Weights = Mapping[str, npt.NDArray[np.generic]]

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
ITEM_IDS_FILE = "item_ids.parquet"
METRICS_FILE = "metrics.json"

BEST, STAGING, REPLACED = "best", ".best.staging", ".best.replaced"


def export_best(
    folder: Path,
    *,
    weights: Weights,
    config: Mapping[str, object],
    item_ids: pa.Table,
    metrics: Mapping[str, object],
    card: str,
) -> Path:
    """Write `best/` in the study's folder and return it.

    A reader who asks `find_best` finds the old model or the new one, whole, at any moment.
    """
    best, staging, replaced = folder / BEST, folder / STAGING, folder / REPLACED
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    # Without the "C" order a transposed view would be written in the order of its memory.
    arrays = {name: np.asarray(array, order="C") for name, array in weights.items()}
    safetensors.numpy.save_file(arrays, staging / WEIGHTS_FILE)
    (staging / CONFIG_FILE).write_text(_json(config), encoding="utf-8")
    pq.write_table(item_ids, staging / ITEM_IDS_FILE)
    (staging / METRICS_FILE).write_text(_json(metrics), encoding="utf-8")
    (staging / "README.md").write_text(card, encoding="utf-8")
    (staging / WEIGHTS_FILE).chmod(
        (staging / CONFIG_FILE).stat().st_mode
    )  # safetensors writes for its owner alone
    for path in (*staging.iterdir(), staging):
        sync(path)
    _swap_in(staging, best, replaced)
    return best


def _swap_in(staging: Path, best: Path, replaced: Path) -> None:
    if best.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        os.rename(best, replaced)
    os.rename(staging, best)
    sync(best.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def find_best(folder: Path) -> Path:
    """Where a study's model is: `best/`, but between two renames, where a kill may leave it, put aside."""
    best, replaced = folder / BEST, folder / REPLACED
    return replaced if not best.exists() and (replaced / CONFIG_FILE).exists() else best


def load_weights(folder: Path) -> dict[str, npt.NDArray[np.generic]]:
    return dict(safetensors.numpy.load_file(folder / WEIGHTS_FILE))


def _json(content: Mapping[str, object]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
