"""The user tower of a request under onnxruntime: so many calls one after the other each time it is asked.

python -m benchmarks.peers.onnx_tower DATA.npz   (by benchmarks/tower.py, in the peers' environment)

user float32[B, E], history float32[B, L, E] and side float32[B, S] are the inputs of one call; weight.0,
bias.0 and so on the layers of the tower [out, in], around [D, 2E] its linear way, calls how often it is run.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.worker import work


class UserTower(nn.Module):
    """unit(MLP(user, mean history, side) + linear(user, mean history))."""

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        super().__init__()
        count = sum(name.startswith("weight.") for name in arrays)
        layers: list[nn.Module] = []
        for number in range(count):
            layers += [_linear(arrays[f"weight.{number}"], arrays[f"bias.{number}"]), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])
        self.around = _linear(arrays["around"], None)

    def forward(self, user_BE: Tensor, history_BLE: Tensor, side_BS: Tensor) -> Tensor:
        """Vectors float32[B, D] of length one."""
        ids = torch.cat([user_BE, history_BLE.mean(1)], dim=1)
        return functional.normalize(self.layers(torch.cat([ids, side_BS], dim=1)) + self.around(ids), dim=1)


def _linear(weight: Any, bias: Any) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        if bias is not None:
            layer.bias.copy_(torch.from_numpy(bias))
    return layer


def session(tower: UserTower, inputs: Mapping[str, Any]) -> onnxruntime.InferenceSession:
    """The tower exported for inputs of these shapes, on one thread."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tower.onnx"
        given = tuple(torch.from_numpy(one) for one in inputs.values())
        torch.onnx.export(tower.eval(), given, str(file), dynamo=False, input_names=list(inputs))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def main(data: str) -> None:
    """Answers {seconds, vectors}: seconds of processor time, which neighbours do not change."""
    arrays = dict(np.load(data))
    torch.set_num_threads(1)
    inputs = {name: arrays[name] for name in ("user", "history", "side")}
    runs, calls = session(UserTower(arrays), inputs), int(arrays["calls"])

    def answer() -> dict[str, Any]:
        began = time.process_time()
        for _ in range(calls):
            vectors = runs.run(None, inputs)[0]
        return {"seconds": time.process_time() - began, "vectors": vectors.tolist()}

    work(answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
