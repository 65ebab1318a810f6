import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.pruners import BasePruner, MedianPruner, NopPruner, PatientPruner
from optuna.trial import TrialState, create_trial

from sweep.pruning import RungTable, family_view
from sweep.search import suggest_grace

# Which of 6 trials reports next, how many epochs it trained, and its objective.
REPORTS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(1, 3), st.integers(0, 9).map(float)), min_size=1, max_size=80
)


def brute_force_prunes(
    history: list[tuple[int, int, float]], trial: int, last_epoch: int, epoch: int, eta: int, rungs: list[int]
) -> bool:
    """By the definition, from all that was ever reported in the family, the newest report included."""
    for rung in rungs:
        if not last_epoch < rung <= epoch:
            continue
        entered: dict[int, float] = {}
        best: dict[int, float] = {}
        for number, at_epoch, objective in history:
            best[number] = max(objective, best.get(number, objective))
            if at_epoch >= rung:
                entered.setdefault(number, best[number])
        num_better = sum(value > entered[trial] for value in entered.values())
        num_that_go_on = len(entered) // eta
        if num_that_go_on > 0 and num_better >= num_that_go_on:
            return True
    return False


@given(REPORTS, st.integers(1, 4), st.integers(2, 4))
def test_rungs_equal_the_definition(
    reports: list[tuple[int, int, float]], grace_epochs: int, eta: int
) -> None:
    table = RungTable(grace_epochs, eta, max_epochs=30)
    histories: dict[str, list[tuple[int, int, float]]] = {"even": [], "odd": []}
    last_epochs = dict.fromkeys(range(6), 0)
    stopped: set[int] = set()
    for trial, num_epochs, objective in reports:
        if trial in stopped:
            continue
        family = "odd" if trial % 2 else "even"
        last_epoch, epoch = last_epochs[trial], last_epochs[trial] + num_epochs
        histories[family].append((trial, epoch, objective))
        best = max(value for number, _, value in histories[family] if number == trial)
        expected = brute_force_prunes(histories[family], trial, last_epoch, epoch, eta, table.rungs(family))
        assert table.report(family, last_epoch, epoch, best) == expected
        last_epochs[trial] = epoch
        if expected:
            stopped.add(trial)


@given(
    st.lists(st.dictionaries(st.integers(1, 12), st.integers(0, 9).map(float)), min_size=1, max_size=12),
    st.integers(0, 9).map(float),
)
def test_a_table_filled_from_ended_trials_judges_as_the_one_that_saw_them_run(
    trials: list[dict[int, float]], value: float
) -> None:
    seen, filled = RungTable(2, 2, 20), RungTable(2, 2, 20)
    for epoch in range(1, 13):  # side by side, an epoch at a time
        for trial in trials:
            if epoch in trial:
                last_epoch = max((e for e in trial if e < epoch), default=0)
                seen.report("a", last_epoch, epoch, max(trial[e] for e in trial if e <= epoch))
    for trial in reversed(trials):  # one after the other
        filled.add_all("a", trial)
    for rung in (2, 4, 8):
        assert seen.report("a", rung - 1, rung, value) == filled.report("a", rung - 1, rung, value)


def test_rungs_lie_between_grace_and_the_end() -> None:
    assert RungTable(grace_epochs=3, reduction_factor=3, max_epochs=100).rungs("sasrec") == [3, 9, 27, 81]
    # 81 is the end, where a trial ends by itself
    assert RungTable(grace_epochs=3, reduction_factor=3, max_epochs=81).rungs("sasrec") == [3, 9, 27]
    assert RungTable(grace_epochs=5, reduction_factor=2, max_epochs=5).rungs("sasrec") == []


@pytest.mark.parametrize(
    ("num_users", "max_epochs", "expected"),
    [
        (943, 100, 11),  # ML-100K: 34 epochs would be 250 steps, a ninth of 100 is 11
        (6040, 100, 6),  # ML-1M: 47.2 steps an epoch
        (31013, 100, 3),  # Games: 2 epochs are 484 steps, and 3 the least
        (943, 9, 3),
    ],
)
def test_the_first_rung_has_some_steps_behind_it(num_users: int, max_epochs: int, expected: int) -> None:
    assert suggest_grace(num_users, max_epochs) == expected


def test_a_model_that_starts_slowly_is_judged_later() -> None:
    table = RungTable(grace_epochs=3, reduction_factor=3, max_epochs=100, grace_factors={"bert4rec": 3})
    assert table.rungs("bert4rec") == [9, 27, 81]
    assert table.rungs("sasrec") == [3, 9, 27, 81]


def test_a_third_goes_on() -> None:
    table = RungTable(grace_epochs=1, reduction_factor=3, max_epochs=10)
    values = [0.5, 0.1, 0.2, 0.5, 0.4, 0.6]
    #          1st  2nd  of 3 the best: no; of 4 a tie: yes; of 5 one: no; of 6 two: yes
    assert [table.report("a", 0, 1, value) for value in values] == [False, False, True, False, True, False]


def test_families_are_strangers() -> None:
    table = RungTable(grace_epochs=1, reduction_factor=2, max_epochs=10)
    for value in (0.7, 0.8, 0.9):
        table.report("good", 0, 1, value)
    assert not table.report("poor", 0, 1, 0.1)
    assert table.report("good", 0, 1, 0.1)


def family_trial(family: str, values: dict[int, float], state: TrialState) -> optuna.trial.FrozenTrial:
    return create_trial(
        state=state,
        value=max(values.values()) if state == TrialState.COMPLETE else None,
        intermediate_values=values,
        user_attrs={"family": family},
    )


@pytest.mark.parametrize("inner", ["median", "patient", "none"])
def test_optunas_pruners_see_only_the_family(inner: str) -> None:
    study = optuna.create_study(direction="maximize")
    for value in (0.8, 0.9):
        study.add_trial(family_trial("good", {1: value, 2: value, 3: value}, TrialState.COMPLETE))
        study.add_trial(
            family_trial("poor", {1: value - 0.7, 2: value - 0.7, 3: value - 0.7}, TrialState.COMPLETE)
        )
    for family, pruned in (("good", inner != "none"), ("poor", False)):
        trial = optuna.Trial(study, study._storage.create_new_trial(study._study_id))
        trial.set_user_attr("family", family)
        for epoch in (1, 2, 3):
            trial.report(0.5 - 0.01 * epoch, epoch)
        assert make_pruner(inner).prune(family_view(study, family), study.get_trials()[-1]) == pruned


def make_pruner(name: str) -> BasePruner:
    median = MedianPruner(n_startup_trials=1)
    if name == "patient":
        with pytest.warns(optuna.exceptions.ExperimentalWarning):
            return PatientPruner(median, patience=1)
    return median if name == "median" else NopPruner()
