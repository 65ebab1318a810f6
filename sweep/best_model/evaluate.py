"""A trained model measured as its study measured it, on the log it was trained on or on another.

Shapes: B users of a block, D width, L length, N scored items, V items of the log, W places that the model
reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from seqsweep.data_pipeline.config import DataConfig
from seqsweep.data_pipeline.errors import DataError
from seqsweep.data_pipeline.history import History, Times
from seqsweep.data_pipeline.ids import PAD_ITEM_ID
from seqsweep.data_pipeline.preparing.prepare import is_prepared, prepare
from seqsweep.data_pipeline.preparing.raw_log import in_unit, places_among
from seqsweep.data_pipeline.split import Targets, silent
from seqsweep.data_pipeline.store import SequenceLog, open_log, read_item_ids
from seqsweep.data_pipeline.views.device import DeviceSequences
from seqsweep.results.metrics import Ranks, compute_metrics
from seqsweep.sweep.best_model.model_folder import EXPORT_AGAIN, Exported, ModelError
from seqsweep.sweep.engine.process import flush_denormals
from seqsweep.sweep.engine.ranking import ModelScorer, Ranker, Scorer
from seqsweep.sweep.settings.protocol import ProtocolConfig
from seqsweep.sweep.settings.study_config import StudyConfig
from seqsweep.sweep.storage.trial_files import SPLITS

Say = Callable[[str], None]


@dataclass(frozen=True)
class Evaluation:
    log: str
    fingerprint: str
    is_own_log: bool  # the one that was trained on, prepared alike
    protocol: str
    num_users: dict[str, int]  # by split
    num_unknown_items: int  # of another log: no model can tell them
    num_unread_users: int  # of another log: targets after none but unknown items, by split together
    metrics: dict[str, dict[str, float]]  # by split

    def as_record(self) -> dict[str, Any]:
        return {**vars(self)}


def evaluate(
    exported: Exported, log: str | None, given: Mapping[str, Any], cache: Path, say: Say
) -> Evaluation:
    """Rank the held-out items of a log. `given` are settings of data that win over the model's.

    Of the log that was trained on, on the same device, all is as in metrics.json to the last digit. Of
    another log the items that the model does not know lose, and all items of the model are
    candidates.
    """
    protocol, data = recorded_protocol(exported)
    config = data_settings(data, log or own_log(exported), given)
    folder = prepare(config, cache.absolute(), silent)  # what it would warn of is said of training on it
    opened = open_log(folder)
    split = protocol.open_split(opened, say)
    sequences = DeviceSequences(opened, exported.device, split.train_end_U)
    is_own = opened.manifest.fingerprint == exported.config.fingerprint
    own_scorer = ModelScorer(exported.model, autocast=exported.autocast)
    mapped = None if is_own else MappedScorer(exported, own_scorer, opened, folder)
    num_scored = opened.num_items if mapped is None else mapped.num_scored
    parts: tuple[tuple[Literal["valid", "test"], Targets], ...] = (
        ("valid", split.valid),
        ("test", split.test),
    )
    rankers: dict[str, Ranker] = {
        part: Ranker(opened, sequences, targets, protocol, part, num_scored) for part, targets in parts
    }
    for part, ranker in rankers.items():
        if len(ranker.user_id_U) == 0:
            raise DataError(
                f"{config.path} must have users with a {part} target, got none under {protocol.split} with "
                f"min_eval_interactions={protocol.min_eval_interactions}; use a log with longer histories"
            )
    ranks = measure(mapped or own_scorer, rankers, exported.config.num_threads)
    return Evaluation(
        log=config.path,
        fingerprint=opened.manifest.fingerprint,
        is_own_log=is_own,
        protocol=protocol.describe(opened, split),
        num_users={part: len(ranker.user_id_U) for part, ranker in rankers.items()},
        num_unknown_items=0 if mapped is None else mapped.num_unknown_items,
        num_unread_users=0 if mapped is None else mapped.num_unread,
        metrics={part: compute_metrics(ranks[part]) for part in SPLITS},
    )


def measure(scorer: Scorer, rankers: Mapping[str, Ranker], num_threads: int | None) -> dict[str, Ranks]:
    """Ranks by split, computed as a trial does that has so many threads."""
    flush_denormals()
    with threads(num_threads):
        return {part: ranker.rank(scorer) for part, ranker in rankers.items()}


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Of PyTorch: sums are rounded otherwise with another number of them. None: as many as there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def recorded_protocol(exported: Exported) -> tuple[ProtocolConfig, DataConfig]:
    """How the model was compared, and on what; of a folder that does not say so from its study's settings."""
    config = exported.config
    if config.protocol is not None and config.data is not None:
        return config.protocol, config.data
    study = study_settings(exported)
    if study is None:
        raise ModelError(
            f"{exported.folder / 'config.json'} must have protocol and data, which the first versions did "
            f"not write, and there is no study beside it; {EXPORT_AGAIN}"
        )
    return study.protocol, study.data


def study_settings(exported: Exported) -> StudyConfig | None:
    """Of the study that the folder lies in; None of a model that was passed on."""
    settings = exported.folder.absolute().parent / "study.toml"
    return StudyConfig.load(settings) if settings.is_file() else None


def own_data(exported: Exported) -> DataConfig:
    """How the log was read that was trained on, as far as that is known."""
    if exported.config.data is not None:
        return exported.config.data
    study = study_settings(exported)
    return DataConfig() if study is None else study.data


def own_log(exported: Exported) -> str:
    """The path of the log that was trained on: its study knows it; a model is passed on, and does not."""
    study = study_settings(exported)
    if study is not None:
        return study.data.path
    if exported.config.data is not None and exported.config.data.path == "demo":
        return "demo"
    raise ModelError(
        f"{exported.folder} lies apart from its study, which knows the log that it was trained on: name a log"
    )


def data_settings(data: DataConfig, log: str, given: Mapping[str, Any]) -> DataConfig:
    """Those of the log that was trained on, but for what is given. A prepared folder has its own."""
    values = {**data.model_dump(), "path": log, **given}
    if is_prepared(DataConfig(path=values["path"])):
        values = {"path": values["path"], **given}  # which is refused, where anything is given
    return StudyConfig.build({"data": values}).data


class MappedScorer:
    """A model on a log with other items: it reads what it knows, and scores all that either of them has.

    Column j is the log's item j + 1; then come the model's other items.
    """

    def __init__(self, exported: Exported, scorer: ModelScorer, log: SequenceLog, folder: Path) -> None:
        self.max_len = int(np.diff(log.offset_U).max())  # unknown items don't take places of the window
        self.uses_time = scorer.uses_time
        self.num_unread = 0
        self._scorer = scorer
        raw_id = read_item_ids(folder)["raw_item_id"].combine_chunks()
        model_item_V = places_among(raw_id, exported.item_ids) + 1
        self.num_unknown_items = int((model_item_V == PAD_ITEM_ID).sum())
        others = np.setdiff1d(np.arange(1, exported.config.num_items + 1), model_item_V)
        device = exported.device
        self._model_item_V = torch.from_numpy(np.concatenate([[PAD_ITEM_ID], model_item_V])).to(device)
        self._column_N = torch.from_numpy(np.concatenate([model_item_V, others])).to(device)
        self.num_scored = len(self._column_N)
        clock = exported.config.clock
        self._units = log.manifest.time_unit, None if clock is None else clock.unit

    def read(self, history: History) -> Tensor:
        """States of the last known items of each history, as many as the model reads."""
        item_id_BL = self._model_item_V[history.item_id_BL]
        is_known_BL = item_id_BL != PAD_ITEM_ID
        length_B = is_known_BL.sum(1)
        order_BL = (~is_known_BL).to(torch.int8).argsort(dim=1, stable=True)  # the known ones to the front
        width = min(self._scorer.max_len, max(1, int(length_B.max())))
        place_BW = (length_B - width).clamp(min=0)[:, None] + torch.arange(width, device=length_B.device)
        order_BW = order_BL.gather(1, place_BW)
        times = None
        if history.times is not None:  # padding has the last item's
            last_BW = torch.minimum(place_BW, (length_B - 1).clamp(min=0)[:, None])
            times = self._known_times(history, order_BL.gather(1, last_BW))
        known = History(item_id_BL.gather(1, order_BW), length_B.clamp(1, width), times)
        state_BD = self._scorer.read(known)
        self.num_unread += int((length_B == 0).sum())
        return state_BD.masked_fill((length_B == 0)[:, None], 0)  # all items alike

    def score(self, state_BD: Tensor) -> Tensor:
        score_BV = self._scorer.score(state_BD)
        lowest_B1 = score_BV.new_full((len(score_BV), 1), torch.finfo(score_BV.dtype).min)
        return torch.cat([lowest_B1, score_BV], 1)[:, self._column_N]

    def _known_times(self, history: History, place_BW: Tensor) -> Times:
        """After the last known item comes the target, after any other the next known one."""
        times = history.times
        assert times is not None
        target_B1 = times.next_time_BL.gather(1, history.length_B[:, None] - 1)
        time_BW = times.time_BL.gather(1, place_BW)
        next_time_BW = torch.cat([time_BW[:, 1:], target_B1], 1)
        is_last_BW = place_BW == place_BW[:, -1:]
        return Times(
            self._in_unit(time_BW),
            self._in_unit(torch.where(is_last_BW, target_B1, next_time_BW)),
            self._in_unit(times.origin_B),
            self._in_unit(times.unit_B).clamp(min=1),
        )

    def _in_unit(self, time: Tensor) -> Tensor:
        return in_unit(time, *self._units)
