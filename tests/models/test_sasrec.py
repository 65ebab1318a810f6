from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from seqsweep.data_pipeline.history import History
from seqsweep.models.sasrec import SASRec, SASRecConfig

GOLDEN = Path(__file__).parents[1] / "golden"
NORMS = ("original", "pre", "post")


def reference_weights(golden: dict[str, Any], num_blocks: int) -> dict[str, Tensor]:
    """The reference's names to ours: attention projections are packed q, k, v; convolutions have width 1."""
    w = {name.removeprefix("w."): torch.from_numpy(golden[name]) for name in golden if name.startswith("w.")}
    ours = {
        "item_embedding.weight": w["item_emb.weight"],
        "position_embedding.weight": w["pos_emb.weight"],
        "last_norm.weight": w["last_layernorm.weight"],
        "last_norm.bias": w["last_layernorm.bias"],
    }
    for i in range(num_blocks):
        width = w[f"attention_layernorms.{i}.weight"].shape[0]
        for kind in ("weight", "bias"):
            packed = w[f"attention_layers.{i}.in_proj_{kind}"]
            ours[f"blocks.{i}.attention.query.{kind}"] = packed[:width]
            ours[f"blocks.{i}.attention.key_value.{kind}"] = packed[width:]
            ours[f"blocks.{i}.attention.output.{kind}"] = w[f"attention_layers.{i}.out_proj.{kind}"]
            ours[f"blocks.{i}.attention_norm.{kind}"] = w[f"attention_layernorms.{i}.{kind}"]
            ours[f"blocks.{i}.feed_forward_norm.{kind}"] = w[f"forward_layernorms.{i}.{kind}"]
        for conv, linear in (("conv1", "widen"), ("conv2", "narrow")):
            ours[f"blocks.{i}.feed_forward.{linear}.weight"] = w[f"forward_layers.{i}.{conv}.weight"][:, :, 0]
            ours[f"blocks.{i}.feed_forward.{linear}.bias"] = w[f"forward_layers.{i}.{conv}.bias"]
    return ours


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("norm", NORMS)
def test_equals_the_reference_implementation(norm: Any, dtype: torch.dtype, tolerance: float) -> None:
    golden = dict(np.load(GOLDEN / f"sasrec_{norm}.npz"))
    config = SASRecConfig(
        hidden_dim=16, num_blocks=2, num_heads=int(golden["num_heads"]), max_len=12, norm=norm, dropout=0.3
    )
    model = SASRec(config, num_items=40).to(dtype).eval()
    model.load_state_dict({k: v.to(dtype) for k, v in reference_weights(golden, 2).items()})
    item_id = torch.from_numpy(golden["item_id"])
    hidden = model.encode(History(item_id, torch.full((4,), 12)))
    torch.testing.assert_close(hidden, torch.from_numpy(golden["hidden"]).to(dtype), rtol=0, atol=tolerance)
    if "last_scores" in golden:
        expected = torch.from_numpy(golden["last_scores"]).to(dtype)[:, 1:]
        torch.testing.assert_close(model.score(hidden[:, -1]), expected, rtol=0, atol=10 * tolerance)


def test_size_at_the_papers_setting() -> None:
    config = SASRecConfig(hidden_dim=50, num_blocks=2, num_heads=1, max_len=200)
    num_parameters = sum(p.numel() for p in SASRec(config, 3416).parameters())
    # items 3417*50, positions 201*50, two blocks of 4+2 matrices 50x50 with biases and two norms, a last norm
    assert num_parameters == 3417 * 50 + 201 * 50 + 2 * (6 * (50 * 50 + 50) + 2 * 100) + 100


def test_width_must_be_a_multiple_of_heads() -> None:
    with pytest.raises(ValueError, match="multiple of num_heads, got hidden_dim=50 and num_heads=4"):
        SASRecConfig(hidden_dim=50, num_heads=4)


@pytest.mark.parametrize("norm", NORMS)
def test_positions_count_from_the_end(norm: Any) -> None:
    """A history's last state is the same whether it is alone or padded beside a longer one."""
    model = SASRec(SASRecConfig(hidden_dim=8, max_len=6, norm=norm), 20).double().eval()
    short = model.encode(History(torch.tensor([[3, 7]]), torch.tensor([2])))[0, 1]
    padded = model.encode(History(torch.tensor([[3, 7, 0, 0], [1, 2, 4, 5]]), torch.tensor([2, 4])))[0, 1]
    torch.testing.assert_close(short, padded, rtol=0, atol=1e-12)
