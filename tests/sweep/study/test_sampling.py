import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.storages import JournalStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from seqsweep.search_spaces import SEARCH_SPACES, Hparam
from seqsweep.search_spaces.branches import Space
from seqsweep.search_spaces.compose import compose
from seqsweep.sweep.errors import ConfigError
from seqsweep.sweep.settings.search import SamplerName
from seqsweep.sweep.study import sampling
from seqsweep.sweep.study.journal import Journal
from seqsweep.sweep.study.sampling import cap_trials, check_sampler, make_sampler, sample_hparams

Objective = Callable[[optuna.Trial], float | tuple[float, float]]
ALL: tuple[SamplerName, ...] = ("auto", "tpe", "random", "nsga2", "gp", "cmaes")
BOTH = ("minimize", "minimize")


def bowl(trial: optuna.Trial) -> float:
    """Best at .3, .35, .4, .45, .5, where it is 0."""
    return -sum((trial.suggest_float(f"x{i}", 0, 1) - 0.3 - 0.05 * i) ** 2 for i in range(5))


def two_bowls(trial: optuna.Trial) -> tuple[float, float]:
    """No point is best in both: the front lies between .2 and .6. One of three families is worse in each."""
    model = trial.suggest_categorical("model", ["a", "b", "c"])
    x = np.array([trial.suggest_float(f"{model}.x{i}", 0, 1) for i in range(5)])
    return float(((x - 0.2) ** 2).sum()) + (model == "c"), float(((x - 0.6) ** 2).sum()) + (model == "b")


def ask(study: optuna.Study, name: SamplerName, seed: int) -> optuna.Trial:
    """As the service does: with a sampler made for this proposal alone."""
    study.sampler = make_sampler(name, seed)
    return study.ask()


def search(
    name: SamplerName,
    objective: Objective,
    num_trials: int,
    seed: int = 0,
    directions: Sequence[Any] = ("maximize",),
) -> optuna.Study:
    study = optuna.create_study(directions=directions)
    for number in range(num_trials):
        trial = ask(study, name, 1000 * seed + number)
        study.tell(trial, objective(trial))
    return study


def params(study: optuna.Study) -> list[dict[str, Any]]:
    return [trial.params for trial in study.trials]


def enough(name: SamplerName) -> int:
    """Trials until the sampler does more than draw at random; the Gaussian process is slow then."""
    return 12 if name == "gp" else 24


def area(study: optuna.Study) -> float:
    """What the front dominates of the unit square."""
    covered, last = 0.0, 1.0
    for x, y in sorted(tuple(trial.values) for trial in study.best_trials):
        if x < 1 and y < last:
            covered += (1 - x) * (last - y)
            last = y
    return covered


def finalist(trial: FrozenTrial, value: float) -> FrozenTrial:
    return create_trial(
        value=value,
        params=trial.params,
        distributions=trial.distributions,
        intermediate_values={1: value},
        user_attrs={"finalist_of": 0},
    )


@pytest.mark.parametrize("name", ["nsga2", "cmaes", "tpe"])
def test_samplers_made_anew_for_each_proposal_evolve(name: SamplerName) -> None:
    found = [-search(name, bowl, 60, seed).best_value for seed in range(4)]
    at_random = [-search("random", bowl, 60, seed).best_value for seed in range(4)]
    assert np.mean(found) < 0.75 * np.mean(at_random)


def test_the_gaussian_process_needs_few_trials() -> None:
    assert -search("gp", bowl, 24).best_value < 0.5 * -search("random", bowl, 60).best_value


@pytest.mark.parametrize("name", ["auto", "nsga2", "tpe"])
def test_the_front_of_several_families_is_better_than_a_random_one(name: SamplerName) -> None:
    found = [area(search(name, two_bowls, 60, seed, BOTH)) for seed in range(6)]
    at_random = [area(search("random", two_bowls, 60, seed, BOTH)) for seed in range(6)]
    assert np.mean(found) > np.mean(at_random) + 0.03


def test_auto_is_tpe() -> None:
    assert params(search("auto", bowl, 20)) == params(search("tpe", bowl, 20))
    several = search("auto", two_bowls, 30, directions=BOTH)
    assert params(several) == params(search("tpe", two_bowls, 30, directions=BOTH))


def test_generations_follow_each_other() -> None:
    study = search("nsga2", bowl, 40)
    generations = [
        value for t in study.trials for key, value in t.system_attrs.items() if key.endswith("generation")
    ]
    assert generations == sorted(generations) and len(generations) == 40
    assert max(generations) == 40 / sampling.POPULATION_SIZE - 1


@pytest.mark.parametrize("when", [0, 12])
def test_a_good_point_that_was_queued_has_children(when: int) -> None:
    best = {f"x{i}": 0.3 + 0.05 * i for i in range(5)}
    study = optuna.create_study(direction="maximize")
    for number in range(40):
        if number == when:
            study.enqueue_trial(best)
        trial = ask(study, "nsga2", number)
        study.tell(trial, bowl(trial))
    with_it, without = (
        [trial.values[0] for trial in found.trials[-8:]] for found in (study, search("nsga2", bowl, 40))
    )
    assert np.median(with_it) > np.median(without)


@pytest.mark.parametrize("name", ALL)
def test_a_search_that_is_interrupted_goes_on_as_if_it_had_not_been(
    name: SamplerName, tmp_path: Path
) -> None:
    num_trials = enough(name)
    for half in (range(num_trials // 2), range(num_trials // 2, num_trials)):
        journal = Journal(tmp_path / "study.journal")
        study = optuna.create_study(
            storage=JournalStorage(journal), study_name="a", direction="maximize", load_if_exists=True
        )
        for number in half:
            with journal.transaction():
                trial = ask(study, name, number)
                value = bowl(trial)
            study.tell(trial, value)
        proposed = params(study)
        journal.close()
    assert proposed == params(search(name, bowl, num_trials))


@pytest.mark.parametrize("name", ALL)
def test_no_sampler_sees_the_trainings_of_finalists(name: SamplerName) -> None:
    study, disturbed = search(name, bowl, enough(name)), search(name, bowl, enough(name))
    for ended in disturbed.trials[:5]:
        disturbed.add_trial(finalist(ended, 100.0))
        study.add_trial(create_trial(state=TrialState.FAIL))  # CMA-ES takes the trial's number into its seed
    proposals = []
    for found in (study, disturbed):
        trial = ask(found, name, 77)
        bowl(trial)
        proposals.append(trial.params)
    assert proposals[0] == proposals[1]


@pytest.mark.parametrize("name", ["gp", "cmaes", "nsga2"])
def test_a_pruned_trial_counts_as_one_that_ended_with_its_best_value(name: SamplerName) -> None:
    proposals = []
    for prune in (True, False):
        study = optuna.create_study(direction="maximize")
        for number in range(enough(name)):
            trial = ask(study, name, number)
            value = bowl(trial)
            if prune and number % 3:
                trial.report(value, 1)
                trial.report(value - 1, 2)
                study.tell(trial, state=TrialState.PRUNED)
            else:
                study.tell(trial, value)
        trial = ask(study, name, 77)
        bowl(trial)
        proposals.append(trial.params)
    assert proposals[0] == proposals[1]


def test_a_trial_pruned_before_its_first_epoch_says_nothing() -> None:
    study = optuna.create_study(direction="maximize")
    for number in range(12):
        study.tell(ask(study, "gp", number), state=TrialState.PRUNED)
    assert bowl(ask(study, "gp", 12)) < 0


def ended_trial(number: int, values: Sequence[float], state: TrialState = TrialState.COMPLETE) -> FrozenTrial:
    trial = create_trial(state=state, values=values if state == TrialState.COMPLETE else None)
    trial.number = number
    return trial


def test_what_tpe_sees_is_capped_to_the_best_and_the_latest() -> None:
    up, down = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE
    trials = [ended_trial(n, [float(n % 10), float(n % 7)]) for n in range(20)]
    trials += [ended_trial(20, [], TrialState.FAIL), ended_trial(21, [], TrialState.RUNNING)]
    assert cap_trials(trials, [up], 10, 11) == trials
    kept = {trial.number for trial in cap_trials(trials, [up, down], num_best=4, num_latest=3)}
    # 9 and 19 are largest in the first value, 0 and 7 the first of the smallest in the second
    assert kept == {9, 19, 0, 7, 18, 20, 21}


FAMILY = {name: {name: space} for name, space in SEARCH_SPACES.items()}


def sasrec_with(**fix: Hparam) -> Space:
    return compose(FAMILY["sasrec"], {"sasrec": fix})


@pytest.mark.parametrize("name", ALL[:4])
def test_most_samplers_search_every_space(name: SamplerName) -> None:
    check_sampler(name, compose(SEARCH_SPACES, {family: {} for family in SEARCH_SPACES}), num_objectives=1)
    check_sampler(name, sasrec_with(), num_objectives=3)


def test_gp_and_cmaes_take_spaces_that_fit_them() -> None:
    check_sampler("gp", sasrec_with(residual="plain", loss="ce"), num_objectives=1)
    check_sampler("gp", sasrec_with(residual="gated", loss="gbce"), num_objectives=1)
    numbers = sasrec_with(
        residual="plain",
        norm="pre",
        window="last",
        loss="ce",
        activation="relu",
        exclude_seen=False,
        init="normal",
    )
    check_sampler("cmaes", numbers, num_objectives=1)


@pytest.mark.parametrize(
    ("name", "space", "num_objectives", "message"),
    [
        ("gp", sasrec_with(), 2, "sampler gp takes one objective, got 2: give --sampler nsga2"),
        (
            "gp",
            compose(SEARCH_SPACES, {family: {} for family in SEARCH_SPACES}),
            1,
            "sampler gp takes one family, got a space with several models: name one",
        ),
        (
            "cmaes",
            sasrec_with(loss="gbce"),
            1,
            "sampler cmaes takes no conditional parameters, got norm (residual = plain), num_streams "
            "(residual = mhc): pin what they depend on (--fix residual=plain), or give --sampler tpe",
        ),
        (
            "cmaes",
            sasrec_with(residual="gated", loss="ce"),
            1,
            "sampler cmaes takes numbers only, got the choices init, activation, window, exclude_seen: pin "
            "them (--fix init=normal --fix activation=relu --fix window=last --fix exclude_seen=false), or",
        ),
        (
            "cmaes",
            compose({"a": lambda trial: {"lr": trial.suggest_float("lr", 0, 1)}}, {"a": {}}),
            1,
            "sampler cmaes takes two or more parameters, got lr: pin fewer",
        ),
        (
            "gp",
            lambda trial: {"a": trial.suggest_int("n", 1, 2 + trial.suggest_categorical("b", [1, 2]))},
            1,
            "sampler gp takes no conditional parameters, got n: give --sampler tpe",
        ),
    ],
)
def test_gp_and_cmaes_say_what_does_not_fit(
    name: SamplerName, space: Space, num_objectives: int, message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        check_sampler(name, space, num_objectives=num_objectives)
    assert message in str(error.value)


def test_what_is_told_to_pin_makes_the_space_fit() -> None:
    space = sasrec_with()
    pins: dict[str, Hparam] = {}
    for _ in range(3):
        try:
            check_sampler("cmaes", space, num_objectives=1)
        except ConfigError as error:
            words = str(error).partition("(--fix")[2].partition("), or")[0].replace("--fix", "").split()
            pins.update(word.split("=") for word in words)  # type: ignore[misc]
            space = sasrec_with(**pins)
    check_sampler("cmaes", space, num_objectives=1)
    assert pins.keys() == {"residual", "norm", "window", "loss", "activation", "exclude_seen", "init"}


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"cmaes needs cmaes: pip install 'seqsweep\[samplers\]'"):
        check_sampler("cmaes", sasrec_with(), num_objectives=1)


@pytest.mark.parametrize(
    ("hparams", "error", "message"),
    [
        (None, TypeError, "a space must return a dict of hparams, got NoneType"),
        ({"lr": 1.0}, ValueError, "hparams must name a model"),
        ({"model": "sasrec", "lr": None}, TypeError, "hparams must be int, float, str or bool, got lr=None"),
    ],
)
def test_what_a_space_returns_is_looked_at(hparams: Any, error: type[Exception], message: str) -> None:
    trial = optuna.create_study(sampler=RandomSampler(seed=0)).ask()
    with pytest.raises(error, match=message):
        sample_hparams(lambda _: hparams, trial)


def test_proposals_are_numbers_within_the_space() -> None:
    for name in ALL:
        trial = search(name, bowl, 14).trials[-1]
        assert all(0 <= value <= 1 and math.isfinite(value) for value in trial.params.values())


def test_the_outlook_has_the_latest_and_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "MAX_LATEST_TRIALS", 2)
    monkeypatch.setattr(sampling, "MAX_BEST_TRIALS", 2)
    outlook = sampling.SamplerWindow()
    for number, value in enumerate([0.5, 0.9, 0.1, 0.5, None, 0.2]):
        outlook.enter(number, value)
    assert outlook.numbers() == {0, 1, 4, 5}  # of 0 and 3, which are equal, the earlier


def test_what_the_outlook_shows_is_what_a_look_at_all_trials_shows() -> None:
    study = search("random", bowl, 900)
    outlook = sampling.SamplerWindow()
    for trial in study.trials:
        outlook.enter(trial.number, trial.value)
    shown = {trial.number for trial in sampling.cap_trials(study.trials, study.directions)}
    assert outlook.numbers() == shown and len(shown) < 900
