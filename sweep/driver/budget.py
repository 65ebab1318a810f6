"""When to stop although trials are left. What runs then stays resumable: the same command goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from seqsweep.sweep.settings.budgets import BudgetConfig
from seqsweep.sweep.study.study import Study

SECONDS_BETWEEN = 2.0
SECONDS_BETWEEN_DISK = 30.0  # thousands of checkpoints on a network drive are slow to add up


class Budget:
    """Stops the study, or a trial of it, when something is used up."""

    def __init__(
        self, config: BudgetConfig, folder: Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self._folder = folder
        self._clock = clock
        self._started_at = clock()
        self._checked_at = self._disk_checked_at = -float("inf")

    def step(self, study: Study) -> None:
        """Called all the time."""
        now = self._clock()
        if now - self._checked_at < SECONDS_BETWEEN:
            return
        self._checked_at = now
        self._stop_long_trials(study)
        reason = self._used_up(study, now)
        if reason is not None:
            study.stop(reason, by_budget=True)

    def _stop_long_trials(self, study: Study) -> None:
        if self._config.max_trial_minutes is not None:
            for live in study.live_trials():
                if live.seconds > 60 * self._config.max_trial_minutes:
                    study.pruned(live.number, "time_limit")

    def _used_up(self, study: Study, now: float) -> str | None:
        config = self._config
        if config.max_hours is not None and now - self._started_at > 3600 * config.max_hours:
            return f"max_hours={config.max_hours:g} are over"
        if config.max_device_hours is not None and study.device_seconds > 3600 * config.max_device_hours:
            return f"max_device_hours={config.max_device_hours:g} are used"
        if config.max_disk_gb is not None and now - self._disk_checked_at > SECONDS_BETWEEN_DISK:
            self._disk_checked_at = now
            used_gb = folder_bytes(self._folder) / 1e9
            if used_gb > config.max_disk_gb:
                return f"max_disk_gb={config.max_disk_gb:g} is used: {self._folder} holds {used_gb:.2f} GB"
        return None


def folder_bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # renamed or removed while we looked
            continue
    return total
