"""All that reads a split, where training parts may be empty and validation and test have other users."""

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from seqsweep.data_pipeline.errors import DataError
from seqsweep.data_pipeline.history import History
from seqsweep.data_pipeline.split import Targets, temporal
from seqsweep.data_pipeline.store import SequenceLog
from seqsweep.data_pipeline.views.device import personal_clocks
from seqsweep.data_pipeline.views.seen import count_items, seen_keys
from seqsweep.models.baselines import BASELINES
from seqsweep.results.metrics import compute_metrics
from seqsweep.sweep.driver.opening import frozen_settings
from seqsweep.sweep.driver.run_study import announce_split, study_facts
from seqsweep.sweep.engine.baselines import ceiling_records, score_baselines, training_part
from seqsweep.sweep.engine.candidates import draw_candidates
from seqsweep.sweep.engine.hparams import typed_configs
from seqsweep.sweep.engine.opened_log import TrialData, open_data
from seqsweep.sweep.engine.ranking import Ranker
from seqsweep.sweep.engine.state import build_model, new_state
from seqsweep.sweep.engine.training import train
from seqsweep.sweep.errors import ConfigError
from seqsweep.sweep.settings.budgets import TrainBudget
from seqsweep.sweep.settings.protocol import ProtocolConfig
from seqsweep.sweep.settings.search import SearchConfig
from seqsweep.sweep.settings.study_config import StudyConfig
from seqsweep.sweep.storage.trial_files import UserRanks, read_ranks, write_ranks
from seqsweep.sweep.study.study import Study
from tests.logs import log_of

CPU = torch.device("cpu")
PROTOCOL = ProtocolConfig(split="temporal", cuts=(0.6, 0.8))
NUM_ITEMS = 25


def staggered_log(num_shards: int = 1) -> SequenceLog:
    """Users who come at different times: some before both cuts alone, some after them alone."""
    generator = np.random.default_rng(0)
    sequences, times = [], []
    for _ in range(60):
        length, begin = int(generator.integers(1, 15)), int(generator.integers(0, 20_000))
        sequences.append((generator.permutation(NUM_ITEMS)[:length] + 1).tolist())
        times.append((begin + generator.integers(1, 1500, length).cumsum()).tolist())
    return log_of(sequences, NUM_ITEMS, num_shards, times)


@pytest.fixture(params=[1, 3])
def data(request: pytest.FixtureRequest) -> TrialData:
    return open_data(staggered_log(request.param), PROTOCOL, CPU)


def flat(data: TrialData) -> tuple[Any, Any]:
    return np.concatenate(data.log.item_chunks()), np.concatenate(data.log.timestamp_chunks())


def test_the_log_has_all_kinds_of_users(data: TrialData) -> None:
    valid, test = set(data.split.valid.user_id), set(data.split.test.user_id)
    no_training = set(np.flatnonzero(data.split.train_end_U == data.log.offset_U[:-1]))
    assert valid & test and valid - test and test - valid
    assert no_training & test and no_training - test and not no_training & valid
    assert 0 in np.diff(
        data.split.train_end_U - data.log.offset_U[:-1] > 0
    )  # neighbours both empty, or both not


class LastItem:
    """Scores from the last item of the history alone, rounded so that many tie."""

    max_len = 3
    uses_time = True
    table = torch.randint(
        0, 4, (NUM_ITEMS + 1, NUM_ITEMS), generator=torch.Generator().manual_seed(0)
    ).float()

    def read(self, history: History) -> Tensor:
        """Each user's last item."""
        assert history.times is not None
        rows = torch.arange(len(history.length_B))
        next_time_B = history.times.next_time_BL[rows, history.length_B - 1]
        assert bool((next_time_B >= history.times.time_BL[rows, history.length_B - 1]).all())
        return history.item_id_BL[rows, history.length_B - 1]

    def score(self, last_B: Tensor) -> Tensor:
        return self.table[last_B].clone()


@pytest.mark.parametrize("part", ["valid", "test"])
@pytest.mark.parametrize("seen", ["keep", "remove"])
def test_ranks_equal_a_loop_over_users(part: Any, seen: Any, data: TrialData) -> None:
    protocol = PROTOCOL.model_copy(update={"seen": seen})
    targets: Targets = getattr(data.split, part)
    assert data.split.cut_times is not None
    cut = data.split.cut_times[part == "test"]
    ranker = Ranker(data.log, data.sequences, targets, protocol, part)
    ranks = ranker.rank(LastItem())
    items, times = flat(data)
    assert ranker.user_id_U.tolist() == targets.user_id.tolist() and len(targets.user_id) > 8
    for user, better, tied in zip(ranker.user_id_U, ranks.better_U, ranks.tied_U, strict=True):
        own = slice(data.log.offset_U[user], data.log.offset_U[user + 1])
        history = items[own][times[own] < cut]
        target = items[own][times[own] >= cut][0]
        score = LastItem.table[history[-1]].numpy()
        candidates = [i for i in range(1, NUM_ITEMS + 1) if seen == "keep" or i not in history]
        assert better == sum(score[i - 1] > score[target - 1] for i in candidates)
        assert tied == sum(score[i - 1] == score[target - 1] for i in candidates)


@pytest.mark.parametrize("part", ["valid", "test"])
def test_candidates_are_all_but_the_history_before_the_cut_and_the_target(part: str, data: TrialData) -> None:
    targets: Targets = getattr(data.split, part)
    drawn_UN = draw_candidates(data.log, targets.user_id, targets.position, NUM_ITEMS, part)  # all there are
    items, _ = flat(data)
    for user, position, drawn_N in zip(targets.user_id, targets.position, drawn_UN, strict=True):
        history_and_target = set(items[data.log.offset_U[user] : position + 1])
        assert set(drawn_N[drawn_N > 0]) == set(range(1, NUM_ITEMS + 1)) - history_and_target


def test_baselines_and_counts_see_what_is_before_the_first_cut_alone(data: TrialData) -> None:
    items, times = flat(data)
    assert data.split.cut_times is not None
    trained = times < data.split.cut_times[0]
    part = training_part(data)
    assert part.time is not None and part.time.tolist() == times[trained].tolist()
    assert part.item_id.tolist() == items[trained].tolist()
    user = np.repeat(np.arange(data.log.num_users), np.diff(data.log.offset_U))
    assert part.user_id.tolist() == user[trained].tolist()
    begins = np.flatnonzero(trained & np.isin(np.arange(len(items)), data.log.offset_U))
    assert (
        np.flatnonzero(part.previous_id == 0).tolist()
        == np.searchsorted(np.flatnonzero(trained), begins).tolist()
    )
    assert (
        count_items(data.sequences).tolist()
        == np.bincount(items[trained], minlength=NUM_ITEMS + 1)[1:].tolist()
    )
    keys = {int(user[at]) * NUM_ITEMS + int(items[at]) - 1 for at in np.flatnonzero(trained)}
    assert seen_keys(data.sequences).tolist() == sorted(keys)


def test_every_baseline_has_a_row_and_the_ceiling_none(data: TrialData) -> None:
    records = score_baselines(data, PROTOCOL, "ndcg@10")
    assert [record.model for record in records] == list(BASELINES)
    ceilings = {part: {"aware": {"ndcg@10": 0.5}} for part in ("valid", "test")}
    manifest = data.log.manifest.model_copy(update={"ceilings": ceilings})
    assert len(ceiling_records(manifest, ProtocolConfig(), "ndcg@10")) == 1
    assert ceiling_records(manifest, PROTOCOL, "ndcg@10") == []  # it is known of leave-one-out's targets


def test_personal_clocks_of_users_who_do_not_train() -> None:
    log = log_of(
        [[1, 2, 3, 4], [1, 2, 3], [4], [1, 2, 3, 4]], 4,
        times=[[10, 17, 30, 31], [22, 24, 40], [50], [11, 16, 25, 26]], num_shards=2,
    )  # fmt: skip
    split = temporal(log, (20, 30))
    assert split.train_end_U.tolist() == [2, 4, 7, 10]
    origin_U, unit_U = personal_clocks(log, split.train_end_U)
    assert origin_U.tolist() == [10, 22, 50, 11]
    assert unit_U.tolist() == [7, 6, 6, 5]  # the second's gap of 2 lies behind the first cut: the median


@pytest.mark.parametrize(
    "hparams",
    [
        {"model": "sasrec", "loss": "bce", "exclude_seen": True, "num_negatives": 4, "window": "random"},
        {"model": "tisasrec", "loss": "sampled_softmax", "popularity_power": 0.5, "num_negatives": 4},
        {"model": "hstu"},
        {"model": "bert4rec"},
        {"model": "lrurec"},
    ],
    ids=lambda hparams: str(hparams["model"]),
)
def test_models_train_and_are_ranked(hparams: dict[str, Any], data: TrialData) -> None:
    model_class, model_config, config = typed_configs(
        {"hidden_dim": 8, "num_blocks": 1, "max_len": 8, "batch_size": 8, **hparams}
    )
    state = new_state(build_model(model_class, model_config, NUM_ITEMS, seed=0, device=CPU), config)
    reports = list(
        train(state, config, TrainBudget(), data.sequences, data.valid_ranker, max_epochs=2, seed=0)
    )
    assert len(reports) == 2 and np.isfinite(reports[-1].loss)


def test_ranks_of_other_users_in_validation_than_in_test(data: TrialData, tmp_path: Path) -> None:
    parts = {}
    for part in ("valid", "test"):
        ranker = Ranker(data.log, data.sequences, getattr(data.split, part), PROTOCOL, part)
        parts[part] = UserRanks(ranker.user_id_U, ranker.rank(LastItem()))
    write_ranks(tmp_path / "ranks.parquet", valid=parts["valid"], test=parts["test"])
    read = read_ranks(tmp_path / "ranks.parquet")
    assert len(read["valid"].better_U) != len(read["test"].better_U)
    for part, written in parts.items():
        assert compute_metrics(read[part]) == compute_metrics(written.ranks)


def test_a_ranking_without_users_says_what_to_do() -> None:
    log = log_of([[1, 2, 1, 2], [2, 1, 2, 1]], 2, times=[[1, 2, 10, 20], [2, 3, 11, 21]])
    protocol = ProtocolConfig(split="temporal", cuts=(10, 20), seen="remove")
    with pytest.raises(
        DataError, match=r'no user is left to rank for valid: each of the 2 .* \(seen = "keep"\)'
    ):
        open_data(log, protocol, CPU)


def test_cuts_have_a_default_and_are_written_into_the_study() -> None:
    assert ProtocolConfig().cuts is None
    config = StudyConfig.build({"protocol": {"split": "temporal"}})
    assert config.protocol.cuts == (0.8, 0.9)
    assert StudyConfig(**tomllib.loads(config.to_toml())) == config
    assert frozen_settings(config)["protocol"]["cuts"] == [0.8, 0.9]


@pytest.mark.parametrize(
    ("written", "cuts"),
    [
        ('["2003-01-01", "2003-02-01T12:00:00Z"]', ("2003-01-01", "2003-02-01T12:00:00Z")),
        ("[2003-01-01, 2003-02-01]", ("2003-01-01", "2003-02-01")),  # TOML has dates of its own
        ("[0.5, 0.75]", (0.5, 0.75)),
        ("[1041379200, 1041379201.5]", (1_041_379_200, 1_041_379_201.5)),
        ('["0.5", "1041379200"]', (0.5, 1_041_379_200)),  # as flags give them
    ],
)
def test_cuts_go_through_a_settings_file(written: str, cuts: tuple[Any, Any]) -> None:
    config = StudyConfig.build(tomllib.loads(f'[protocol]\nsplit = "temporal"\ncuts = {written}'))
    assert config.protocol.cuts == cuts
    assert StudyConfig.build(tomllib.loads(config.to_toml())) == config


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cuts": [0.8, 0.9]}, "cuts belong to split=temporal"),
        ({"split": "temporal", "min_eval_interactions": 4}, "min_eval_interactions belongs to split=leave"),
        ({"split": "temporal", "cuts": [0.9, 0.8]}, "cut must be before the second, got 0.9 and 0.8"),
        ({"split": "temporal", "cuts": [0.9]}, "protocol.cuts"),
        ({"split": "temporal", "cuts": ["0.8", "soon"]}, "0 and 1, or seconds since 1970 .* got soon"),
        ({"split": "temporal", "cuts": 0.8}, "protocol.cuts"),
        ({"split": "random"}, "'leave_one_out' or 'temporal'"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_one_message(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        StudyConfig.build({"protocol": settings})


class Listener:
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def step(self, study: Study) -> None: ...


def test_the_study_keeps_and_tells_the_split(data: TrialData, tmp_path: Path) -> None:
    config = StudyConfig(runs=tmp_path, protocol=PROTOCOL)
    log, split, listener = data.log, data.split, Listener()
    with Study.open(
        config.folder, name="demo", seed=0, search=SearchConfig(), space=lambda trial: {"model": "sasrec"}
    ) as study:
        announce_split(config, study, log, split, listener)
        kept = study.attributes["split"]
        announce_split(config, study, log, split, listener)
    assert kept["num_valid_users"] == len(split.valid.user_id) and "num_cold_test_targets" in kept
    first, second = listener.said
    assert first == second and f"{len(split.test.user_id)} test users" in first
    protocol = study_facts(config, log, split).protocol
    assert first.startswith(f"{protocol}: ")
    assert protocol.startswith("temporal (1970-01-01T0") and protocol.endswith(
        "Z), ranking=full, seen items removed"
    )
    plain = StudyConfig(protocol=ProtocolConfig())
    assert study_facts(plain, log, plain.protocol.open_split(log)).protocol == (
        "leave_one_out, ranking=full, seen items removed"
    )
