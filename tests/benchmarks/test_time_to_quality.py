"""Time to quality in a very short form, and that its three sides share one metric."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import readme, time_to_quality
from benchmarks.cases import Case
from benchmarks.record import newest
from benchmarks.time_to_quality import NDCG, Curve, rows_of
from seqsweep.data_pipeline.history import History
from seqsweep.data_pipeline.views.device import DeviceSequences
from seqsweep.results.metrics import Ranks, compute_metrics, ndcg
from seqsweep.sweep.engine.opened_log import TrialData, open_data
from seqsweep.sweep.engine.ranking import Ranker
from seqsweep.sweep.settings.protocol import ProtocolConfig
from tests.logs import log_of

CPU = torch.device("cpu")
NUM_ITEMS = 30

# By name: mypy must not follow it, as benchmarks/peers is of environments of its own.
textbook: Any = importlib.import_module("benchmarks.peers.textbook_quality")


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    torch.set_num_threads(before)


def sequences() -> list[list[int]]:
    """Of 2 to 12 items; the last user's target was had before."""
    generator = np.random.default_rng(0)
    lengths = generator.integers(2, 13, 60)
    drawn = [(1 + generator.permutation(NUM_ITEMS)[:length]).tolist() for length in lengths]
    return [*drawn, [*range(1, NUM_ITEMS + 1)], [1, 2, 3, 1, 4]]


def test_the_gain_is_that_of_our_metrics() -> None:
    generator = np.random.default_rng(0)
    better_U, tied_U = generator.integers(0, 25, 500), generator.integers(1, 25, 500)
    gain_U = textbook.expected_gain(torch.from_numpy(better_U), torch.from_numpy(tied_U))
    np.testing.assert_allclose(gain_U.numpy(), ndcg(Ranks(better_U, tied_U), 10), rtol=1e-12)


class LastItem:
    """Scores by the last item alone, from few values, so that many items tie."""

    max_len, uses_time = 3, False

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.table_VV = torch.randint(4, (NUM_ITEMS + 1, NUM_ITEMS + 1), generator=generator).float()

    def read(self, history: History) -> Tensor:
        rows = torch.arange(len(history.length_B))
        return history.item_id_BL[rows, history.length_B - 1]

    def score(self, read_B: Tensor) -> Tensor:
        return self.table_VV[read_B, 1:]

    def score_windows(self, item_BL: Tensor) -> Tensor:
        return self.table_VV[item_BL[:, -1]]


def test_the_peers_validation_is_that_of_our_ranking() -> None:
    log, protocol, scorer = log_of(sequences(), NUM_ITEMS), ProtocolConfig(seen="remove"), LastItem()
    split = protocol.open_split(log)
    ranker = Ranker(log, DeviceSequences(log, CPU, split.train_end_U), split.valid, protocol, "valid")
    users = textbook.held_out([np.array(sequence) for sequence in sequences()])
    assert ranker.num_seen_targets == 1
    assert len(users) == len(ranker.user_id_U)
    expected = compute_metrics(ranker.rank(scorer))["ndcg@10"]
    theirs = textbook.Validation(users, LastItem.max_len, CPU).ndcg(scorer.score_windows)
    assert theirs == pytest.approx(expected, rel=1e-9)


def test_an_item_that_a_peer_does_not_know_gains_nothing() -> None:
    users = [(np.array([1, 2]), 3), (np.array([1, 2]), 0)]
    best_of_all = torch.tensor([0.0, 0.0, 0.0, 1.0])
    validation = textbook.Validation(users, 3, CPU)
    assert validation.ndcg(lambda item_BL: best_of_all.repeat(len(item_BL), 1)) == 0.5


def test_scores_that_are_not_finite_are_no_success() -> None:
    validation = textbook.Validation([(np.array([1]), 2)], 3, CPU)
    with pytest.raises(FloatingPointError, match="not finite"):
        validation.ndcg(lambda item_BL: torch.full((len(item_BL), 3), torch.nan))


def curve(*values: float) -> Curve:
    """Two seconds an epoch."""
    return [
        {"epoch": epoch, "train_s": 2.0 * epoch, "eval_s": 1.0, NDCG: value}
        for epoch, value in enumerate(values, 1)
    ]


def test_levels_are_those_of_the_same_repeat() -> None:
    repeats = [
        {"ours": curve(0.096, 0.2), "textbook": curve(0.01, 0.05, 0.1)},
        {"ours": curve(0.01, 0.18), "textbook": curve(0.1, 0.19, 0.2)},
    ]
    ours, theirs = rows_of("demo", repeats)
    assert ours["s_to_95%_of_textbook"]["values"] == [2.0, None]
    assert ours["s_to_99%_of_textbook"]["values"] == [4.0, None]
    assert theirs["s_to_95%_of_textbook"]["values"] == [6.0, 4.0]
    assert theirs["s_to_99%_of_textbook"]["values"] == [6.0, 6.0]
    assert theirs["times_ours_to_95%_of_textbook"]["values"] == [3.0]
    assert theirs["times_ours_to_99%_of_textbook"]["values"] == [1.5]
    assert ours["times_ours_to_95%_of_textbook"] is None
    assert theirs["s_to_best"]["values"] == [6.0, 6.0]
    assert "| – (2.0 – –) |" in readme.table([ours, theirs])  # between a time and a miss lies a miss


def small_case(case: Case, cache: Path, device: torch.device) -> TrialData:
    return open_data(log_of(sequences()[:-1], NUM_ITEMS), ProtocolConfig(), device)


def in_process(function: Any, *arguments: Any) -> Any:
    """In place of a process of its own, which takes seconds to start."""
    return function(*arguments)


def test_a_short_run_writes_a_record_and_keeps_its_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time_to_quality, "open_case", small_case)
    monkeypatch.setattr(time_to_quality, "in_child", in_process)
    command = ["--logs", "demo", "--repeats", "1", "--max-epochs", "2", "--set", "hidden_dim=8"]
    command += ["--threads", "1", "--device", "cpu", "--curves", str(tmp_path / "curves.jsonl")]
    time_to_quality.main([*command, "--records", str(tmp_path)])
    (record,) = newest("time_to_quality", tmp_path)
    assert [row["side"] for row in record["rows"]] == ["ours", "textbook"]
    assert [row["epochs"]["median"] for row in record["rows"]] == [2, 2]
    assert all(0 < row["best_ndcg@10"]["median"] <= 1 for row in record["rows"])
    assert "times ours to 99% of textbook" in readme.table(record["rows"])
    monkeypatch.setattr(time_to_quality, "train_all", None)  # nothing is trained again
    time_to_quality.main([*command, "--records", str(tmp_path / "again")])
    (again,) = newest("time_to_quality", tmp_path / "again")
    assert again["rows"] == record["rows"]
