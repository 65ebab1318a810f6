import numpy as np
import pytest

from seqsweep.results.metrics import METRICS, Ranks
from seqsweep.results.schema import State, TrialRecord
from seqsweep.sweep.settings.budgets import FinalistConfig
from seqsweep.sweep.study import finalists
from seqsweep.sweep.study.finalists import FinalistRun, Race, spread_columns, spreads, winner


def trial(number: int, objective: float | None, state: State = "complete") -> TrialRecord:
    return TrialRecord(trial=number, state=state, objective=objective)


def run(
    finalist_of: int, seed_index: int, number: int, objective: float, state: State = "complete"
) -> FinalistRun:
    return FinalistRun(finalist_of, seed_index, trial(number, objective, state))


TRIALS = [
    trial(0, 0.1),
    trial(1, 0.4, "pruned"),
    trial(2, 0.9, "failed"),
    trial(3, 0.3),
    trial(4, 0.4),
    trial(5, None, "running"),
]


def race(runs: list[FinalistRun], trials: list[TrialRecord] = TRIALS, **config: int) -> Race:
    return Race(trials, runs, FinalistConfig(**config))


def test_the_best_are_trained_again_seed_by_seed() -> None:
    """Pruned trials too, failed ones never; of equal ones the earlier first."""
    assert race([], count=2, seeds=2).to_train() == [(1, 0), (4, 0), (1, 1), (4, 1)]
    there = [run(1, 0, 6, 0.35), run(4, 0, 7, 0.38, "running")]
    assert race(there, count=3, seeds=2).to_train() == [(3, 0), (1, 1), (4, 1), (3, 1)]
    assert race([], count=0).to_train() == []


def test_the_best_mean_wins_not_the_best_training() -> None:
    runs = [run(1, 0, 6, 0.50), run(4, 0, 7, 0.38), run(1, 1, 8, 0.10), run(4, 1, 9, 0.40)]
    best = winner(TRIALS, runs)
    assert best is not None and best.trial == 9  # mean .39 against .30; its better training is exported


def test_without_finalists_the_best_trial_wins() -> None:
    best = winner(TRIALS, [])
    assert best is not None and best.trial == 1
    assert winner([trial(0, None, "failed")], []) is None
    failed = winner(TRIALS, [run(1, 0, 6, 0.5, "failed")])
    assert failed is not None and failed.trial == 1


def test_one_that_was_stopped_does_not_win() -> None:
    runs = [run(1, 0, 6, 0.5), run(1, 1, 8, 0.2, "pruned"), run(4, 0, 7, 0.4)]
    best = winner(TRIALS, runs)
    assert best is not None and best.trial == 7


def test_a_training_that_was_stopped_from_outside_does_not_cost_its_finalist_the_others() -> None:
    stopped = TrialRecord(trial=8, state="pruned", objective=0.2, stopped_because="stopped_by_user")
    best = winner(TRIALS, [run(1, 0, 6, 0.5), FinalistRun(1, 1, stopped), run(4, 0, 7, 0.4)])
    assert best is not None and best.trial == 6


def test_a_race_is_lost_when_the_most_is_below_anothers_least() -> None:
    trials = [trial(1, 0.50), trial(2, 0.45), trial(3, 0.44)]
    runs: list[FinalistRun] = []
    assert not race(runs, trials).is_lost(1)
    runs += [run(1, 0, 4, 0.40), run(2, 0, 5, 0.20)]
    # 2 may still reach (.2 + .5 + .5) / 3 = .4; 1 is sure of (.4 + .2 + .2) / 3 = .267 only.
    assert not race(runs, trials).is_lost(2)
    runs += [run(1, 1, 6, 0.48), run(1, 2, 7, 0.47)]  # mean .45
    now = race(runs, trials)
    assert now.is_lost(2) and not now.is_lost(3)  # three times .50 would do
    assert now.to_train() == [(3, 0), (3, 1), (3, 2)] and str(now) == "4 of 7 trainings, 2 not needed"


def test_a_better_training_raises_what_is_thought_possible() -> None:
    trials = [trial(1, 0.3), trial(2, 0.2), trial(3, 0.1)]
    runs = [run(1, 0, 4, 0.4), run(1, 1, 5, 0.4), run(2, 0, 6, 0.1), run(2, 1, 7, 0.1, "running")]
    assert race(runs, trials, seeds=2).is_lost(2)  # (.1 + .4) / 2 = .25
    runs.append(run(3, 0, 8, 0.8, "running"))  # what a training has reached on its way counts already
    assert not race(runs, trials, seeds=2).is_lost(2)  # (.1 + .8) / 2 = .45


def test_a_failed_training_is_none_that_is_left() -> None:
    trials = [trial(1, 0.5), trial(2, 0.4)]
    runs = [run(1, 0, 3, 0.4), run(1, 1, 4, 0.1, "failed"), run(2, 0, 5, 0.35)]
    assert not race(runs, trials, count=2, seeds=2).is_lost(2)  # (.35 + .5) / 2 is above .4
    runs[2] = run(2, 0, 5, 0.25)
    assert race(runs, trials, count=2, seeds=2).is_lost(2)  # .375 is below .4, which is sure


def ranks(better: list[int]) -> Ranks:
    return Ranks(np.array(better), np.ones(len(better), np.int64))


def test_spread_over_trainings() -> None:
    first, second = ranks([0, 1, 5, 30]), ranks([0, 0, 0, 30])
    spread = spreads([first, second], seed=0)["hr@1"]
    assert spread.mean == (1 / 4 + 3 / 4) / 2
    assert spread.std == pytest.approx(np.std([1 / 4, 3 / 4], ddof=1))
    assert 0 <= spread.low < spread.mean < spread.high <= 1
    assert spreads([first], seed=0)["hr@1"].std is None
    same = spreads([ranks([0, 0]), ranks([0, 0])], seed=0)["mrr"]
    assert (same.mean, same.low, same.high) == (1, 1, 1)


@pytest.mark.parametrize("max_drawn_users", [0, 10**9], ids=["normal", "drawn"])
def test_the_interval_covers_what_users_and_seeds_vary(
    max_drawn_users: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one training the interval is that of a mean of users: 1.96 standard errors to either side."""
    monkeypatch.setattr(finalists, "MAX_DRAWN_USERS", max_drawn_users)
    generator = np.random.default_rng(1)
    one = Ranks(generator.integers(0, 30, 3000), np.ones(3000, np.int64))
    spread = spreads([one], seed=0)["ndcg@10"]
    error = METRICS["ndcg@10"](one).std() / np.sqrt(3000)
    assert (spread.high - spread.low) / 2 == pytest.approx(1.96 * error, rel=0.1)
    # Three trainings that differ much: the interval is wider than the users alone make it.
    better = [Ranks(generator.integers(0, high, 3000), np.ones(3000, np.int64)) for high in (10, 30, 90)]
    wide = spreads(better, seed=0)["ndcg@10"]
    assert wide.high - wide.low > 4 * error


def test_columns_of_the_leaderboard() -> None:
    spread = spreads([ranks([0, 1])], seed=0)
    columns = spread_columns(spread, spread)
    assert list(columns)[:4] == [f"valid.ndcg@1.{field}" for field in ("mean", "std", "low", "high")]
    assert columns["test.hr@1.mean"] == 0.5 and len(columns) == 2 * 4 * len(METRICS)
