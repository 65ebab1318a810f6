import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from seqsweep.data_pipeline.history import History, Times
from seqsweep.models.hstu import HSTU, HSTUBlock, HSTUConfig, span_buckets

SMALL = HSTUConfig(hidden_dim=8, num_blocks=2, num_heads=2, dropout=0.3, max_len=6, time_buckets=30)


def build(config: HSTUConfig = SMALL, num_items: int = 20) -> HSTU:
    torch.manual_seed(0)
    model = HSTU(config, num_items).double().eval()
    for name, parameter in model.named_parameters():
        if "_bias" in name or name.endswith("bias"):
            nn.init.normal_(parameter)
    return model


def times(rows: list[list[int]], next_rows: list[list[int]] | None = None) -> Times:
    time_BL = torch.tensor(rows)
    next_BL = torch.tensor(next_rows) if next_rows else torch.cat([time_BL[:, 1:], time_BL[:, -1:] + 9], 1)
    return Times(time_BL, next_BL, time_BL[:, 0], torch.ones(len(rows), dtype=torch.int64))


def history(item_id: list[list[int]], length: list[int], time: Times) -> History:
    return History(torch.tensor(item_id), torch.tensor(length), time)


FULL = history([[3, 7, 5, 1, 2, 4]], [6], times([[100, 100, 160, 3760, 90_160, 90_161]]))


def loop_over_pairs(block: HSTUBlock, x_LD: Tensor, query_time: list[int], key_time: list[int]) -> Tensor:
    """Equations 1 to 3, pair by pair and head by head."""
    length, width = x_LD.shape
    head = width // block.num_heads
    silu = nn.functional.silu
    u_LD, v_LD, q_LD, k_LD = silu(block.uvqk(block.input_norm(x_LD))).chunk(4, dim=1)
    attended_LD = torch.zeros_like(x_LD)
    for h in range(block.num_heads):
        part = slice(h * head, (h + 1) * head)
        for i in range(length):
            for j in range(i + 1):
                span = max(1, abs(query_time[i] - key_time[j]))
                bucket = min(math.floor(math.log(span) / 0.301), block.time_bias.num_embeddings - 1)
                rab = block.distance_bias.weight[i - j, h] + block.time_bias.weight[bucket, h]
                weight = silu(q_LD[i, part] @ k_LD[j, part] + rab) / block.max_len
                attended_LD[i, part] += weight * v_LD[j, part]
    normed_LD = nn.functional.layer_norm(
        attended_LD, (width,), block.pointwise_norm.weight, block.pointwise_norm.bias, eps=1e-6
    )
    return x_LD + block.output(normed_LD * u_LD)  # type: ignore[no-any-return]


@pytest.mark.parametrize("target_time", [False, True])
def test_equals_a_loop_over_the_equations(target_time: bool) -> None:
    model = build(SMALL.model_copy(update={"target_time": target_time}))
    assert FULL.times is not None
    key_time = FULL.times.time_BL[0].tolist()
    query_time = FULL.times.next_time_BL[0].tolist() if target_time else key_time
    x_LD = model.item_embedding.weight[FULL.item_id_BL[0]] * 8**0.5 + model.position_embedding.weight[1:7]
    for block in model.blocks:
        assert isinstance(block, HSTUBlock)
        x_LD = loop_over_pairs(block, x_LD, query_time, key_time)
    torch.testing.assert_close(model.encode(FULL)[0], model.last_norm(x_LD), rtol=0, atol=1e-12)


def test_buckets_grow_with_the_logarithm() -> None:
    # ln(1, 2, 60, 3600, 86400) / .301 = 0, 2.3, 13.6, 27.2, 37.8
    row = [0, 1, 2, 60, 3600, 86400]
    bucket_LL = span_buckets(times([row]), 30, target_time=False)[0]
    assert bucket_LL[:, 0].tolist() == [0, 0, 2, 13, 27, 30]
    assert torch.equal(bucket_LL, bucket_LL.T)
    later = span_buckets(times([row], [[1, 2, 60, 3600, 86400, 0]]), 99, target_time=True)[0]
    assert later[:, 0].tolist() == [0, 2, 13, 27, 37, 0]


def test_buckets_of_the_longest_spans_of_int64() -> None:
    span = 2**62  # ln / .301 = 142.8
    assert span_buckets(times([[0, span]]), 200, target_time=False)[0, 1, 0] == 142
    assert span_buckets(times([[0, span]]), 128, target_time=False)[0, 1, 0] == 128
    nanoseconds = times([[1_700_000_000_000_000_000, 1_700_000_000_000_000_002]])  # float32 would see 0
    assert span_buckets(nanoseconds, 128, target_time=False)[0, 1, 0] == 2


def test_later_items_and_times_do_not_change_earlier_states() -> None:
    model = build()
    assert FULL.times is not None
    before = model.encode(FULL)
    item_id_BL, time_BL = FULL.item_id_BL.clone(), FULL.times.time_BL.clone()
    item_id_BL[0, 4] = 9
    time_BL[0, 4] -= 40_000
    after = model.encode(History(item_id_BL, FULL.length_B, replace(FULL.times, time_BL=time_BL)))
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.isclose(before[:, 4:], after[:, 4:]).all(-1).any()


def test_the_targets_time_is_read_only_where_asked_for() -> None:
    assert FULL.times is not None
    other = replace(FULL, times=replace(FULL.times, next_time_BL=FULL.times.next_time_BL + 10**6))
    blind, aware = build(), build(SMALL.model_copy(update={"target_time": True}))
    assert torch.equal(blind.encode(FULL), blind.encode(other))
    assert not torch.isclose(aware.last_state(FULL), aware.last_state(other)).any()


def test_padding_does_not_matter_and_is_finite() -> None:
    model = build()
    alone = model.last_state(history([[3, 7]], [2], times([[10, 90]])))
    beside = history([[3, 7, 0, 0], [1, 2, 4, 5]], [2, 4], times([[10, 90, 90, 90], [1, 2, 3, 4]]))
    torch.testing.assert_close(model.last_state(beside)[:1], alone, rtol=0, atol=1e-12)
    assert model.encode(beside).isfinite().all()


def test_every_parameter_but_padding_learns() -> None:
    model = build().train()
    model.encode(FULL).pow(3).sum().backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
    for table in (model.item_embedding, model.position_embedding):
        assert table.weight.grad is not None and not table.weight.grad[0].any()


def test_size() -> None:
    config = HSTUConfig(hidden_dim=64, num_blocks=2, num_heads=2, max_len=200)
    num_parameters = sum(p.numel() for p in HSTU(config, 3416).parameters())
    # blocks: 4 + 1 matrices with biases, two norms, and a weight a head for each of 200 distances, 129 times
    block = 5 * (64 * 64 + 64) + 2 * 128 + 2 * (200 + 129)
    assert num_parameters == 3417 * 64 + 201 * 64 + 2 * block + 128


def test_a_catalogue_and_a_history_of_one() -> None:
    model = build(num_items=1)
    given = history([[1]], [1], times([[5]]))
    assert model.score(model.last_state(given)).shape == (1, 1)
    assert model.score(model.last_state(given)).isfinite().all()


def test_bfloat16_autocast_stays_close() -> None:
    torch.manual_seed(0)
    model = HSTU(SMALL, 20).eval()
    with torch.autocast("cpu", torch.bfloat16):
        state_BD = model.last_state(FULL)
    torch.testing.assert_close(state_BD.float(), model.last_state(FULL), rtol=0.1, atol=0.1)


def test_width_must_be_a_multiple_of_heads() -> None:
    with pytest.raises(ValidationError, match="got hidden_dim=50 and num_heads=4"):
        HSTUConfig(hidden_dim=50, num_heads=4)
