"""A textbook's training of SASRec, validated after every epoch; see benchmarks/time_to_quality.py.

Plain PyTorch, as in SASRec.pytorch and in tutorials: the block of Kang and McAuley 2018 (queries are
normalised, keys are not), users in a new order every epoch, batches of 128 that are padded on the left to the
full length, cross-entropy over the catalogue, Adam at 1e-3, Xavier-normal weights. Needs torch and NumPy.

The log has each user's items in one line, in order of time, numbered from 1. A JSON object is printed an
epoch; train_s and eval_s are the seconds so far. rectools_quality.py takes from here all but the model.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

BATCH_SIZE, LEARNING_RATE = 128, 1e-3
TOP = 10
USERS_AT_A_TIME = 256  # of validation

HeldOut = list[tuple[np.ndarray, int]]  # a user's history, and the item that came after it
Score = Callable[[torch.Tensor], torch.Tensor]  # (B, L) windows to (B, 1 + items) scores; column 0 is padding


def add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path")
    for name in ("--hidden-dim", "--num-blocks", "--num-heads", "--max-len", "--max-epochs", "--patience"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--dropout", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")


def read_sequences(path: str) -> list[np.ndarray]:
    with open(path) as lines:
        return [np.array(line.split(), np.int64) for line in lines]


def training_part(sequences: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Without each user's last two interactions, where there are three or more."""
    return [sequence[:-2] if len(sequence) >= 3 else sequence for sequence in sequences]


def held_out(sequences: Iterable[np.ndarray]) -> HeldOut:
    """The last item but one of users with three or more; seen items are removed, so it must be a new one."""
    return [(s[:-2], int(s[-2])) for s in sequences if len(s) >= 3 and s[-2] not in s[:-2]]


def padded(sequences: list[np.ndarray], length: int) -> torch.Tensor:
    """The last `length` items of each, filled from the right, (U, length)."""
    item_UL = np.zeros((len(sequences), length), np.int64)
    for row_L, sequence in zip(item_UL, sequences, strict=True):
        kept = sequence[-length:]
        row_L[length - len(kept) :] = kept
    return torch.from_numpy(item_UL)


def expected_gain(better_B: torch.Tensor, tied_B: torch.Tensor) -> torch.Tensor:
    """Of NDCG@10, where `better_B` items are above the target and `tied_B` level with it (itself counted).

    Ties count as in results/metrics.py: the target's place is uniform on better + 1 .. better + tied.
    """
    place = torch.arange(1, TOP + 1, dtype=torch.float64, device=better_B.device)
    gain_through = F.pad((1 / torch.log2(place + 1)).cumsum(0), (1, 0))
    above_B = gain_through[better_B.clamp(max=TOP)]
    return (gain_through[(better_B + tied_B).clamp(max=TOP)] - above_B) / tied_B


class Validation:
    """NDCG@10 of the held-out items, each among all items that its user has not had."""

    def __init__(self, users: HeldOut, max_len: int, device: torch.device) -> None:
        self._seen = [history for history, _ in users]
        self._item_UL = padded(self._seen, max_len).to(device)
        self._target_U1 = torch.tensor([[target] for _, target in users], device=device)

    @torch.inference_mode()
    def ndcg(self, score: Score) -> float:
        """A target of 0 is an item that the model does not know: it gains nothing.

        Raises FloatingPointError for scores that are not finite, which would count as the best.
        """
        total = 0.0
        for begin in range(0, len(self._seen), USERS_AT_A_TIME):
            some = slice(begin, begin + USERS_AT_A_TIME)
            score_BV, target_B1 = score(self._item_UL[some]), self._target_U1[some]
            if not torch.isfinite(score_BV).all():
                raise FloatingPointError("a score is not finite: the model has diverged")
            seen = self._seen[some]
            row_S = np.repeat(np.arange(len(seen)), [len(history) for history in seen])
            score_BV[torch.from_numpy(row_S), torch.from_numpy(np.concatenate(seen))] = -torch.inf
            score_BV[:, 0] = -torch.inf
            target_score_B1 = score_BV.gather(1, target_B1)
            better_B = (score_BV > target_score_B1).sum(1)
            tied_B = (score_BV == target_score_B1).sum(1)
            total += float((expected_gain(better_B, tied_B) * (target_B1[:, 0] > 0)).sum())
        return total / len(self._seen)


class Epochs:
    """Prints a line an epoch, with training and validation timed apart, and says when training is over."""

    def __init__(self, max_epochs: int, patience: int, device: torch.device) -> None:
        self._max_epochs, self._patience, self._device = max_epochs, patience, device
        self._epoch = self._best_epoch = 0
        self._best = -1.0
        self._train_s = self._eval_s = 0.0

    def begin(self) -> None:
        """Training begins here: what was prepared before is not counted."""
        self._mark = self._now()

    def end(self, validate: Callable[[], float]) -> bool:
        """After an epoch. Whether it was the last."""
        trained = self._now()
        ndcg = validate()
        ranked = self._now()
        self._epoch += 1
        self._train_s += trained - self._mark
        self._eval_s += ranked - trained
        line = {"epoch": self._epoch, "train_s": round(self._train_s, 4), "eval_s": round(self._eval_s, 4)}
        print(json.dumps({**line, "valid_ndcg@10": ndcg}), flush=True)
        if ndcg > self._best:
            self._best, self._best_epoch = ndcg, self._epoch
        self._mark = self._now()
        return self._epoch >= self._max_epochs or self._epoch - self._best_epoch >= self._patience

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


class Block(nn.Module):
    """Attention and feed-forward, each joined to its own normalised input."""

    def __init__(self, width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, num_heads, dropout, batch_first=True)
        self.attention_norm = nn.LayerNorm(width, eps=1e-8)
        self.forward_norm = nn.LayerNorm(width, eps=1e-8)
        self.widen, self.narrow = nn.Linear(width, width), nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x_BLD: torch.Tensor, later_LL: torch.Tensor) -> torch.Tensor:
        query_BLD = self.attention_norm(x_BLD)
        attended_BLD, _ = self.attention(query_BLD, x_BLD, x_BLD, attn_mask=later_LL, need_weights=False)
        x_BLD = self.forward_norm(query_BLD + attended_BLD)
        inner_BLD = torch.relu(self.drop(self.widen(x_BLD)))
        return x_BLD + self.drop(self.narrow(inner_BLD))


class SASRec(nn.Module):
    def __init__(
        self, num_items: int, width: int, num_blocks: int, num_heads: int, dropout: float, max_len: int
    ) -> None:
        super().__init__()
        self.item = nn.Embedding(num_items + 1, width, padding_idx=0)
        self.position = nn.Embedding(max_len + 1, width, padding_idx=0)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, num_heads, dropout) for _ in range(num_blocks))
        self.last_norm = nn.LayerNorm(width, eps=1e-8)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter.data)
        self.item.weight.data[0] = self.position.weight.data[0] = 0

    def forward(self, item_BL: torch.Tensor) -> torch.Tensor:
        length, is_real_BL = item_BL.shape[1], item_BL != 0
        position_BL = torch.arange(1, length + 1, device=item_BL.device) * is_real_BL
        x_BLD = self.item(item_BL) * self.item.embedding_dim**0.5 + self.position(position_BL)
        x_BLD = self.drop(x_BLD)
        later_LL = ~torch.tril(torch.ones(length, length, dtype=torch.bool, device=item_BL.device))
        for block in self.blocks:
            x_BLD = block(x_BLD * is_real_BL[..., None], later_LL)
        return self.last_norm(x_BLD)

    def score(self, item_BL: torch.Tensor) -> torch.Tensor:
        """Of the item that comes after each window."""
        return self(item_BL)[:, -1] @ self.item.weight.T


def train_epoch(model: SASRec, optimizer: torch.optim.Optimizer, sequence_UL: torch.Tensor) -> None:
    """`sequence_UL` holds one item more than the model reads: at each place but the first a target."""
    model.train()
    for row_B in torch.randperm(len(sequence_UL)).split(BATCH_SIZE):
        sequence_BL = sequence_UL[row_B]
        item_BL, target_BL = sequence_BL[:, :-1], sequence_BL[:, 1:]
        state_TD = model(item_BL)[item_BL != 0]
        logits_TV = state_TD @ model.item.weight[1:].T
        loss = F.cross_entropy(logits_TV, target_BL[item_BL != 0] - 1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_settings(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    device = torch.device(arguments.device)
    sequences = read_sequences(arguments.path)
    model = SASRec(
        int(max(sequence.max() for sequence in sequences)),
        arguments.hidden_dim,
        arguments.num_blocks,
        arguments.num_heads,
        arguments.dropout,
        arguments.max_len,
    ).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98))
    can_train = [sequence for sequence in training_part(sequences) if len(sequence) >= 2]
    sequence_UL = padded(can_train, arguments.max_len + 1).to(device)
    validation = Validation(held_out(sequences), arguments.max_len, device)
    epochs = Epochs(arguments.max_epochs, arguments.patience, device)

    def validate() -> float:
        model.eval()
        return validation.ndcg(model.score)

    epochs.begin()
    is_last = False
    while not is_last:
        train_epoch(model, optimizer, sequence_UL)
        is_last = epochs.end(validate)


if __name__ == "__main__":
    main()
