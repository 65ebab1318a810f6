"""Every study with finalists ends, whatever values come, whatever fails and whenever it is killed."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import optuna
from hypothesis import HealthCheck, given, settings

from seqsweep.results.schema import Hparam
from seqsweep.sweep.settings.budgets import FinalistConfig
from seqsweep.sweep.settings.search import SearchConfig
from seqsweep.sweep.study.finalists import winner
from seqsweep.sweep.study.study import Study

NUM_TRIALS = 4
KILL_EVERY = 7  # steps, where it is killed at all


@dataclass(frozen=True)
class Races:
    """What a study meets, drawn from a seed."""

    config: FinalistConfig
    seed: int
    spread: float  # of trainings around their finalist's value
    concurrency: int
    failing: float  # share of trainings
    is_killed: bool

    def value(self, finalist_of: int, seed_index: int) -> float:
        generator = np.random.default_rng((self.seed, finalist_of, seed_index))
        return float(np.round(0.3 + 0.02 * finalist_of + generator.normal(0, self.spread), 3))

    def fails(self, finalist_of: int, seed_index: int) -> bool:
        generator = np.random.default_rng((self.seed, finalist_of, seed_index, 1))
        return bool(generator.random() < self.failing)


races = st.builds(
    Races,
    config=st.builds(FinalistConfig, count=st.integers(0, 5), seeds=st.integers(1, 4)),
    seed=st.integers(0, 2**20),
    spread=st.sampled_from([0.0, 0.01, 0.05, 0.2]),
    concurrency=st.integers(1, 4),
    failing=st.sampled_from([0.0, 0.0, 0.3]),
    is_killed=st.booleans(),
)


def space(trial: optuna.Trial) -> dict[str, Hparam]:
    return {"model": "a", "x": trial.suggest_float("x", 0, 1)}


def open_study(folder: Path, drawn: Races) -> Study:
    search = SearchConfig(trials=NUM_TRIALS, pruner="none", sampler="random")
    return Study.open(folder, name="s", seed=1, search=search, space=space, finalists=drawn.config)


def step(study: Study, drawn: Races, generator: np.random.Generator) -> None:
    """One trial that runs comes an epoch further; the second is its last."""
    live = study.live_trials()[generator.integers(len(study.live))]
    seed_index = study.trial(live.number).user_attrs.get("seed_index", 0)
    of = live.number if live.finalist_of is None else live.finalist_of
    value = drawn.value(of, seed_index + (live.finalist_of is not None))
    epoch = live.last_epoch + 1
    is_last = epoch == 2
    if live.finalist_of is not None and drawn.fails(of, seed_index):
        study.failed(live.number, "diverged", "loss is nan", "")
        return
    report = {"epoch": epoch, "objective": value if is_last else 0.9 * value, "last": is_last}
    if not study.report(live.number, report) and is_last:
        study.complete(live.number)


def run_to_the_end(folder: Path, drawn: Races) -> Study:
    generator = np.random.default_rng(drawn.seed)
    study = open_study(folder, drawn)
    # Two epochs each; one more a training that was released, once a change of the race at most.
    for number in range(10 * (NUM_TRIALS + drawn.config.count * drawn.config.seeds)):
        while len(study.live) < drawn.concurrency and study.ask() is not None:
            pass
        if not study.live:
            assert not study.has_more
            return study
        if drawn.is_killed and number % KILL_EVERY == KILL_EVERY - 1:
            study.close()
            study = open_study(folder, drawn)
        else:
            step(study, drawn, generator)
    raise AssertionError("the study does not end")


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(races)
def test_every_study_ends_and_no_skipped_training_could_have_won(drawn: Races) -> None:
    with tempfile.TemporaryDirectory() as folder, run_to_the_end(Path(folder), drawn) as study:
        trials, runs = study.records(), study.finalist_runs()
        assert {run.record.state for run in runs} <= {"complete", "pruned", "failed"}
        pairs = [(run.finalist_of, run.seed_index) for run in runs]
        chosen = sorted(trials, key=lambda record: -(record.objective or 0))[: drawn.config.count]
        wanted = {(record.trial, index) for record in chosen for index in range(drawn.config.seeds)}
        assert len(set(pairs)) == len(pairs) and set(pairs) <= wanted
        best = winner(trials, runs)
        assert best is not None
        complete: dict[int, list[float]] = {}
        for run in runs:
            if run.record.state == "complete":
                assert run.record.objective is not None
                complete.setdefault(run.finalist_of, []).append(run.record.objective)
        if not complete:
            return
        seen = [r.objective or 0.0 for r in [*trials, *(run.record for run in runs)]]
        won = next(run.finalist_of for run in runs if run.record.trial == best.trial)
        failed = {(run.finalist_of, run.seed_index) for run in runs if run.record.state == "failed"}
        for record in chosen:
            assert record.trial is not None
            values = complete.get(record.trial, [])
            num_failed = sum(number == record.trial for number, _ in failed)
            num_skipped = drawn.config.seeds - len(values) - num_failed
            most = [*values, *num_skipped * [max(seen)]]  # each skipped one as good as the best there was
            if record.trial != won and most:
                assert np.mean(most) <= np.mean(complete[won]) + 1e-12
        skipped = [pair for pair in wanted if pair not in pairs and pair[0] == won]
        assert not skipped, "the winner has all its trainings"
        again = open_study_again(Path(folder), drawn, study)
        assert again == (trials, runs)


def open_study_again(folder: Path, drawn: Races, study: Study) -> tuple[object, object]:
    """The same command once more changes nothing."""
    study.close()
    with open_study(folder, drawn) as opened:
        assert not opened.has_more and opened.ask() is None
        return opened.records(), opened.finalist_runs()
