"""The embedding update of the incremental step, against torch's sparse Adagrad."""

import numpy as np
import torch

from benchmarks.measure import Result, rates
from models.embedding import EmbeddingTable


def run() -> list[Result]:
    """Forward, backward and row update of mean-pooled histories of 50 in a table of 1 M x 64, one thread."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(7)
    rows, dim, batch, length = 1_000_000, 64, 256, 50
    flat = torch.from_numpy(np.minimum(rng.zipf(1.2, batch * length), rows - 1).astype(np.int64))
    offsets = torch.arange(0, batch * length + 1, length)
    table = EmbeddingTable(dim, lr=0.05, rows=rows)
    table.reserve(rows)
    bag = torch.nn.EmbeddingBag(rows, dim, mode="sum", sparse=True, include_last_offset=True)
    adagrad = torch.optim.Adagrad(bag.parameters(), lr=0.05)

    def fused() -> None:
        table.trained(flat, offsets).sum().backward()

    def sparse() -> None:
        adagrad.zero_grad()
        bag(flat, offsets).sum().backward()
        adagrad.step()

    ours, peer = rates(batch, fused, sparse, rounds=20)
    params = {"rows": rows, "dim": dim, "batch": batch, "history": length}
    return [
        Result("update.incremental", ours, "events/s", "torch EmbeddingBag(sparse) + Adagrad", peer, params)
    ]
