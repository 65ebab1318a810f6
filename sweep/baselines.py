"""The rows every leaderboard is read against: counting baselines, and the ceiling of a generated log."""

import numpy as np
import numpy.typing as npt

from data_pipeline.schema import Manifest
from data_pipeline.split import training_mask
from models.baselines import BASELINES
from results.metrics import compute_metrics
from results.schema import TrialRecord
from sweep.evaluation import ProtocolConfig, Ranker
from sweep.trial import TrialData


def score_baselines(data: TrialData, protocol: ProtocolConfig, objective: str) -> list[TrialRecord]:
    """Fitted on the training part, ranked as the trials are, on validation and test."""
    test_ranker = Ranker(data.log, data.sequences, data.split.test, protocol, "test")
    item_id, previous_id = _training_pairs(data)
    records = []
    for name, baseline in BASELINES.items():
        scorer = baseline(item_id, previous_id, data.log.num_items)
        valid = compute_metrics(data.valid_ranker.rank(scorer))
        test = compute_metrics(test_ranker.rank(scorer))
        records.append(TrialRecord(None, "baseline", valid[objective], model=name, valid=valid, test=test))
    return records


def ceiling_records(manifest: Manifest, objective: str) -> list[TrialRecord]:
    """The best that any model could reach on a generated log, with and without looking at times."""
    ceilings = manifest.ceilings
    if ceilings is None:
        return []
    return [
        TrialRecord(
            None,
            "ceiling",
            ceilings["valid"][kind].get(objective),
            model=f"time_{kind}_ceiling",
            valid=ceilings["valid"][kind],
            test=ceilings["test"][kind],
        )
        for kind in ceilings["test"]
    ]


def _training_pairs(data: TrialData) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Every training interaction and the item before it (0 for a user's first)."""
    item_id = np.concatenate([np.zeros(0, np.int32), *data.log.item_chunks()])
    begin_U = data.log.offset_U[:-1]
    is_train = training_mask(data.log.offset_U, data.split.train_end_U)
    previous_id = np.concatenate([np.zeros(1, np.int32), item_id])[:-1]
    previous_id[begin_U[begin_U < len(item_id)]] = 0
    return item_id[is_train], previous_id[is_train]
