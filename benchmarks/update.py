"""The embedding update of the incremental step, against torch's sparse Adagrad."""

import torch

from benchmarks import data
from benchmarks import sparse_torch as plain
from benchmarks.measure import Result, rates, sha256
from models.embedding import EmbeddingTable


def rows(rows: int, batch: int, rounds: int) -> list[Result]:
    """Forward, backward and row update of pooled histories of 50 in a table of rows x 64, one thread."""
    torch.set_num_threads(1)
    ids = data.zipf(data.generator(), batch * data.LENGTH, rows)
    flat, offsets = torch.from_numpy(ids), torch.arange(0, len(ids) + 1, data.LENGTH)
    table = EmbeddingTable(data.WIDTH, lr=0.05, rows=rows)
    table.reserve(rows)
    bag = torch.nn.EmbeddingBag(rows, data.WIDTH, mode="sum", sparse=True, include_last_offset=True)
    adagrad = torch.optim.Adagrad(bag.parameters(), lr=0.05)

    def fused() -> None:
        table.trained(flat, offsets).sum().backward()

    def sparse() -> None:
        adagrad.zero_grad()
        bag(flat, offsets).sum().backward()
        adagrad.step()

    ours, peer = rates(batch, fused, sparse, rounds=rounds)
    params = {"dim": data.WIDTH, "history": data.LENGTH}
    return [Result("update.rows", ours, "events/s", plain.NAME, peer, params=params, data_sha256=sha256(ids))]
