"""Train a trial again from the record of its study, without Ray, and compare epoch by epoch."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from optuna.trial import FrozenTrial

from seqsweep.data_pipeline.preparing.prepare import fingerprint_of, prepare
from seqsweep.data_pipeline.store import open_log
from seqsweep.results.schema import Hparam
from seqsweep.sweep.engine.device_name import device_and_workers, gpu_name, threads_of
from seqsweep.sweep.engine.hparams import typed_configs
from seqsweep.sweep.engine.opened_log import TrialData, open_data
from seqsweep.sweep.engine.state import EpochReport, build_model, new_state
from seqsweep.sweep.engine.training import train
from seqsweep.sweep.environment import environment
from seqsweep.sweep.errors import UserError
from seqsweep.sweep.seeds import trial_seed
from seqsweep.sweep.settings.study_config import StudyConfig
from seqsweep.sweep.study.attributes import trial_attributes
from seqsweep.sweep.study.optuna_study import rungs_of
from seqsweep.sweep.study.reader import StudyReader
from seqsweep.sweep.study.trial_records import STATES, Report, reports_in

Say = Callable[[str], None]

# What rounding comes to in the objective and the loss where something is not as recorded. Training makes much
# of the last bit: two threads instead of one move both by 2e-4 within 6 epochs of the demo log. Another seed
# moves them by 4e-3 to 1.5e-2.
ROUNDING = 1e-3


class ReproduceError(UserError, RuntimeError):
    """The trial can't be trained again as it was."""


@dataclass(frozen=True)
class Record:
    """What the study knows of the trial."""

    trial_number: int
    hparams: Mapping[str, Hparam]
    seed: int
    max_epochs: int
    rungs: tuple[int, ...]
    fingerprint: str
    reports: tuple[Report, ...]
    micro_batch_size: int | None
    num_whole: int  # epochs before its micro-batches
    environment: Mapping[str, Any]

    @classmethod
    def of(cls, study: StudyReader, folder: Path, trial_number: int) -> Self:
        trial = study.trial(trial_number)
        reports = reports_in(trial.user_attrs)
        if not reports:
            raise ReproduceError(
                f"trial {trial_number} ({STATES[trial.state]}) has no recorded epoch, so there is nothing to "
                "compare with: choose one that has"
            )
        attributes = trial_attributes(trial)
        micro_batch_size = attributes.get("micro_batch_size")
        return cls(
            trial_number=trial_number,
            hparams=attributes["hparams"],
            seed=trial_seed(study.attributes["seed"], trial_number),
            max_epochs=study.search.max_epochs,
            rungs=rungs_of(study.search, str(attributes["hparams"]["model"])),
            fingerprint=study.attributes["fingerprint"],
            reports=tuple(reports),
            micro_batch_size=micro_batch_size,
            num_whole=(
                0 if micro_batch_size is None else _num_epochs_before(trial.user_attrs, "micro_batch_size")
            ),
            environment=_recorded_environment(study, trial, folder),
        )

    @property
    def devices(self) -> list[str]:
        """In the order in which they were used."""
        return list(dict.fromkeys(str(report["device"]) for report in self.reports))


@dataclass(frozen=True)
class Row:
    """One epoch, as recorded and as it comes out now."""

    epoch: int
    recorded_objective: float
    objective: float
    recorded_loss: float
    loss: float

    @property
    def objective_difference(self) -> float:
        return self.objective - self.recorded_objective

    @property
    def loss_difference(self) -> float:
        return self.loss - self.recorded_loss

    @property
    def largest_difference(self) -> float:
        return max(abs(self.objective_difference), abs(self.loss_difference))


@dataclass(frozen=True)
class Reproduction:
    trial_number: int
    rows: tuple[Row, ...]
    num_recorded: int  # epochs; fewer rows: training ended early now
    changes: tuple[str, ...]  # of code, versions, machine and device, since the record

    @property
    def largest_difference(self) -> float:
        """Of an objective or a loss; infinite where epochs are missing."""
        if len(self.rows) < self.num_recorded:
            return float("inf")
        return max(row.largest_difference for row in self.rows)

    @property
    def is_equal(self) -> bool:
        """To the bit."""
        return self.largest_difference == 0

    @property
    def is_reproduced(self) -> bool:
        """Equal to the bit; where something is not as recorded, up to rounding."""
        return self.largest_difference <= (ROUNDING if self.changes else 0)


def reproduce(folder: Path, trial_number: int, say: Say) -> Reproduction:
    """Train the trial for as many epochs as are recorded, from the seed, hparams and threads it had.

    It needs no checkpoint and changes nothing in `folder`. A trial that ran on a GPU is trained on the CPU
    where there is none, and differs.

    Raises UserError for a trial without recorded epochs, and when the log is another or training diverges
    now; ConfigError for hparams that this version does not know; DataError when the log is gone.
    """
    with StudyReader.read(folder) as study:
        record = Record.of(study, folder, trial_number)
        config = StudyConfig.load(folder / "study.toml").with_recorded_defaults(
            study.attributes.get("identity")
        )
    device = _device(record.devices[0])
    data = _open(config, record, device, say)
    changes = tuple(_changes(record, device))
    for change in changes:
        say(f"not as recorded: {change}")
    say(f"{'epoch':>5}  {'objective':>12}  {'now':>12}  {'difference':>10}  {'loss':>12}  {'difference':>10}")
    rows = []
    for recorded, report in _train_again(config, record, data):
        row = Row(report.epoch, recorded["objective"], report.objective, recorded["loss"], report.loss)
        rows.append(row)
        say(
            f"{row.epoch:>5}  {row.recorded_objective:>12.8f}  {row.objective:>12.8f}  "
            f"{row.objective_difference:>10.2g}  {row.loss:>12.8f}  {row.loss_difference:>10.2g}"
        )
    outcome = Reproduction(trial_number, tuple(rows), len(record.reports), changes)
    say(_summary(outcome))
    return outcome


def _open(config: StudyConfig, record: Record, device: torch.device, say: Say) -> TrialData:
    fingerprint = fingerprint_of(config.data)
    if fingerprint != record.fingerprint:  # before another log is prepared for nothing
        raise ReproduceError(
            f"{config.data.path} is not the log that trial {record.trial_number} was trained on (fingerprint "
            f"{record.fingerprint[:12]}, got {fingerprint[:12]}): put back the log as it was"
        )
    log = open_log(prepare(config.data, config.cache.absolute(), say))
    return open_data(log, config.protocol, device)


def _train_again(
    config: StudyConfig, record: Record, data: TrialData
) -> Iterator[tuple[Report, EpochReport]]:
    """Each recorded epoch, and what it comes to now; fewer where training ends earlier."""
    device = data.sequences.device
    model_class, model_config, train_config = typed_configs(record.hparams)
    model = build_model(model_class, model_config, data.log.num_items, seed=record.seed, device=device)
    state = new_state(model, train_config)
    whole, parted = record.reports[: record.num_whole], record.reports[record.num_whole :]
    num_threads = torch.get_num_threads()
    try:
        for reports, micro_batch_size in ((whole, None), (parted, record.micro_batch_size)):
            training = train(
                state,
                train_config,
                config.training,
                data.sequences,
                data.valid_ranker,
                max_epochs=record.max_epochs,
                seed=record.seed,
                rungs=record.rungs,
                micro_batch_size=micro_batch_size,
            )
            for recorded in reports:
                torch.set_num_threads(threads_of(recorded["device"]) or num_threads)
                report = next(training, None)
                if report is None:
                    return
                yield recorded, report
    except FloatingPointError as error:
        raise ReproduceError(
            f"trial {record.trial_number} has {len(record.reports)} recorded epochs, but now: {error}"
        ) from error
    finally:
        torch.set_num_threads(num_threads)


def _device(recorded: str) -> torch.device:
    was_gpu = threads_of(recorded) is None
    return torch.device("cuda", 0) if was_gpu and torch.cuda.is_available() else torch.device("cpu")


def _num_epochs_before(attributes: Mapping[str, Any], key: str) -> int:
    """Recorded before `key` was: attributes lie in the order in which they were set."""
    before = list(attributes)[: list(attributes).index(key)]
    return len(reports_in({name: attributes[name] for name in before}))


def _recorded_environment(study: StudyReader, trial: FrozenTrial, folder: Path) -> Mapping[str, Any]:
    """Of the trial's last start; else, from before each trial kept its own, of the study's last."""
    if "environment" in (attributes := trial_attributes(trial)):
        index = attributes["environment"]
        recorded: Mapping[str, Any] = study.attributes["environments"][index]
        return recorded
    path = folder / "environment.json"
    facts: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return facts


def _changes(record: Record, device: torch.device) -> Iterator[str]:
    """What is another now than it was; one text each."""
    for node in dict.fromkeys(str(report["node"]) for report in record.reports):
        if node != platform.node():
            yield f"machine {node}, now {platform.node()}"
    for name, num_workers in map(device_and_workers, record.devices):
        if num_workers > 1:
            yield f"trained by {num_workers} workers, now by one"
        is_same = device.type == "cpu" if threads_of(name) else name == gpu_name(device)
        if not is_same:
            yield f"device {name}, now {gpu_name(device) or 'a CPU'}"
    before, now = record.environment, environment()
    old, new = before.get("versions", {}), now["versions"]
    for package in sorted(old.keys() | new.keys()):
        if old and old.get(package) != new.get(package):
            yield f"{package} {old.get(package, 'absent')}, now {new.get(package, 'absent')}"
    for key in sorted((before.keys() & now.keys()) - {"versions"}):
        if before[key] != now[key]:
            yield f"{key} {before[key]}, now {now[key]}"
    if before.get("uncommitted_changes") and now["uncommitted_changes"]:
        yield "perhaps the code: it had uncommitted changes then, and has some now"


def _summary(outcome: Reproduction) -> str:
    name, num_rows = f"trial {outcome.trial_number}", len(outcome.rows)
    if num_rows < outcome.num_recorded:
        return f"{name}: training ends after {num_rows} of {outcome.num_recorded} recorded epochs"
    if outcome.is_equal:
        return f"{name}: {num_rows} epochs, equal to the bit"
    if outcome.is_reproduced:
        judgement = f"no more than {ROUNDING:g}, which rounding makes where something is not as recorded"
    elif outcome.changes:
        judgement = f"more than the {ROUNDING:g} that rounding makes"
    else:
        judgement = "though nothing is known to be other than recorded"
    return f"{name}: {num_rows} epochs, largest difference {outcome.largest_difference:.2g}, {judgement}"
