"""The rows every leaderboard is read against: counting baselines, and the ceiling of a generated log."""

import numpy as np

from seqsweep.data_pipeline.schema import Manifest
from seqsweep.data_pipeline.split import training_mask
from seqsweep.models.baselines import BASELINES, TrainingPart
from seqsweep.results.metrics import compute_metrics
from seqsweep.results.schema import TrialRecord
from seqsweep.sweep.engine.opened_log import TrialData
from seqsweep.sweep.engine.ranking import Ranker
from seqsweep.sweep.settings.protocol import ProtocolConfig


def score_baselines(data: TrialData, protocol: ProtocolConfig, objective: str) -> list[TrialRecord]:
    """Fitted on the training part, ranked as the trials are, on validation and test.

    A baseline that needs timestamps has no row where the log has none.
    """
    test_ranker = Ranker(data.log, data.sequences, data.split.test, protocol, "test")
    part = training_part(data)
    records = []
    for name, baseline in BASELINES.items():
        if baseline.needs_time and part.time is None:
            continue
        scorer = baseline(part)
        valid = compute_metrics(data.valid_ranker.rank(scorer))
        test = compute_metrics(test_ranker.rank(scorer))
        records.append(TrialRecord(None, "baseline", valid[objective], model=name, valid=valid, test=test))
    return records


def ceiling_records(manifest: Manifest, protocol: ProtocolConfig, objective: str) -> list[TrialRecord]:
    """The best that any model could reach on a generated log, with and without looking at times.

    Known for the targets of leave-one-out alone.
    """
    ceilings = manifest.ceilings
    if ceilings is None or protocol.split != "leave_one_out":
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


def training_part(data: TrialData) -> TrainingPart:
    offset_U = data.log.offset_U
    is_train = training_mask(offset_U, data.split.train_end_U)
    user_id = np.repeat(np.arange(data.log.num_users, dtype=np.int32), np.diff(offset_U))
    item_id = np.concatenate([np.zeros(0, np.int32), *data.log.item_chunks()])
    previous_id = np.concatenate([np.zeros(1, np.int32), item_id])[:-1]
    begin_U = offset_U[:-1]
    previous_id[begin_U[begin_U < len(item_id)]] = 0
    time = None
    if data.log.has_timestamps:
        time = np.concatenate([np.zeros(0, np.int64), *data.log.timestamp_chunks()])[is_train]
    return TrainingPart(user_id[is_train], item_id[is_train], previous_id[is_train], time, data.log.num_items)
