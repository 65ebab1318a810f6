import pytest
import torch
from pydantic import ValidationError
from torch import nn

from seqsweep.data_pipeline.history import History
from seqsweep.data_pipeline.ids import MASK_ITEM_ID
from seqsweep.data_pipeline.split import leave_one_out
from seqsweep.data_pipeline.views.batches import MaskedItem, TrainBatches
from seqsweep.data_pipeline.views.device import DeviceSequences
from seqsweep.models.bert4rec import BERT4Rec, BERT4RecConfig, EncoderBlock
from tests.logs import log_of

SMALL = BERT4RecConfig(hidden_dim=8, num_blocks=2, num_heads=2, dropout=0.3, max_len=6)


def build(config: BERT4RecConfig = SMALL, num_items: int = 20) -> BERT4Rec:
    torch.manual_seed(0)
    return BERT4Rec(config, num_items).double().eval()


def history(item_id: list[list[int]], length: list[int]) -> History:
    return History(torch.tensor(item_id), torch.tensor(length))


def torch_layer(block: EncoderBlock) -> nn.TransformerEncoderLayer:
    """Torch's own post-norm layer with the block's weights."""
    width, inner = block.narrow.weight.shape
    heads = block.attention.num_heads
    layer = nn.TransformerEncoderLayer(
        width, heads, inner, activation="gelu", layer_norm_eps=1e-8, batch_first=True, dtype=torch.float64
    )
    ours = {
        "self_attn.in_proj_": block.attention.query_key_value,
        "self_attn.out_proj.": block.attention.output,
        "linear1.": block.widen,
        "linear2.": block.narrow,
        "norm1.": block.attention_norm,
        "norm2.": block.feed_forward_norm,
    }
    layer.load_state_dict({k + kind: v for k, m in ours.items() for kind, v in m.state_dict().items()})
    return layer.eval()


def test_blocks_equal_torchs_post_norm_layers() -> None:
    model = build()
    for parameter in model.blocks.parameters():
        nn.init.normal_(parameter, std=0.5)
    length = torch.tensor([6, 4, 1])
    is_real_BL = torch.arange(6) < length[:, None]
    ours_BLD = theirs_BLD = torch.randn(3, 6, 8, dtype=torch.float64)
    for block in model.blocks:
        assert isinstance(block, EncoderBlock)
        ours_BLD = block(ours_BLD, is_real_BL)
        theirs_BLD = torch_layer(block)(theirs_BLD, src_key_padding_mask=~is_real_BL)
    torch.testing.assert_close(ours_BLD[is_real_BL], theirs_BLD[is_real_BL], rtol=0, atol=1e-12)


def test_input_and_head_follow_the_formulas() -> None:
    """Without blocks: LN(gelu(W (√D * item + position) + b)); a masked place has a vector for its item."""
    model = build()
    model.blocks = nn.ModuleList()
    state_BLD = model.encode(history([[3, MASK_ITEM_ID, 0]], [2]))
    item_LD = torch.stack([model.item_embedding.weight[3], model.mask_vector])
    x_LD = (
        item_LD * 8**0.5 + model.position_embedding.weight[6:8]
    )  # of a window of 7 places with row 0 unused
    expected_LD = nn.functional.layer_norm(nn.functional.gelu(model.head(x_LD)), (8,), eps=1e-8)
    torch.testing.assert_close(state_BLD[0, :2], expected_LD, rtol=0, atol=1e-12)


def test_every_place_sees_all_real_places_and_no_padding() -> None:
    model = build()
    before = model.encode(history([[3, 7, 5, 0]], [3]))
    last_changed = model.encode(history([[3, 7, 6, 0]], [3]))
    padding_changed = model.encode(history([[3, 7, 5, 9]], [3]))
    assert not torch.isclose(before[0, :3], last_changed[0, :3]).all(-1).any()
    assert torch.equal(before[0, :3], padding_changed[0, :3])
    assert before.isfinite().all()


def test_padding_does_not_matter() -> None:
    model = build()
    alone = model.last_state(history([[3, 7]], [2]))
    padded = model.last_state(history([[3, 7, 0, 0], [1, 2, 4, 5]], [2, 4]))
    torch.testing.assert_close(padded[:1], alone, rtol=0, atol=1e-12)


def test_the_next_item_is_told_at_a_mask_after_the_last() -> None:
    model = build()
    given = history([[3, 7, 5, 1, 2, 4], [1, 2, 0, 0, 0, 0]], [6, 2])  # the first is as long as may be
    m = MASK_ITEM_ID
    masked = model.encode(history([[3, 7, 5, 1, 2, 4, m], [1, 2, m, 0, 0, 0, 0]], [7, 3]))
    state_BD = model.last_state(given)
    assert torch.equal(state_BD, torch.stack([masked[0, 6], masked[1, 2]]))
    assert given.item_id_BL.tolist()[1] == [1, 2, 0, 0, 0, 0]


def test_the_mask_is_learned_and_padding_is_not() -> None:
    model = build().train()
    model.last_state(history([[3, 7, 0], [1, 2, 4]], [2, 3])).square().sum().backward()  # type: ignore[no-untyped-call]
    item_grad, position_grad = model.item_embedding.weight.grad, model.position_embedding.weight.grad
    assert item_grad is not None and position_grad is not None and model.mask_vector.grad is not None
    assert model.mask_vector.grad.any()
    assert not item_grad[0].any() and item_grad[[1, 2, 3, 4, 7]].any(-1).all() and not item_grad[5].any()
    assert not position_grad[0].any() and position_grad[4:].any(-1).all()


def test_size() -> None:
    config = BERT4RecConfig(hidden_dim=64, num_blocks=2, num_heads=2, max_len=200)
    num_parameters = sum(p.numel() for p in BERT4Rec(config, 3416).parameters())
    # items, mask, positions; blocks of 4 + 8 matrices' worth with biases and two norms; the head and its norm
    block = 12 * 64 * 64 + (4 + 4 + 1) * 64 + 2 * 128
    assert num_parameters == 3417 * 64 + 64 + 202 * 64 + 2 * block + (64 * 64 + 64) + 128


def test_a_catalogue_and_a_history_of_one() -> None:
    model = build(num_items=1)
    given = history([[1]], [1])
    assert model.score(model.last_state(given)).shape == (1, 1)
    assert model.score(model.last_state(given)).isfinite().all()
    assert model.encode(history([[MASK_ITEM_ID]], [1])).isfinite().all()


def test_bfloat16_autocast_stays_close() -> None:
    model = build().float()
    given = history([[3, 7, 0, 0], [1, 2, 4, 5]], [2, 4])
    with torch.autocast("cpu", torch.bfloat16):
        state_BD = model.last_state(given)
    torch.testing.assert_close(state_BD.float(), model.last_state(given), rtol=0.05, atol=0.05)


def test_post_norm_blocks_learn_a_ring_from_masked_items() -> None:
    torch.manual_seed(0)
    num_items = 12
    walks = [[(start + step) % num_items + 1 for step in range(40)] for start in range(num_items)]
    log = log_of(walks * 4, num_items)
    sequences = DeviceSequences(log, torch.device("cpu"), leave_one_out(log.offset_U).train_end_U)
    config = BERT4RecConfig(hidden_dim=32, max_len=6, dropout=0.1, mask_last_share=0.5)
    task = MaskedItem(config.mask_probability, config.mask_last_share)
    batches = TrainBatches(sequences, max_len=6, batch_size=48, window="random", task=task)
    model = BERT4Rec(config, num_items)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for epoch in range(200):
        for batch in batches.epoch(epoch):
            logits_TV = model.score(model.encode(batch.history).flatten(0, 1)[batch.place_T])
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits_TV, batch.target_id_T - 1).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    start_B = torch.arange(num_items)
    given = History((start_B[:, None] + torch.arange(6)) % num_items + 1, torch.full((num_items,), 6))
    score_BV = model.eval().score(model.last_state(given))
    assert torch.equal(score_BV.argmax(1), (start_B + 6) % num_items)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"hidden_dim": 10, "num_heads": 4}, "got hidden_dim=10 and num_heads=4"),
        ({"mask_probability": 0.0}, "greater than 0"),
        ({"mask_last_share": 1.5}, "less than or equal to 1"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, float], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        BERT4RecConfig.model_validate(settings)
