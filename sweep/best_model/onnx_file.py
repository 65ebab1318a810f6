"""A trained model as one ONNX file: item ids in, scores of all items out; for services without PyTorch.

Shapes: B users, L length, V items.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from seqsweep.data_pipeline.history import History
from seqsweep.data_pipeline.ids import PAD_ITEM_ID
from seqsweep.models import MODELS, SequenceModel
from seqsweep.results.files import replace_file
from seqsweep.sweep.best_model.model_folder import Exported, ModelError
from seqsweep.sweep.errors import ConfigError

MAX_DIFFERENCE = 1e-3  # of scores, in units of their standard deviation: 1e-6 is usual
CHECKED_USERS = 16
PACKAGES = ("onnx", "onnxscript", "onnxruntime")  # of the extra `onnx`


class Scores(nn.Module):
    """What is exported. The history's length is the number of its items that are not padding."""

    def __init__(self, model: SequenceModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, item_id_BL: Tensor) -> Tensor:
        length_B = (item_id_BL != PAD_ITEM_ID).sum(1)
        return self.model.score(self.model.last_state(History(item_id_BL, length_B)))


def export_onnx(exported: Exported, path: Path) -> float:
    """Write `path`, and give the largest difference to PyTorch's scores, in their standard deviation.

    The graph takes `item_ids` (B, L) int64, items 1 to V oldest first, padded on the right with 0, L at most
    the model's max_len; and gives `scores` (B, V) float32, column j for item j + 1. Nothing stays at `path`
    where ONNX Runtime's scores differ. Raises ModelError for a model that can't be exported, and ConfigError
    where the packages are missing.
    """
    model = exported.model
    if model.uses_time:
        able = ", ".join(name for name, each in MODELS.items() if not each.uses_time)
        raise ModelError(
            f"a model that reads times can't be exported, got {exported.config.model}: {able} can"
        )
    if getattr(model.config, "has_streams", False):
        raise ModelError(
            "a model with residual=mhc can't be exported: the graph would hold for one length of histories"
        )
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"export needs {', '.join(missing)}: pip install 'seqsweep[onnx]'")
    scores = Scores(model.cpu()).eval()
    difference = math.inf

    def write(staging: Path) -> None:
        nonlocal difference
        _write(scores, exported, staging)
        difference = _largest_difference(scores, exported, staging)
        if not difference <= MAX_DIFFERENCE:
            raise ModelError(
                f"ONNX Runtime must give PyTorch's scores to {MAX_DIFFERENCE:g} of their standard deviation, "
                f"got a difference of {difference:.2g}; nothing was written"
            )

    replace_file(path, write)
    return difference


def _write(scores: Scores, exported: Exported, path: Path) -> None:
    max_len = exported.model.config.max_len
    length = min(max_len, 3)
    example_BL = torch.ones((2, length), dtype=torch.int64)
    axes = {0: torch.export.Dim("batch")}
    if max_len > 1:
        axes[1] = torch.export.Dim("length", min=1, max=max_len)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of packages that nobody needs
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its own ways
        torch.onnx.export(
            scores,
            (example_BL,),
            path,
            input_names=["item_ids"],
            output_names=["scores"],
            dynamic_shapes=(axes,),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    _forget_where_it_was_made(path)


def _forget_where_it_was_made(path: Path) -> None:
    """The exporter notes lines of code, with this machine's folders: the file is made to be passed on."""
    import onnx

    model = onnx.load(path)
    graphs = [model.graph, *model.functions]
    parts = [model, *graphs, *(node for graph in graphs for node in graph.node)]
    parts += [each for graph in graphs for each in graph.value_info]
    parts += [*model.graph.input, *model.graph.output, *model.graph.initializer]
    for part in parts:
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
    onnx.save(model, path)


def _largest_difference(scores: Scores, exported: Exported, path: Path) -> float:
    """Over histories of several lengths and numbers of users, other than those it was traced with."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    max_len, largest = exported.model.config.max_len, 0.0
    for num_users, length in ((1, 1), (CHECKED_USERS, max_len), (CHECKED_USERS - 1, max(1, max_len // 2))):
        item_id_BL = generator.integers(1, exported.config.num_items + 1, (num_users, length))
        length_B = generator.integers(1, length + 1, num_users)
        item_id_BL[np.arange(length) >= length_B[:, None]] = PAD_ITEM_ID
        (got_BV,) = session.run(["scores"], {"item_ids": item_id_BL})
        with torch.inference_mode():
            want_BV = scores(torch.from_numpy(item_id_BL)).numpy()
        largest = max(largest, float(np.abs(got_BV - want_BV).max() / (want_BV.std() + 1e-12)))
    return largest
