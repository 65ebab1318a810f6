import json
from pathlib import Path

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.pruners import BasePruner
from optuna.storages import JournalStorage
from optuna.trial import TrialState, create_trial
from pydantic import ValidationError

from seqsweep.sweep.errors import ConfigError, StudyError
from seqsweep.sweep.settings.search import OBJECTIVE_DIRECTIONS, PrunerName, SearchConfig
from seqsweep.sweep.study.journal import Journal
from seqsweep.sweep.study.optuna_study import check_same_search, create_study, suggest_grace
from seqsweep.sweep.study.pruning import RungTable, check_pruner, family_view, make_pruner

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


def family_trial(family: str, value: float, **attributes: int) -> optuna.trial.FrozenTrial:
    """Complete, with this value in each of ten epochs."""
    return create_trial(
        value=value,
        intermediate_values=dict.fromkeys(range(1, 11), value),
        user_attrs={"family": family, **attributes},
    )


def judged(study: optuna.Study, pruner: BasePruner, family: str, values: list[float]) -> list[bool]:
    """Whether a new trial of the family is stopped at each of its epochs."""
    trial = study.ask()
    trial.set_user_attr("family", family)
    judgements = []
    for epoch, value in enumerate(values, 1):
        trial.report(value, epoch)
        judgements.append(pruner.prune(family_view(study, family), study.get_trials()[trial.number]))
    return judgements


def study_of(*trials: optuna.trial.FrozenTrial) -> optuna.Study:
    study = optuna.create_study(direction="maximize")
    study.add_trials(trials)
    return study


GOOD = [0.7, 0.8, 0.9, 0.8, 0.7]
FALLING = [0.5, 0.49, 0.48, 0.47, 0.46, 0.45]
RISING = [0.5, 0.51, 0.52, 0.53, 0.54, 0.55]


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("median", FALLING, [False, True, True, True, True, True]),
        ("median", RISING, [False, True, True, True, True, True]),
        ("median", [0.9] * 6, [False] * 6),
        # The best is the first; it may stay unbeaten for 2 epochs, and is compared from then on.
        ("patient", FALLING, [False, False, False, True, True, True]),
        ("patient", RISING, [False] * 6),
        ("none", FALLING, [False] * 6),
    ],
)
def test_a_trial_is_compared_with_its_own_family(
    name: PrunerName, values: list[float], expected: list[bool]
) -> None:
    poor = [family_trial("poor", value - 0.6) for value in GOOD]
    study = study_of(*(family_trial("good", value) for value in GOOD), *poor)
    pruner = make_pruner(name, grace_epochs=2)
    assert judged(study, pruner, "good", values) == expected
    assert judged(study, pruner, "poor", values) == [False] * 6
    assert judged(study, pruner, "new", values) == [False] * 6


def test_patience_is_counted_in_epochs_where_not_each_is_validated() -> None:
    study = study_of(*(family_trial("a", value) for value in GOOD))
    trial = study.ask()
    trial.set_user_attr("family", "a")
    judgements = {}
    for epoch, num_recent in ((1, 0), (2, 1), (4, 1), (6, 1), (7, 1), (8, 2)):
        trial.report(0.5 - epoch / 100, epoch)
        pruner = make_pruner("patient", 2, num_recent)
        judgements[epoch] = pruner.prune(family_view(study, "a"), study.get_trials()[trial.number])
    # As with a report an epoch: the first is the best, and from the fourth on the trial is compared.
    assert judgements == {1: False, 2: False, 4: True, 6: True, 7: True, 8: True}


@pytest.mark.parametrize("name", ["median", "patient"])
def test_trainings_of_finalists_are_not_compared_with(name: PrunerName) -> None:
    trials = [family_trial("a", value) for value in GOOD]
    finalists = [family_trial("a", 0.1, finalist_of=0) for _ in range(9)]
    pruner = make_pruner(name, grace_epochs=1)
    assert judged(study_of(*trials, *finalists), pruner, "a", FALLING)[-1]
    assert not judged(study_of(*finalists), pruner, "a", [0.01] * 6)[-1]


def test_a_view_copies_where_it_is_asked_to() -> None:
    study = study_of(family_trial("a", 0.5))
    view = family_view(study, "a")
    assert view.get_trials(deepcopy=False)[0] is study.get_trials(deepcopy=False)[0]
    assert view.get_trials()[0] is not study.get_trials(deepcopy=False)[0]
    assert view.get_trials(states=(TrialState.FAIL,)) == []
    assert view.study_name == study.study_name


def test_asha_is_no_pruner_of_optuna() -> None:
    with pytest.raises(ValueError, match="RungTable"):
        make_pruner("asha", 1)


def test_with_several_objectives_nothing_is_pruned() -> None:
    check_pruner("none", 2)
    check_pruner("asha", 1)
    with pytest.raises(ConfigError, match="got 2 objectives and pruner=asha: give --pruner none"):
        check_pruner("asha", 2)


def test_further_objectives_are_known_ones() -> None:
    objectives = ("mrr", "num_parameters")
    assert SearchConfig(objectives=objectives, pruner="none").objectives == objectives
    assert OBJECTIVE_DIRECTIONS["mrr"] == "maximize" and OBJECTIVE_DIRECTIONS["num_parameters"] == "minimize"
    for wrong in (("mrr", "mrr"), ("speed",)):
        with pytest.raises(ValidationError, match=r"must be different ones of ndcg@1, .*, device_seconds"):
            SearchConfig(objectives=wrong)


def test_a_study_has_a_direction_for_each_objective(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "study.journal")
    storage = JournalStorage(journal)
    study = create_study(storage, "a", {"seed": 1}, [{"lr": 0.1}], ["maximize", "minimize"])
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert create_study(storage, "b", {}, []).direction.name == "MAXIMIZE"
    journal.close()


def test_the_settings_of_a_search_are_compared_as_they_were_stored() -> None:
    search = SearchConfig(objectives=("mrr",), pruner="none")
    stored = json.loads(search.model_dump_json())
    study = optuna.create_study(study_name="a")
    study.set_user_attr("seed", 1)
    study.set_user_attr("search", stored)
    check_same_search(study, Path("runs/a"), name="a", seed=1, search=search)
    check_same_search(
        study, Path("runs/a"), name="a", seed=1, search=search.model_copy(update={"trials": 99})
    )
    with pytest.raises(StudyError, match=r"objectives is \('mrr',\), not \(\)"):
        check_same_search(study, Path("runs/a"), name="a", seed=1, search=SearchConfig(pruner="none"))
    # One that was begun before there was a setting has its default.
    study.set_user_attr("search", {"pruner": "none"})
    check_same_search(study, Path("runs/a"), name="a", seed=1, search=SearchConfig(pruner="none"))
