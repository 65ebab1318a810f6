"""TensorBoard's event files as an option, written by the driver: a folder a trial, its scalars by epoch."""

from __future__ import annotations

import os
import socket
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from seqsweep.results.schema import Hparam
from seqsweep.sweep.errors import ConfigError

FOLDER_NAME = "tensorboard"
SCALARS = ("loss", "objective", "lr", "seconds")
METRIC_PREFIX = "valid."
MAX_OPEN_FILES = 50
BUFFER_BYTES = 2**16  # an epoch is one write, so that a kill seldom cuts one


class TensorBoardWriter:
    """Writes below `<study folder>/tensorboard/<trial number>/`.

    A driver that goes on with a trial adds a file to those that are there, as TensorBoard expects after a
    restart: appending to one that was cut off would make the rest of it unreadable.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2  # type: ignore[import-untyped]
            from tensorboard.plugins.hparams.summary_v2 import hparams_pb  # type: ignore[import-untyped]
            from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
        except ImportError as error:
            raise ConfigError("--tensorboard needs an extra: pip install 'seqsweep[tensorboard]'") from error
        self._folder = folder / FOLDER_NAME
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._hparams_summary, self._record_writer = hparams_pb, RecordWriter
        self._open: OrderedDict[int, Any] = OrderedDict()  # by trial number, the one written last at the end
        self._num_files = 0

    def write(self, trial_number: int, hparams: Mapping[str, Hparam], report: Mapping[str, Any]) -> None:
        """An epoch's scalars; before the trial's first the hparams too."""
        records = self._open.get(trial_number) or self._new_file(trial_number, hparams)
        self._open.move_to_end(trial_number)
        values = [self._summary.Value(tag=tag, simple_value=value) for tag, value in _scalars(report)]
        self._add(records, step=int(report["epoch"]), summary=self._summary(value=values))
        records.flush()
        while len(self._open) > MAX_OPEN_FILES:
            self.end(next(iter(self._open)))

    def end(self, trial_number: int) -> None:
        """Close the trial's file; one that is written again gets a new one."""
        if trial_number in self._open:
            self._open.pop(trial_number).close()

    def close(self) -> None:
        for trial_number in list(self._open):
            self.end(trial_number)

    def _new_file(self, trial_number: int, hparams: Mapping[str, Hparam]) -> Any:
        folder = self._folder / str(trial_number)
        folder.mkdir(parents=True, exist_ok=True)
        has_hparams = any(path.stat().st_size for path in folder.iterdir())
        # TensorBoard reads a folder's files in the order of their names, and knows them by "tfevents".
        now, host = time.time(), socket.gethostname()
        name = f"events.out.tfevents.{now:017.6f}.{host}.{os.getpid()}.{self._num_files}"
        self._num_files += 1
        records = self._record_writer(open(folder / name, "xb", buffering=BUFFER_BYTES))  # noqa: SIM115
        self._open[trial_number] = records
        self._add(records, file_version="brain.Event:2")
        if not has_hparams:
            self._add(records, summary=self._hparams_summary(dict(hparams), start_time_secs=now))
        return records

    def _add(self, records: Any, **content: Any) -> None:
        records.write(self._event(wall_time=time.time(), **content).SerializeToString())


def _scalars(report: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """`valid.ndcg@10` becomes `valid/ndcg@10`: TensorBoard groups by what stands before the slash."""
    for key, value in report.items():
        if value is not None and key in SCALARS:
            yield key, value
        elif value is not None and key.startswith(METRIC_PREFIX):
            yield f"valid/{key.removeprefix(METRIC_PREFIX)}", value
