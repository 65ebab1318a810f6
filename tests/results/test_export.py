import json
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqsweep.results.best_folder import export_best, load_weights
from seqsweep.results.leaderboard import StudyFacts
from seqsweep.results.model_card import model_card
from seqsweep.results.schema import TrialRecord

ITEM_IDS = pa.table({"item_id": pa.array([1, 2], pa.int32()), "raw_item_id": ["b00x", "b00y"]})


def export(folder: Path, weight: float = 1.0, metrics: dict[str, object] | None = None) -> Path:
    weights: dict[str, npt.NDArray[np.generic]] = {"item_VD": np.full((3, 2), weight, np.float32)}
    return export_best(
        folder,
        weights=weights,
        config={"model": "sasrec", "hidden_dim": 2},
        item_ids=ITEM_IDS,
        metrics={"valid.ndcg@10": 0.25} if metrics is None else metrics,
        card="# Card\n",
    )


def test_the_folder_holds_five_files_that_read_back(tmp_path: Path) -> None:
    best = export(tmp_path)
    assert best == tmp_path / "best"
    assert sorted(path.name for path in best.iterdir()) == [
        "README.md",
        "config.json",
        "item_ids.parquet",
        "metrics.json",
        "model.safetensors",
    ]
    assert json.loads((best / "config.json").read_text()) == {"model": "sasrec", "hidden_dim": 2}
    assert json.loads((best / "metrics.json").read_text()) == {"valid.ndcg@10": 0.25}
    assert pq.read_table(best / "item_ids.parquet").equals(ITEM_IDS)
    assert (best / "README.md").read_text() == "# Card\n"
    assert len({path.stat().st_mode for path in best.iterdir()}) == 1  # others may read all or none
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_weights_come_back_bit_for_bit_whatever_their_memory_order(tmp_path: Path) -> None:
    grid = np.arange(6, dtype=np.float32).reshape(2, 3)
    weights: dict[str, npt.NDArray[np.generic]] = {
        "plain": grid,
        "transposed": grid.T,
        "strided": grid[:, ::2],
        "scalar": np.array(0.5, np.float64),
        "count": np.arange(3),
    }
    best = export_best(tmp_path, weights=weights, config={}, item_ids=ITEM_IDS, metrics={}, card="")
    loaded = load_weights(best)
    assert loaded.keys() == weights.keys()
    for name, array in weights.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)


def test_a_second_export_replaces_the_first(tmp_path: Path) -> None:
    export(tmp_path, weight=1.0)
    stray = tmp_path / "best" / "stray.txt"
    stray.write_text("of the old model")
    best = export(tmp_path, weight=2.0)
    assert load_weights(best)["item_VD"][0, 0] == 2.0
    assert not stray.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_an_export_that_fails_leaves_the_old_model(tmp_path: Path) -> None:
    best = export(tmp_path, weight=1.0)
    with pytest.raises(ValueError, match="not JSON compliant"):
        export(tmp_path, weight=2.0, metrics={"valid.ndcg@10": float("nan")})
    assert load_weights(best)["item_VD"][0, 0] == 1.0


@pytest.mark.parametrize("killed_at", [1, 2])
def test_an_export_killed_at_any_rename_is_made_good_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_at: int
) -> None:
    export(tmp_path, weight=1.0)
    calls = 0
    rename = os.rename

    def die(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == killed_at:
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", die)
        with pytest.raises(KeyboardInterrupt):
            export(tmp_path, weight=2.0)
    if killed_at == 2:  # the old model is still there under the name it was put aside
        assert load_weights(tmp_path / ".best.replaced")["item_VD"][0, 0] == 1.0
    best = export(tmp_path, weight=3.0)
    assert load_weights(best)["item_VD"][0, 0] == 3.0
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_the_card_states_data_protocol_metrics_hparams_and_limits() -> None:
    record = TrialRecord(
        trial=12,
        state="complete",
        objective=0.16543,
        model="sasrec",
        hparams={"lr": 0.001, "norm": "pre|post"},
        valid={"ndcg@10": 0.16543, "hr@10": 0.3},
        test={"ndcg@10": 0.15},
        best_epoch=40,
        num_parameters=212_000,
    )
    facts = StudyFacts(
        study="ml-1m",
        fingerprint="3f2a",
        objective="valid.ndcg@10",
        protocol="leave_one_out, full ranking",
        versions={"torch": "2.13"},
    )
    card = model_card(record, facts, {"users": 6040, "tie share": 0.44})
    assert "Over seeds" not in card
    over_seeds = model_card(record, facts, {}, [0.15, 0.17])
    assert (
        "2 fresh seeds: valid.ndcg@10 0.1500, 0.1700; mean 0.1600, standard deviation 0.0141." in over_seeds
    )
    assert card.startswith("# sasrec, trial 12 of study ml-1m\n")
    assert "Chosen for the best valid.ndcg@10, at epoch 40; 212,000 parameters." in card
    for line in (
        "| users | 6040 |",
        "| fingerprint | 3f2a |",
        "leave_one_out, full ranking",
        "| ndcg@10 | 0.1654 | 0.1500 |",
        "| hr@10 | 0.3000 | - |",
        "| lr | 0.001 |",
        "| norm | pre\\|post |",
        "## Known limits",
        "| torch | 2.13 |",
    ):
        assert line in card.splitlines()
