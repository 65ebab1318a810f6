"""Studies side by side: one row a study."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from seqsweep.results.leaderboard import Place, load_finalists, load_leaderboard, names_a_file

STATES = ("complete", "pruned", "failed", "running", "queued")
MUST_AGREE = ("fingerprint", "protocol", "metric")  # or the values say nothing about each other
INTEGERS = ("best_trial", "num_parameters", "seeds", "trials", *STATES, "finalist_trainings")
TEXTS = ("study", "model", "residual", "loss", *MUST_AGREE, "created", "path")
OF_THE_BEST = ("model", "residual", "loss", "objective", "num_parameters", "milliseconds_per_user")


def compare_studies(paths: Iterable[Place]) -> pd.DataFrame:
    """One row a study, in the order given: its best trial, what it cost, and whether it can be compared.

    Each path is a study's folder, its leaderboard.parquet or a URI. `comparable`: same data, protocol and
    objective as the first. The columns are explained in docs/leaderboard.md.
    """
    rows = [_row(path) for path in paths]
    if not rows:
        raise ValueError("at least one study must be named, got none")
    for row in rows:
        row["comparable"] = all(row[name] == rows[0][name] for name in MUST_AGREE)
    last = ("comparable", *MUST_AGREE, "created", "path")
    columns = dict.fromkeys(name for row in rows for name in row if name not in last)
    frame = pd.DataFrame(rows, columns=[*columns, *last])
    return frame.astype({name: _dtype(name) for name in frame.columns})


def _dtype(name: str) -> str:
    """By name alone, so that it does not depend on what the values happen to be."""
    if name == "comparable":
        return "boolean"
    if name in INTEGERS:
        return "Int64"
    return "string" if name in TEXTS else "Float64"


def _row(path: Place) -> dict[str, Any]:
    frame = load_leaderboard(path)
    trials = frame[frame["trial"].notna()]
    finalists = _finalists(path)
    ranked = trials[trials["rank"] == 1]
    best = ranked.iloc[0].to_dict() if len(ranked) else dict.fromkeys(frame.columns, pd.NA)
    metrics = [name for name in frame.columns if name.startswith(("valid.", "test."))]
    baselines = frame.loc[frame["state"] == "baseline", "objective"]
    return {
        "study": frame.attrs["study"],
        "best_trial": best["trial"],
        **{name: best[name] for name in (*OF_THE_BEST, *metrics)},
        "seeds": best.get("seeds", pd.NA),
        "baseline": baselines.max(),
        "trials": len(trials),
        **{state: int((trials["state"] == state).sum()) for state in STATES},
        "finalist_trainings": 0 if finalists is None else len(finalists),
        "seconds": _total("seconds", trials, finalists),
        "device_hours": _total("device_seconds", trials, finalists) / 3600,
        "metric": frame.attrs["objective"],
        **{name: frame.attrs[name] for name in ("fingerprint", "protocol", "created")},
        "path": str(path),
    }


def _finalists(path: Place) -> pd.DataFrame | None:
    """None where none was trained, or where a leaderboard alone is there."""
    if names_a_file(path):
        return None
    try:
        return load_finalists(path)
    except FileNotFoundError:
        return None


def _total(name: str, *tables: pd.DataFrame | None) -> float:
    return sum((float(table[name].sum()) for table in tables if table is not None), 0.0)
