"""From what the study keeps of a trial to the rows of the leaderboard.

A report is one flat dict an epoch: `epoch`, `objective`, and what else the trial has to say. The tables
know `loss`, `lr`, `seconds`, `eval_seconds`, `device_seconds`, `peak_memory_bytes`,
`milliseconds_per_user`, `num_parameters`, `node`, `device`, `checkpoint`, `valid.<metric>` and
`test.<metric>`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from seqsweep.results.schema import EpochRecord, State, TrialRecord
from seqsweep.sweep.study.attributes import ErrorRecord, trial_attributes

Report = Mapping[str, Any]

STATES: dict[TrialState, State] = {
    TrialState.WAITING: "queued",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}

_EPOCH_PREFIX = "epoch."


def epoch_attribute(epoch: int) -> str:
    """The name of the user attribute that keeps an epoch's report."""
    return f"{_EPOCH_PREFIX}{epoch}"


def reports_in(attributes: Mapping[str, Any]) -> list[Report]:
    """One an epoch, in order."""
    reports = [value for key, value in attributes.items() if key.startswith(_EPOCH_PREFIX)]
    return sorted(reports, key=lambda report: int(report["epoch"]))


def best_report(reports: Sequence[Report]) -> Report:
    """The epoch with the largest objective, of equal ones the first; {} if there is none."""
    return max(reports, key=lambda report: (report["objective"], -report["epoch"]), default={})


def objective_values(reports: Sequence[Report], more: Sequence[str]) -> list[float]:
    """The objective at its best epoch, then the further objectives as they are there.

    Raises ValueError for one that was not reported.
    """
    best = best_report(reports)
    values = {
        **best,
        **_metrics(best, "valid."),
        "device_seconds": _sum(reports, "device_seconds"),
        "peak_memory_bytes": max(_values(reports, "peak_memory_bytes"), default=None),
    }
    missing = [name for name in more if values.get(name) is None]
    if missing:
        raise ValueError(f"objectives must be reported, got none for {', '.join(missing)}")
    return [float(values[name]) for name in ("objective", *more)]


def trial_record(trial: FrozenTrial) -> TrialRecord:
    attributes = trial_attributes(trial)
    queued: dict[str, Any] = trial.system_attrs.get("fixed_params", {})
    hparams: Mapping[str, Any] = attributes.get("hparams", queued)
    reports = reports_in(trial.user_attrs)
    best = best_report(reports)
    last = reports[-1] if reports else {}
    return TrialRecord(
        trial=trial.number,
        state=STATES[trial.state],
        objective=best.get("objective"),
        model=hparams.get("model"),
        residual=hparams.get("residual"),
        loss=hparams.get("loss"),
        hparams=dict(hparams),
        valid=_metrics(best, "valid."),
        test=_metrics(last, "test."),
        best_epoch=best.get("epoch"),
        epochs=last.get("epoch"),
        num_parameters=last.get("num_parameters"),
        seconds=_sum(reports, "seconds"),
        device_seconds=_sum(reports, "device_seconds"),
        eval_seconds=_sum(reports, "eval_seconds"),
        peak_memory_bytes=max(_values(reports, "peak_memory_bytes"), default=None),
        milliseconds_per_user=last.get("milliseconds_per_user"),
        started_at=_utc(trial.datetime_start),
        ended_at=_utc(trial.datetime_complete),
        node=last.get("node"),
        device=last.get("device"),
        attempts=attributes.get("attempts"),
        retry_of=attributes.get("retry_of"),
        stopped_because=attributes.get("stopped_because"),
        error=_error(attributes.get("error")),
        checkpoint=last.get("checkpoint"),
    )


def epoch_records(trial: FrozenTrial) -> list[EpochRecord]:
    return [
        EpochRecord(
            trial=trial.number,
            epoch=report["epoch"],
            loss=report.get("loss"),
            objective=report["objective"],
            valid=_metrics(report, "valid."),
            lr=report.get("lr"),
            seconds=report.get("seconds"),
            eval_seconds=report.get("eval_seconds"),
        )
        for report in reports_in(trial.user_attrs)
    ]


def _metrics(report: Report, prefix: str) -> dict[str, float]:
    return {key.removeprefix(prefix): value for key, value in report.items() if key.startswith(prefix)}


def _values(reports: Iterable[Report], key: str) -> list[Any]:
    return [report[key] for report in reports if report.get(key) is not None]


def _sum(reports: Iterable[Report], key: str) -> float | None:
    values = _values(reports, key)
    return float(sum(values)) if values else None


def _error(error: ErrorRecord | None) -> str | None:
    if error is None:
        return None
    first_line, _, _ = error["message"].partition("\n")
    return f"{error['class']}: {first_line}"


def _utc(time: datetime | None) -> datetime | None:
    return None if time is None else time.astimezone(UTC)  # Optuna's is local time without a zone
