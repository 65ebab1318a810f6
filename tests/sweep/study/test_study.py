import json
import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from seqsweep.results.schema import Hparam
from seqsweep.sweep.engine.hparams import TrainConfig
from seqsweep.sweep.errors import StudyError
from seqsweep.sweep.seeds import derive_seed, trial_seed
from seqsweep.sweep.settings.budgets import FinalistConfig
from seqsweep.sweep.settings.search import SearchConfig
from seqsweep.sweep.storage.study_folder import FETCHED, JOURNAL_NAME
from seqsweep.sweep.study.journal import Journal, StudyLockedError
from seqsweep.sweep.study.optuna_study import USUAL_BATCH_SIZE
from seqsweep.sweep.study.study import Study
from seqsweep.sweep.study.trial_request import TrialRequest


def space(trial: optuna.Trial) -> dict[str, Hparam]:
    hparams: dict[str, Hparam] = {"model": trial.suggest_categorical("model", ["a", "b"])}
    hparams["lr"] = trial.suggest_float("lr", 1e-4, 1e-1, log=True)
    if hparams["model"] == "b":
        hparams["num_heads"] = trial.suggest_int("num_heads", 1, 4)
    return hparams


def one_family(trial: optuna.Trial) -> dict[str, Hparam]:
    return {"model": "a", "x": trial.suggest_float("x", 0, 1)}


def open_study(folder: Path, **changes: Any) -> Study:
    settings = {
        "trials": 20,
        **{key: changes.pop(key) for key in list(changes) if key in SearchConfig.model_fields},
    }
    return Study.open(
        folder, **{"name": "s", "seed": 1, "space": space, "search": SearchConfig(**settings), **changes}
    )


def report(epoch: int, objective: float, **more: Any) -> dict[str, Any]:
    return {"epoch": epoch, "objective": objective, **more}


def asked(study: Study) -> TrialRequest:
    request = study.ask()
    assert request is not None
    return request


def score(hparams: Mapping[str, Hparam], epoch: int) -> float:
    return float(hparams["lr"]) + 0.01 * epoch + (0.5 if hparams["model"] == "b" else 0.0)


def run(study: Study, num_trials: int, epochs: int = 2) -> list[dict[str, Hparam]]:
    """Run so many trials one after the other; what was proposed."""
    proposed = []
    for _ in range(num_trials):
        request = asked(study)
        proposed.append(request.hparams)
        for epoch in range(request.last_epoch + 1, epochs + 1):
            if study.report(request.trial_number, report(epoch, score(request.hparams, epoch))):
                break
        else:
            study.complete(request.trial_number)
    return proposed


def stored(folder: Path) -> list[optuna.trial.FrozenTrial]:
    """What a stranger finds in the file."""
    storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL_NAME)))
    return optuna.load_study(study_name="s", storage=storage).trials


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    with open_study(tmp_path, space=one_family, pruner="none") as opened:
        yield opened


def test_a_trial_from_request_to_record(study: Study) -> None:
    request = asked(study)
    assert request == TrialRequest(
        trial_number=0,
        attempt=1,
        hparams={"model": "a", "x": request.hparams["x"]},
        seed=derive_seed(1, "trial", 0),
        last_epoch=0,
    )
    assert study.live == {0}
    facts = {"num_parameters": 7, "node": "n", "device": "d", "checkpoint": "trials/0"}
    for epoch, objective, peak in ((1, 0.2, 50), (2, 0.4, 90), (3, 0.4, 70)):
        more = {"loss": 1 / epoch, "lr": 0.1, "seconds": 2.0, "eval_seconds": 0.5, "peak_memory_bytes": peak}
        assert not study.report(0, report(epoch, objective, **more, **facts, **{"valid.mrr": objective / 2}))
    study.complete(0)
    assert study.live == frozenset() and study.counts() == {"complete": 1}
    record = study.records()[0]
    assert (record.trial, record.state, record.model, record.objective) == (0, "complete", "a", 0.4)
    assert (record.best_epoch, record.epochs, record.valid) == (2, 3, {"mrr": 0.2})  # of equals the first
    assert (record.seconds, record.eval_seconds, record.device_seconds) == (6.0, 1.5, None)
    assert (record.peak_memory_bytes, record.num_parameters, record.attempts) == (90, 7, 1)
    assert (record.node, record.device, record.checkpoint, record.error) == ("n", "d", "trials/0", None)
    assert (
        record.started_at is not None and record.ended_at is not None and record.started_at <= record.ended_at
    )
    assert record.started_at.utcoffset() is not None
    epochs = study.epoch_records()
    assert [(e.trial, e.epoch, e.objective, e.loss) for e in epochs] == [
        (0, 1, 0.2, 1),
        (0, 2, 0.4, 1 / 2),
        (0, 3, 0.4, 1 / 3),
    ]
    assert epochs[1].valid == {"mrr": 0.2}
    best = study.best()
    assert best is not None and best.trial == 0


def test_the_value_told_is_the_best_epochs(study: Study, tmp_path: Path) -> None:
    asked(study)
    for epoch, objective in ((1, 0.2), (2, 0.7), (3, 0.5)):
        study.report(0, report(epoch, objective))
    study.complete(0)
    trial = stored(tmp_path)[0]
    assert trial.value == 0.7
    assert trial.intermediate_values == {1: 0.2, 2: 0.7, 3: 0.5}


def test_the_best_may_be_a_pruned_trial_but_no_failed_one(study: Study) -> None:
    for objective in (0.1, 0.8, 0.9):
        number = asked(study).trial_number
        study.report(number, report(1, objective))
    study.complete(0)
    study.pruned(1, "stopped_by_user")
    study.failed(2, "diverged", "loss is nan", "")
    best = study.best()
    assert best is not None and best.trial == 1


def test_a_budget_counts_all_trials(tmp_path: Path) -> None:
    with open_study(tmp_path, trials=3) as study:
        run(study, 3)
        assert study.ask() is None and not study.has_more
    with open_study(tmp_path, trials=5) as study:  # it may grow
        assert study.has_more
        run(study, 2)
        assert study.ask() is None
    with open_study(tmp_path, trials=1) as study:
        assert study.ask() is None and study.counts() == {"complete": 5}


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "t"},
        {"seed": 2},
        {"pruner": "none"},
        {"grace_epochs": 4},
        {"max_epochs": 7},
        {"sampler": "random"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_study_goes_on_only_with_the_settings_it_was_begun_with(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    open_study(tmp_path).close()
    ((key, value),) = changes.items()
    with pytest.raises(StudyError, match=rf"{key} is .*, not {value!r}"):
        open_study(tmp_path, **changes)
    open_study(tmp_path, trials=30, max_attempts=2).close()


def test_one_study_is_opened_once(tmp_path: Path) -> None:
    with open_study(tmp_path), pytest.raises(StudyLockedError):
        open_study(tmp_path)


def test_a_study_can_not_be_pickled(study: Study) -> None:
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(study)


def test_attributes_are_kept(tmp_path: Path) -> None:
    with open_study(tmp_path, attributes={"fingerprint": "f"}) as study:
        study.set_attributes(baselines=[{"trial": 1}])
    with open_study(tmp_path, attributes={"fingerprint": "g"}) as study:
        assert study.attributes["fingerprint"] == "f" and study.attributes["baselines"] == [{"trial": 1}]


# Going on after the driver was killed. Closing and opening again is the same: nothing is written in between.


def test_running_trials_are_adopted_under_their_number_first_and_with_what_is_known(tmp_path: Path) -> None:
    with open_study(tmp_path) as study:
        run(study, 2)
        first, second = asked(study), asked(study)
        study.report(first.trial_number, report(1, 0.1))
        study.report(first.trial_number, report(2, 0.2))
        before = stored(tmp_path)[:2]
    with open_study(tmp_path) as study:
        assert study.live == frozenset() and study.counts()["running"] == 2
        again, other, new = asked(study), asked(study), asked(study)
        assert (again.trial_number, again.attempt, again.last_epoch) == (2, 2, 2)
        assert (again.hparams, again.seed) == (first.hparams, first.seed)
        assert (other.trial_number, other.attempt, other.last_epoch) == (3, 2, 0)
        assert other.hparams == second.hparams
        assert new.trial_number == 4
        study.report(2, report(3, 0.3))
        study.complete(2)
        assert study.records()[2].objective == 0.3
    assert stored(tmp_path)[:2] == before


def test_a_known_epoch_changes_nothing(study: Study, tmp_path: Path) -> None:
    asked(study)
    study.report(0, report(1, 0.5))
    size = (tmp_path / JOURNAL_NAME).stat().st_size
    assert not study.report(0, report(1, 0.9))
    assert (tmp_path / JOURNAL_NAME).stat().st_size == size
    assert study.records()[0].objective == 0.5


def test_an_adopted_trial_is_not_judged_twice_at_a_rung(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"space": one_family, "grace_epochs": 1, "reduction_factor": 2}
    with open_study(tmp_path, **settings) as study:
        asked(study)
        assert not study.report(0, report(1, 0.1))  # alone at its rung
        for number in (1, 2, 3):
            asked(study)
            study.report(number, report(1, 0.9))
    with open_study(tmp_path, **settings) as study:
        asked(study)
        assert not study.report(0, report(1, 0.1))  # reported again from an older checkpoint
        assert study.report(0, report(2, 0.1)) is False  # alone at the rung of epoch 2
        assert study.live == {0}


def test_pruning_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    def decisions(folder: Path, restart: bool) -> list[bool]:
        pruned = []
        study = open_study(folder, space=one_family, grace_epochs=1, reduction_factor=3)
        for objective in (0.3, 0.5, 0.4, 0.6, 0.1, 0.2, 0.7, 0.5):
            number = asked(study).trial_number
            pruned.append(study.report(number, report(1, objective)))
            if not pruned[-1]:
                study.complete(number)
            if restart:
                study.close()
                study = open_study(folder, space=one_family, grace_epochs=1, reduction_factor=3)
        study.close()
        return pruned

    straight = decisions(tmp_path / "straight", restart=False)
    assert straight == [False, False, True, False, True, True, False, True]
    assert decisions(tmp_path / "restarted", restart=True) == straight


def test_a_pruned_trial_is_settled_with_the_report_that_stopped_it(tmp_path: Path) -> None:
    with open_study(tmp_path, space=one_family, grace_epochs=1, reduction_factor=2) as study:
        for number, objective in ((0, 0.9), (1, 0.1)):
            asked(study)
            pruned = study.report(number, report(1, objective))
        assert pruned and study.live == {0}
    assert [trial.state for trial in stored(tmp_path)] == [TrialState.RUNNING, TrialState.PRUNED]
    assert stored(tmp_path)[1].intermediate_values == {1: 0.1}


def test_the_median_pruner_compares_within_the_family(tmp_path: Path) -> None:
    def fixed(trial: optuna.Trial) -> dict[str, Hparam]:
        return {"model": "good" if trial.number < 6 else "poor", "x": trial.suggest_float("x", 0, 1)}

    with open_study(tmp_path, space=fixed, pruner="median", grace_epochs=1) as study:
        for number in range(5):
            asked(study)
            study.report(number, report(1, 0.8))
            study.complete(number)
        asked(study), asked(study)
        assert study.report(5, report(1, 0.1))
        assert not study.report(6, report(1, 0.1))


def test_the_patient_pruner_counts_epochs_where_every_second_is_reported(tmp_path: Path) -> None:
    with open_study(tmp_path, space=one_family, pruner="patient", grace_epochs=4) as study:
        for number in range(5):
            asked(study)
            for epoch in range(2, 11, 2):
                assert not study.report(number, report(epoch, 0.8))
            study.complete(number)
        asked(study)
        # The best is that of epoch 2: at 8 it lies more than 4 epochs back.
        assert [study.report(5, report(epoch, 0.5 - epoch / 100)) for epoch in (2, 4, 6, 8)] == [
            False, False, False, True,
        ]  # fmt: skip


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_proposals_are_the_same_again_and_across_restarts(tmp_path: Path, sampler: str) -> None:
    num_trials = 16  # ten of them before TPE begins to model
    with open_study(tmp_path / "straight", sampler=sampler) as study:
        straight = run(study, num_trials)
    restarted: list[dict[str, Hparam]] = []
    for index in range(num_trials):
        with open_study(tmp_path / "restarted", sampler=sampler) as study:
            if index % 3 == 2:  # killed right after a proposal
                asked(study)
                study.close()
                study = open_study(tmp_path / "restarted", sampler=sampler)
            restarted += run(study, 1)
            study.close()
    assert restarted == straight
    assert len({json.dumps(hparams) for hparams in straight}) == num_trials
    with open_study(tmp_path / "other", sampler=sampler, seed=2) as study:
        assert run(study, num_trials) != straight


def test_every_prefix_of_the_journal_is_a_state_to_go_on_from(tmp_path: Path) -> None:
    """Kill the driver at any byte: ended trials stay as they were, the rest runs to the same end."""
    settings: dict[str, Any] = {
        "trials": 4,
        "space": one_family,
        "grace_epochs": 1,
        "reduction_factor": 2,
        "max_epochs": 3,
    }

    def finish(study: Study) -> None:
        while (request := study.ask()) is not None:
            for epoch in range(request.last_epoch + 1, 4):
                if study.report(request.trial_number, report(epoch, float(request.hparams["x"]))):
                    break
            else:
                study.complete(request.trial_number)

    with open_study(tmp_path / "whole", **settings) as study:
        finish(study)
        expected = [(r.state, r.hparams, r.objective, r.epochs) for r in study.records()]
    whole = (tmp_path / "whole" / JOURNAL_NAME).read_bytes()
    begin = whole.index(b'"op_code":4')  # the first trial; the study itself is one transaction, tested apart
    for cut in range(begin, len(whole), 97):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / JOURNAL_NAME).write_bytes(whole[:cut])
        with open_study(folder, **settings) as study:
            ended_before = [r for r in study.records() if r.state in ("complete", "pruned")]
            finish(study)
            records = study.records()
            assert [r for r in ended_before if r != records[r.trial or 0]] == []
            assert [(r.state, r.hparams, r.objective, r.epochs) for r in records] == expected


def test_a_study_is_made_whole_or_not_at_all(tmp_path: Path) -> None:
    enqueue = [{"x": 0.25}, {"x": 0.75}]
    open_study(tmp_path / "whole", space=one_family, enqueue=enqueue).close()
    whole = (tmp_path / "whole" / JOURNAL_NAME).read_bytes()
    for cut in range(0, len(whole), 101):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / JOURNAL_NAME).write_bytes(whole[:cut])
        with open_study(folder, space=one_family, enqueue=enqueue) as study:
            assert [asked(study).hparams["x"] for _ in range(2)] == [0.25, 0.75]


# Failures.


def test_a_failed_trial_says_why(study: Study, tmp_path: Path) -> None:
    asked(study)
    study.report(0, report(1, 0.5))
    study.failed(0, "diverged", "loss is nan at epoch 2\nmore", "Traceback ...")
    assert study.live == frozenset()
    record = study.records()[0]
    assert (record.state, record.error) == ("failed", "diverged: loss is nan at epoch 2")
    assert stored(tmp_path)[0].user_attrs["error"]["traceback"] == "Traceback ..."


def test_a_trial_that_ends_without_a_report_has_failed(study: Study) -> None:
    asked(study)
    study.complete(0)
    assert study.records()[0].error == "error: the trial ended without reporting an epoch"


def test_an_interrupted_trial_is_handed_out_again_until_its_attempts_are_used(tmp_path: Path) -> None:
    with open_study(tmp_path, max_attempts=3) as study:
        asked(study), asked(study)
        study.report(0, report(1, 0.5))
        study.interrupted(0, "the worker died")
        assert study.live == {1} and study.counts() == {"running": 2}
        request = asked(study)
        assert (request.trial_number, request.attempt, request.last_epoch) == (0, 2, 1)
        study.interrupted(0, "the node was taken", counted=False)
        asked(study)
        study.interrupted(0, "the worker died")
    with open_study(tmp_path, max_attempts=3) as study:
        assert asked(study).attempt == 4
        study.interrupted(0, "the worker died")
        assert study.records()[0].error == "interrupted: its worker died 3 times (max_attempts=3)"


def test_an_error_in_the_space_fails_the_trial_alone(tmp_path: Path) -> None:
    def odd_fails(trial: optuna.Trial) -> dict[str, Hparam]:
        if trial.number % 2:
            raise KeyError("odd")
        return one_family(trial)

    with open_study(tmp_path, space=odd_fails, trials=4) as study:
        assert [asked(study).trial_number, asked(study).trial_number] == [0, 2]
        assert study.ask() is None
        assert study.counts() == {"running": 2, "failed": 2}
        assert study.records()[1].error == "error: KeyError: 'odd'"


@pytest.mark.parametrize(
    "returned", [{"model": "a", "x": [1, 2]}, {"x": 1}, None], ids=["list", "no model", "none"]
)
def test_a_space_must_return_plain_hparams(tmp_path: Path, returned: Any) -> None:
    with open_study(tmp_path, space=lambda trial: returned) as study:
        assert study.ask() is None
        assert "error: " in str(study.records()[0].error)


def test_three_first_errors_stop_the_study(study: Study) -> None:
    for number in range(3):
        assert study.stopped_because is None
        asked(study)
        study.failed(number, "error", "ImportError: no module", "")
    assert study.stopped_because == "all of the first 3 trials failed, the last with: ImportError: no module"
    assert study.ask() is None and not study.has_more


@pytest.mark.parametrize(
    "error_classes", [["diverged", "error", "error", "error"], ["none", "error", "error", "error"]]
)
def test_errors_after_something_else_do_not_stop_it(study: Study, error_classes: Sequence[str]) -> None:
    for number, error_class in enumerate(error_classes):
        asked(study)
        if error_class == "none":
            study.report(number, report(1, 0.5))
            study.complete(number)
        else:
            study.failed(number, error_class, "", "")
    assert study.stopped_because is None


def test_the_first_reason_to_stop_counts(study: Study) -> None:
    study.stop("Ctrl-C")
    study.stop("SIGTERM")
    assert study.stopped_because == "Ctrl-C" and study.ask() is None


def test_a_released_trial_stays_running_and_comes_first(study: Study) -> None:
    asked(study), asked(study)
    study.release(0)
    assert study.counts() == {"running": 2} and study.live == {1}
    assert asked(study).trial_number == 0


# The queue.


def test_queued_points_come_first_and_the_sampler_adds_the_rest(tmp_path: Path) -> None:
    with open_study(tmp_path, enqueue=[{"model": "b", "lr": 0.01}, {"model": "a"}]) as study:
        assert [record.state for record in study.records()] == ["queued", "queued"]
        assert study.records()[0].hparams == {"model": "b", "lr": 0.01}
        first, second = asked(study), asked(study)
        assert (first.hparams["model"], first.hparams["lr"]) == ("b", 0.01) and "num_heads" in first.hparams
        assert second.hparams["model"] == "a"
        study.enqueue({"lr": 0.02})
        assert asked(study).hparams["lr"] == 0.02
        assert asked(study).trial_number == 3
    with open_study(tmp_path, enqueue=[{"model": "a"}]) as study:  # a second time it is not queued again
        assert study.counts() == {"running": 4}


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"learning_rate": 0.01}, "'learning_rate' is not sampled together with the others"),
        ({"model": "a", "num_heads": 2}, "'num_heads' is not sampled together with the others"),
        ({"lr": 5.0}, "lr must be within FloatDistribution"),
        ({"model": "c"}, "'c' not in"),
    ],
    ids=["unknown", "of another branch", "out of range", "no choice"],
)
def test_a_point_that_the_space_can_not_propose_is_refused(
    tmp_path: Path, point: dict[str, Hparam], message: str
) -> None:
    with pytest.raises(StudyError, match=message):
        open_study(tmp_path, enqueue=[point])
    with open_study(tmp_path) as study:
        with pytest.raises(StudyError, match=message):
            study.enqueue({"model": "a"}, point)
        assert study.counts() == {}


# Reading.


def test_a_reader_follows_the_study(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no study"):
        Study.read(tmp_path)
    Journal(tmp_path / JOURNAL_NAME).close()
    with pytest.raises(StudyError, match="no study yet"):
        Study.read(tmp_path)
    with open_study(tmp_path, trials=7) as study, Study.read(tmp_path) as reader:
        assert (reader.name, reader.search.trials, reader.counts()) == ("s", 7, {})
        run(study, 1)
        asked(study)
        assert reader.counts() == {"complete": 1, "running": 1}
        assert reader.records() == study.records()
        before = study.num_changes
        study.report(1, report(1, 0.5))
        assert study.num_changes > before
        assert reader.epoch_records() == study.epoch_records()


# What this rests on in Optuna, which discourages it.


def test_an_optuna_trial_made_by_hand_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path) as journal:
        study = optuna.create_study(storage=JournalStorage(journal), study_name="s", direction="maximize")
        study.tell(study.ask(), 0.0)
        trial = study.ask()
        x = trial.suggest_float("x", 0, 1)
        trial.set_user_attr("attempts", 1)
        trial.report(0.25, 1)
        trial_id = trial._trial_id
    with Journal(path) as journal:
        study = optuna.load_study(storage=JournalStorage(journal), study_name="s")
        adopted = optuna.trial.Trial(study, trial_id)
        assert (adopted.number, adopted.params, adopted.user_attrs) == (1, {"x": x}, {"attempts": 1})
        assert adopted.suggest_float("x", 0, 1) == x
        adopted.report(0.5, 2)
        study.tell(adopted, 0.5)
        ended = study.trials[1]
        assert (ended.state, ended.value) == (TrialState.COMPLETE, 0.5)
        assert ended.intermediate_values == {1: 0.25, 2: 0.5}


def test_out_of_memory_is_tried_once_more_with_half_the_micro_batch(tmp_path: Path) -> None:
    def with_batches(trial: optuna.Trial) -> dict[str, Hparam]:
        return {**one_family(trial), "batch_size": 64}

    with open_study(tmp_path, space=with_batches, pruner="none") as study:
        first = asked(study)
        assert first.micro_batch_size is None
        study.report(0, report(1, 0.5))
        study.out_of_memory(0, "out of memory", "..")
        again = asked(study)
        assert (again.trial_number, again.attempt, again.last_epoch) == (0, 2, 1)
        assert again.micro_batch_size == 32 and again.hparams["batch_size"] == 64
        study.interrupted(0, "killed")
    with open_study(tmp_path, space=with_batches, pruner="none") as study:
        assert asked(study).micro_batch_size == 32  # also in later attempts
        study.out_of_memory(0, "out of memory again", "..")
        record = study.record(0)
        assert (record.state, record.error) == ("failed", "out_of_memory: out of memory again")


def test_the_batch_size_that_is_halved_where_none_is_given() -> None:
    assert TrainConfig().batch_size == USUAL_BATCH_SIZE


def finish(study: Study, objective: float) -> TrialRequest:
    return finish_request(study, asked(study), objective)


def finish_request(study: Study, request: TrialRequest, objective: float) -> TrialRequest:
    study.report(request.trial_number, report(1, objective))
    study.complete(request.trial_number)
    return request


def test_finalists_are_trained_when_the_search_is_done_and_counted_apart(tmp_path: Path) -> None:
    finalists = FinalistConfig(count=2, seeds=2)
    with open_study(tmp_path, space=one_family, trials=3, pruner="none", finalists=finalists) as study:
        finish(study, 0.1)
        second, third = asked(study), asked(study)
        finish_request(study, second, 0.3)
        assert not study.has_more and study.ask() is None  # the third may still be among the best
        finish_request(study, third, 0.2)
        assert str(study.race()) == "0 of 4 trainings"
        first = finish(study, 0.25)
        assert first.trial_number == 3 and first.is_finalist
        assert first.hparams == study.record(1).hparams
        assert first.seed not in (trial_seed(1, 1), trial_seed(1, 2))
        assert asked(study).trial_number == 4
        assert str(study.race()) == "1 of 4 trainings"
    with open_study(tmp_path, space=one_family, trials=3, pruner="none") as study:
        assert study.counts() == {"complete": 3} and [r.trial for r in study.records()] == [0, 1, 2]
        runs = study.finalist_runs()
        assert [(r.finalist_of, r.seed_index, r.record.state) for r in runs] == [
            (1, 0, "complete"),
            (2, 0, "running"),
        ]
        adopted = asked(study)  # under its own number, with what it is
        assert (adopted.trial_number, adopted.attempt, adopted.is_finalist) == (4, 2, True)
        assert study.num_trials == 3
        best = study.best()
        assert best is not None and best.trial == 1
        assert [e.trial for e in study.epoch_records()] == [0, 1, 2, 3]


def test_a_finalist_that_can_not_win_is_stopped_and_its_other_seeds_are_not_begun(tmp_path: Path) -> None:
    finalists = FinalistConfig(count=2, seeds=3)
    with open_study(tmp_path, space=one_family, trials=2, pruner="none", finalists=finalists) as study:
        finish(study, 0.5), finish(study, 0.5)
        for objective in (0.5, 0.1, 0.49):
            finish(study, objective)
        running = asked(study)  # seed 1 of trial 1, which may still reach (.1 + .5 + .5) / 3
        assert study.finalist_of(running.trial_number) == 1
        finish(study, 0.48)  # now trial 0 has .49
        assert study.report(running.trial_number, report(1, 0.2)) is True
        assert study.ask() is None and not study.has_more
        assert str(study.race()) == "5 of 5 trainings, 1 not needed"
        states = [(r.finalist_of, r.record.state) for r in study.finalist_runs()]
        assert states.count((0, "complete")) == 3 and states[-2:] == [(1, "pruned"), (0, "complete")]
        assert len(states) == 5


def test_a_study_that_grew_goes_on_after_its_finalists(tmp_path: Path) -> None:
    """They are no evidence for the sampler or the rungs: a finalist's value counts nowhere."""
    finalists = FinalistConfig(count=1, seeds=1)
    with open_study(
        tmp_path, space=one_family, trials=2, grace_epochs=1, reduction_factor=2, finalists=finalists
    ) as study:
        finish(study, 0.1), finish(study, 0.2)
        assert finish(study, 0.9).is_finalist
    with open_study(tmp_path, space=one_family, trials=3, grace_epochs=1, reduction_factor=2) as study:
        request = asked(study)
        assert (request.trial_number, request.is_finalist) == (3, False)
        assert study.report(3, report(1, 0.2)) is False  # the best half of .1, .2, .2; not of .9 too
        assert study.counts() == {"complete": 2, "running": 1}


def test_several_objectives(tmp_path: Path) -> None:
    with open_study(
        tmp_path, space=one_family, trials=4, pruner="none", objectives=("num_parameters", "hr@10")
    ) as study:
        for objective, size, hit_rate in ((0.5, 100, 0.1), (0.4, 50, 0.1), (0.4, 60, 0.05), (0.3, 90, 0.4)):
            number = asked(study).trial_number
            study.report(number, report(1, objective, **{"num_parameters": size, "valid.hr@10": hit_rate}))
            study.report(number, report(2, 0.01, **{"num_parameters": size, "valid.hr@10": 0.9}))
            study.complete(number)
        assert study.front() == frozenset({0, 1, 3})
        best = study.best()
        assert best is not None and best.trial == 0
    assert [trial.values for trial in stored(tmp_path)][2] == [0.4, 60, 0.05]


def test_with_one_objective_there_is_no_front(study: Study) -> None:
    finish(study, 0.5)
    assert study.front() is None


def test_the_environment_is_recorded_once_and_with_each_trial(tmp_path: Path) -> None:
    for commit, expected in (("a", 0), ("a", 0), ("b", 1)):
        with open_study(tmp_path, space=one_family, pruner="none") as study:
            study.record_environment({"commit": commit})
            number = finish(study, 0.5).trial_number
            assert study.trial(number).user_attrs["environment"] == expected
    with Study.read(tmp_path) as reader:
        assert reader.attributes["environments"] == [{"commit": "a"}, {"commit": "b"}]


def test_each_new_report_is_told_on(study: Study) -> None:
    told: list[tuple[int, float]] = []
    study.on_report = lambda live, report: told.append((live.number, report["objective"]))
    finish(study, 0.5)
    asked(study)
    study.report(1, report(1, 0.25))
    study.report(1, report(1, 0.25))  # known
    assert told == [(0, 0.5), (1, 0.25)]


def test_a_fetched_study_that_is_gone_on_with_is_no_copy_any_more(tmp_path: Path) -> None:
    """The next fetch would replace it."""
    for reopen in (False, True):
        open_study(tmp_path).close()
        (tmp_path / FETCHED).write_text("{}")
        with Study.read(tmp_path):
            pass
        assert (tmp_path / FETCHED).exists()
        (Study.reopen(tmp_path) if reopen else open_study(tmp_path)).close()
        assert not (tmp_path / FETCHED).exists()
