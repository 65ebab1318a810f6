"""SASRec's epoch and evaluation the way pmixer/SASRec.pytorch does them; see benchmarks/bench_peers.py.

An own implementation of what that code does, not the code itself: three processes make batches in Python, an
item and its rejected negatives at a time; sequences are padded on the left to the full length; attention is
`nn.MultiheadAttention` with a mask; Adam is not fused, and the loss is read back after every step. A user is
scored alone, against the held-out item and 100 that are drawn by rejection.

Of a long epoch only a part runs: epoch_s is the mean of at most --steps steps times the steps of an epoch.
Needs torch and NumPy only.
"""

import argparse
import gzip
import json
import multiprocessing
import time
from collections import defaultdict

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

BATCH_SIZE, WIDTH, NUM_BLOCKS, DROPOUT = 128, 50, 2, 0.2
NUM_WORKERS, QUEUED_A_WORKER = 3, 10
WARM_UP_STEPS, WARM_UP_USERS, NUM_CANDIDATES = 3, 20, 100


def read_sequences(path: str) -> dict[int, list[int]]:
    """Lines "user item", in order of time."""
    sequences = defaultdict(list)
    with (gzip.open if path.endswith(".gz") else open)(path, "rt") as lines:
        for line in lines:
            user, item = line.split()[:2]
            sequences[int(user)].append(int(item))
    return dict(sequences)


def draw_unseen(num_items: int, seen: set[int]) -> int:
    item = np.random.randint(1, num_items + 1)
    while item in seen:
        item = np.random.randint(1, num_items + 1)
    return item


def training_sample(history: list[int], num_items: int, max_len: int) -> np.ndarray:
    """Input, target and negative of every place, (3, L), filled from the right."""
    sample = np.zeros((3, max_len), np.int32)
    seen, target, place = set(history), history[-1], max_len - 1
    for item in reversed(history[:-1]):
        sample[:, place] = item, target, draw_unseen(num_items, seen)
        target, place = item, place - 1
        if place < 0:
            break
    return sample


def make_batches(train: list[list[int]], num_items: int, max_len: int, queue, seed: int) -> None:
    np.random.seed(seed)
    order, number = np.arange(len(train)), 0
    while True:
        samples = []
        for _ in range(BATCH_SIZE):
            if number % len(train) == 0:
                np.random.shuffle(order)
            samples.append(training_sample(train[order[number % len(train)]], num_items, max_len))
            number += 1
        queue.put(samples)


class Block(nn.Module):
    """Norms after the residuals, as is its default."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 1, DROPOUT)
        self.attention_norm = nn.LayerNorm(WIDTH, eps=1e-8)
        self.forward_norm = nn.LayerNorm(WIDTH, eps=1e-8)
        self.widen, self.narrow = nn.Conv1d(WIDTH, WIDTH, 1), nn.Conv1d(WIDTH, WIDTH, 1)
        self.drop = nn.Dropout(DROPOUT)

    def forward(self, x_BLD: torch.Tensor, later_LL: torch.Tensor) -> torch.Tensor:
        x_LBD = x_BLD.transpose(0, 1)
        attended, _ = self.attention(x_LBD, x_LBD, x_LBD, attn_mask=later_LL)
        x_BLD = self.attention_norm(x_LBD + attended).transpose(0, 1)
        inner = torch.relu(self.drop(self.widen(x_BLD.transpose(1, 2))))
        return self.forward_norm(x_BLD + self.drop(self.narrow(inner)).transpose(1, 2))


class SASRec(nn.Module):
    def __init__(self, num_items: int, max_len: int) -> None:
        super().__init__()
        self.item = nn.Embedding(num_items + 1, WIDTH, padding_idx=0)
        self.position = nn.Embedding(max_len + 1, WIDTH, padding_idx=0)
        self.drop = nn.Dropout(DROPOUT)
        self.blocks = nn.ModuleList(Block() for _ in range(NUM_BLOCKS))
        self.last_norm = nn.LayerNorm(WIDTH, eps=1e-8)

    def forward(self, item_BL: torch.Tensor) -> torch.Tensor:
        length = item_BL.shape[1]
        position_BL = torch.arange(1, length + 1, device=item_BL.device) * (item_BL != 0)
        x_BLD = self.drop(self.item(item_BL) * WIDTH**0.5 + self.position(position_BL))
        later_LL = ~torch.tril(torch.ones(length, length, dtype=torch.bool, device=item_BL.device))
        for block in self.blocks:
            x_BLD = block(x_BLD, later_LL)
        return self.last_norm(x_BLD)


def time_steps(model: SASRec, queue, num_steps: int, device: torch.device) -> float:
    """Mean seconds of a training step."""
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.98))
    for step in range(WARM_UP_STEPS + num_steps):
        if step == WARM_UP_STEPS:
            began = time.perf_counter()
        item_BL, target_BL, negative_BL = torch.as_tensor(np.stack(queue.get(), 1), device=device).long()
        state_BLD = model(item_BL)
        real_BL = target_BL != 0
        positive = (state_BLD * model.item(target_BL)).sum(-1)[real_BL]
        negative = (state_BLD * model.item(negative_BL)).sum(-1)[real_BL]
        loss = F.binary_cross_entropy_with_logits(positive, torch.ones_like(positive))
        loss = loss + F.binary_cross_entropy_with_logits(negative, torch.zeros_like(negative))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
    return (time.perf_counter() - began) / num_steps


def time_users(
    model: SASRec, sequences: list[list[int]], num_items: int, max_len: int, num_users: int
) -> float:
    """Mean seconds of a user's evaluation."""
    model.eval()
    device = model.item.weight.device
    for number, sequence in enumerate(sequences[: WARM_UP_USERS + num_users]):
        if number == WARM_UP_USERS:
            began = time.perf_counter()
        history = sequence[:-1][-max_len:]
        item_L = np.zeros(max_len, np.int64)
        item_L[max_len - len(history) :] = history
        seen = set(sequence[:-1])
        candidate_N = [sequence[-1], *(draw_unseen(num_items, seen) for _ in range(NUM_CANDIDATES))]
        state_D = model(torch.as_tensor(item_L[None], device=device))[0, -1]
        score_N = model.item(torch.as_tensor(candidate_N, device=device)) @ state_D
        (-score_N).argsort().argsort()[0].item()
    return (time.perf_counter() - began) / min(num_users, len(sequences) - WARM_UP_USERS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path")
    parser.add_argument("--max-len", type=int, required=True)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    np.random.seed(0)
    sequences = list(read_sequences(arguments.path).values())
    num_items = max(map(max, sequences))
    train = [sequence[:-2] if len(sequence) >= 4 else sequence for sequence in sequences]
    num_steps = (len(train) - 1) // BATCH_SIZE + 1
    queue = multiprocessing.Queue(NUM_WORKERS * QUEUED_A_WORKER)
    can_train = [sequence for sequence in train if len(sequence) >= 2]
    workers = [
        multiprocessing.Process(
            target=make_batches, args=(can_train, num_items, arguments.max_len, queue, seed), daemon=True
        )
        for seed in range(NUM_WORKERS)
    ]
    for worker in workers:
        worker.start()
    device = torch.device(arguments.device)
    model = SASRec(num_items, arguments.max_len).to(device)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_normal_(parameter.data)
    step_s = time_steps(model, queue, min(arguments.steps, num_steps), device)
    for worker in workers:
        worker.terminate()
        worker.join()
    evaluated = [sequence for sequence in sequences if len(sequence) >= 4]
    user_s = time_users(model, evaluated, num_items, arguments.max_len, arguments.users)
    print(json.dumps({"epoch_s": round(step_s * num_steps, 3), "rank_ms_a_user": round(1e3 * user_s, 4)}))


if __name__ == "__main__":
    main()
