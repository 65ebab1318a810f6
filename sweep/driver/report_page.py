"""The report of a study: what its folder holds, handed to results.report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from seqsweep.data_pipeline.preparing.manifest import histogram, length_ranges
from seqsweep.data_pipeline.schema import Manifest
from seqsweep.data_pipeline.store import read_item_ids
from seqsweep.results.metrics import METRICS
from seqsweep.results.report import write_report
from seqsweep.results.report.content import StudyFolder
from seqsweep.sweep.settings.search import OBJECTIVE_DIRECTIONS
from seqsweep.sweep.storage.study_folder import relative
from seqsweep.sweep.study.optuna_study import rungs_of
from seqsweep.sweep.study.reader import StudyReader

SECONDS_BETWEEN = 60.0
SHARE_OF_TIME = 0.02  # at most so much of the driver's time goes into reports
HEAD = 0.01  # of the items


class ReportWriter:
    """report.html of a study that runs: now and then, for a page is megabytes."""

    def __init__(self, study: StudyReader, folder: Path, say: Callable[[str], None]) -> None:
        self._study = study
        self._folder = folder
        self._say = say
        self._not_before = 0.0

    def step(self) -> None:
        if time.monotonic() >= self._not_before:
            self.write()

    def write(self) -> None:
        """A study is worth more than its page: what goes wrong with that is said, and the study goes on."""
        began = time.monotonic()
        try:
            write_report(read_study_folder(self._study, self._folder))
        except Exception as error:
            self._say(f"warning: report.html could not be written ({type(error).__name__}: {error})")
        took = time.monotonic() - began
        self._not_before = time.monotonic() + max(SECONDS_BETWEEN, took / SHARE_OF_TIME)


def read_study_folder(study: StudyReader, folder: Path) -> StudyFolder:
    attributes = study.attributes
    families: list[str] = attributes.get("families", [])
    environment = folder / "environment.json"
    return StudyFolder(
        folder=folder,
        path=str(relative(folder)) if folder.is_absolute() else str(folder),
        objectives=_objectives(study),
        num_trials=study.num_trials,
        rungs={name: rungs_of(study.search, name) for name in families if study.search.pruner == "asha"},
        trials=study.searched(),
        data=attributes.get("data"),
        split=attributes.get("split", {}),
        environment=json.loads(environment.read_text(encoding="utf-8")) if environment.is_file() else {},
        seed=attributes.get("seed"),
    )


def _objectives(study: StudyReader) -> dict[str, str]:
    """Column of the leaderboard -> direction; the first is the one that trials are ranked by."""
    identity = study.attributes.get("identity", {})
    names = [identity.get("training", {}).get("objective", "ndcg@10"), *study.search.objectives]
    return {f"valid.{name}" if name in METRICS else name: OBJECTIVE_DIRECTIONS[name] for name in names}


def data_facts(manifest: Manifest, prepared: Path) -> dict[str, Any]:
    """What a reader of the results should know of the log; kept with the study, which may outlive the log."""
    count_V = np.sort(read_item_ids(prepared)["count"].to_numpy())[::-1]
    return {
        **manifest.model_dump(
            mode="json",
            include={
                "origin",
                "counts",
                "num_users",
                "num_items",
                "num_interactions",
                "has_timestamps",
                "time_range",
            },
        ),
        "lengths": length_ranges(manifest.lengths),
        "popularity": length_ranges(histogram(count_V)),
        "tie_share": manifest.tie_share,
        "repeat_share": manifest.repeat_share,
        "head_share": float(count_V[: max(1, round(HEAD * len(count_V)))].sum() / count_V.sum()),
    }
