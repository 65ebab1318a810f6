"""A trained model measured as its study measured it, on the log it was trained on or on another.

Shapes: B users of a block, D width, L length, V items of the log, W items of the log
or the model.
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

from data_pipeline.config import DataConfig
from data_pipeline.device import DeviceSequences
from data_pipeline.histories import places_among
from data_pipeline.history import History, Times
from data_pipeline.ids import PAD_ITEM_ID
from data_pipeline.prepare import prepare
from data_pipeline.schema import UNITS_PER_SECOND
from data_pipeline.split import Targets
from data_pipeline.store import SequenceLog, open_log, read_item_ids
from results.metrics import Ranks, compute_metrics
from sweep.config import StudyConfig
from sweep.evaluation import ModelScorer, ProtocolConfig, Ranker, Scorer
from sweep.exported import EXPORT_AGAIN, Exported, ModelError
from sweep.host import flush_denormals
from sweep.ranks import SPLITS

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
    protocol, data = compared(exported)
    config = data_settings(data, log or own_log(exported), given)
    folder = prepare(config, cache.absolute(), say)
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


def compared(exported: Exported) -> tuple[ProtocolConfig, DataConfig]:
    """How the model was compared, and on what; of a folder that does not say so from its study's settings."""
    config = exported.config
    if config.protocol is not None and config.data is not None:
        return config.protocol, config.data
    settings = exported.folder.parent / "study.toml"
    if not settings.is_file():
        raise ModelError(
            f"{exported.folder / 'config.json'} must have protocol and data, which the first versions did "
            f"not write, and there is no study beside it; {EXPORT_AGAIN}"
        )
    study = StudyConfig.load(settings)
    return study.protocol, study.data


def own_log(exported: Exported) -> str:
    """The path of the log that was trained on: its study knows it; a model is passed on, and does not."""
    settings = exported.folder.parent / "study.toml"
    if settings.is_file():
        return StudyConfig.load(settings).data.path
    if exported.config.data is not None and exported.config.data.path == "demo":
        return "demo"
    raise ModelError(
        f"{exported.folder} lies apart from its study, which knows the log that it was trained on: name a log"
    )


def data_settings(data: DataConfig, log: str, given: Mapping[str, Any]) -> DataConfig:
    """Those of the log that was trained on, but for what is given. A prepared folder has its own."""
    values = {**data.model_dump(), "path": log, **given}
    if (Path(values["path"]) / "manifest.json").is_file():
        return DataConfig(path=values["path"])
    return StudyConfig.build({"data": values}).data


class MappedScorer:
    """A model on a log with other items: it reads what it knows, and scores all that either of them has.

    Column j is the log's item j + 1; then come the model's other items.
    """

    def __init__(self, exported: Exported, scorer: ModelScorer, log: SequenceLog, folder: Path) -> None:
        self.max_len, self.uses_time = scorer.max_len, scorer.uses_time
        self.num_unread = 0
        self._scorer = scorer
        raw_id = read_item_ids(folder)["raw_item_id"].combine_chunks()
        model_item_V = places_among(raw_id, exported.item_ids) + 1
        self.num_unknown_items = int((model_item_V == PAD_ITEM_ID).sum())
        others = np.setdiff1d(np.arange(1, exported.config.num_items + 1), model_item_V)
        device = exported.device
        self._model_item_V = torch.from_numpy(np.concatenate([[PAD_ITEM_ID], model_item_V])).to(device)
        self._column_W = torch.from_numpy(np.concatenate([model_item_V, others])).to(device)
        self.num_scored = len(self._column_W)
        clock, unit = exported.config.clock, log.manifest.time_unit
        self._units = None if clock is None or unit is None else (unit, clock.unit)

    def read(self, history: History) -> Tensor:
        item_id_BL = self._model_item_V[history.item_id_BL]
        is_known_BL = item_id_BL != PAD_ITEM_ID
        length_B = is_known_BL.sum(1)
        order_BL = (~is_known_BL).to(torch.int8).argsort(dim=1, stable=True)  # the known ones to the front
        times = None if history.times is None else self._known_times(history.times, order_BL, length_B)
        width = max(1, int(length_B.max()))
        known = History(item_id_BL.gather(1, order_BL)[:, :width], length_B.clamp(min=1), times)
        state_BD = self._scorer.read(known)
        self.num_unread += int((length_B == 0).sum())
        return state_BD.masked_fill((length_B == 0)[:, None], 0)  # all items alike

    def score(self, state_BD: Tensor) -> Tensor:
        score_BV = self._scorer.score(state_BD)
        lowest_B1 = score_BV.new_full((len(score_BV), 1), torch.finfo(score_BV.dtype).min)
        return torch.cat([lowest_B1, score_BV], 1)[:, self._column_W]

    def _known_times(self, times: Times, order_BL: Tensor, length_B: Tensor) -> Times:
        last_B1 = (length_B - 1).clamp(min=0)[:, None]
        width = max(1, int(length_B.max()))
        place_L = torch.arange(width, device=length_B.device)
        order_BL = order_BL.gather(1, torch.minimum(place_L.expand(len(length_B), -1), last_B1))
        return Times(
            self._in_unit(times.time_BL.gather(1, order_BL)),
            self._in_unit(times.next_time_BL.gather(1, order_BL)),
            self._in_unit(times.origin_B),
            self._in_unit(times.unit_B).clamp(min=1),
        )

    def _in_unit(self, time: Tensor) -> Tensor:
        if self._units is None:
            return time
        have, want = (UNITS_PER_SECOND[unit] for unit in self._units)
        return time * (want // have) if want >= have else time // (have // want)
