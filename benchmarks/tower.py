"""The user vector of a request from its rows, as serving makes it, against the same under onnxruntime."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import data
from benchmarks.measure import Result, seconds
from benchmarks.worker import peer
from models.architecture import build_model, feature_sides
from models.arrays import Float32Array
from models.few_users import FewUsers
from models.model_config import ModelConfig
from models.moments import Moments
from models.towers import Tower
from models.two_tower import TwoTower

CONFIG = ModelConfig(popularity=(), own_items=0)
ONNX = "onnxruntime, the same tower"
TOLERANCE = 1e-5


def towers(calls: int, peer_calls: int, rounds: int) -> list[Result]:
    """µs of processor time for one request and for eight together, one thread: the user's row and the rows of
    fifty history items are in memory, the vector is wanted. peer_calls 0 leaves onnxruntime out, and its
    environment.

    Raises RuntimeError where the two give other vectors.
    """
    torch.set_num_threads(1)
    request, item = feature_sides(CONFIG, ())
    model = build_model(CONFIG, request, item)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():  # nothing is zero, as after training
            weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    few_users = FewUsers.of(CONFIG, model)
    if few_users is None or not isinstance(model.towers, TwoTower):
        raise RuntimeError("benchmark: expected a tower that is compiled")
    weights = _weights(model.towers.user_tower)
    results = []
    for name, together in (("serve.tower", 1), ("serve.tower.8", 8)):
        moments, rows = _asked(together)

        def ours(moments: Moments = moments, rows: dict[str, Float32Array] = rows) -> Float32Array:
            return few_users.queries(request, moments, lambda table, keys: rows[table], lambda one: {}).flat

        results.append(_measured(name, weights, together, rows, ours, calls, peer_calls, rounds))
    return results


def _asked(together: int) -> tuple[Moments, dict[str, Float32Array]]:
    """So many moments, and the rows that they ask for by table."""
    rng = data.generator()
    flat = together * data.LENGTH
    moments = Moments(
        user_id=data.key_texts(np.arange(together)),
        ts_ms=np.full(together, data.START_MS),
        history_id=data.key_texts(np.arange(flat)),
        history_offsets=np.arange(together + 1) * data.LENGTH,
        history_ts_ms=np.full(flat, data.START_MS - 1),
    )
    return moments, {"user": data.clustered(rng, together), "history_item": data.clustered(rng, flat)}


def _measured(
    name: str,
    weights: dict[str, Float32Array],
    together: int,
    rows: dict[str, Float32Array],
    ours: Callable[[], Float32Array],
    calls: int,
    peer_calls: int,
    rounds: int,
) -> Result:
    def often() -> float:
        began = time.process_time()
        for _ in range(calls):
            ours()
        return time.process_time() - began

    params = {"together": together, "history": data.LENGTH, "dim": data.WIDTH, "hidden": list(CONFIG.hidden)}
    if not peer_calls:
        (taken,) = seconds(often, rounds=rounds)
        return Result(name, 1e6 * taken / calls, "µs", params=params)
    with contextlib.ExitStack() as stack:
        file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "data.npz"
        history = rows["history_item"].reshape(together, data.LENGTH, data.WIDTH)
        side = np.ones((together, 1), np.float32)  # a whole history
        inputs: dict[str, Any] = {"user": rows["user"], "history": history, "side": side, **weights}
        np.savez(file, **inputs, calls=peer_calls)
        onnx = stack.enter_context(peer("benchmarks.peers.onnx_tower", [str(file)]))
        off = np.abs(np.array(onnx.ask()["vectors"]) - ours()).max()
        if off > TOLERANCE:
            raise RuntimeError(f"{name}: expected the vectors of onnxruntime, they differ by {off:g}")
        taken, theirs = seconds(often, lambda: float(onnx.ask()["seconds"]), rounds=rounds)
    return Result(name, 1e6 * taken / calls, "µs", ONNX, 1e6 * theirs / peer_calls, params=params)


def _weights(tower: Tower) -> dict[str, Float32Array]:
    """As the peer takes them."""
    layers = [layer for layer in tower.layers if isinstance(layer, nn.Linear)]
    named: dict[str, Float32Array] = {"around": tower.around.weight.detach().numpy()}
    for number, layer in enumerate(layers):
        named[f"weight.{number}"] = layer.weight.detach().numpy()
        named[f"bias.{number}"] = layer.bias.detach().numpy()
    return named
