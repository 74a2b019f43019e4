"""The least that could serve the same answers: a raw ASGI app with a NumPy tower over the same faiss index.

python -m benchmarks.serve_peer BUNDLE HISTORIES.npy PORT

No validation, no store (histories are in memory), no swap, no filters, no second channel: what it reaches is
what serving may cost at least. HISTORIES: int64[users, L] item IDs of the users 0, 1, ….
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import faiss
import msgspec
import numpy as np
import uvicorn

from benchmarks.bundles import MODEL
from models.arrays import Float32Array
from models.artifact import Artifact, open_artifact
from models.bundle import index_file, items_file, model_file
from models.index_bytes import read_index

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Tower:
    """The two-tower model's user side, by hand: MLP + linear over [user row, history mean, history share]."""

    def __init__(self, bundle: Artifact) -> None:
        weights = bundle.tensors(model_file(MODEL, "dense"))
        name = "weight.towers.user_tower."
        self._around = weights[f"{name}around.weight"].T
        places = sorted({int(key.split(".")[4]) for key in weights if key.startswith(f"{name}layers.")})
        self._layers = [
            (weights[f"{name}layers.{place}.weight"].T, weights[f"{name}layers.{place}.bias"])
            for place in places
        ]

    def __call__(self, user: Float32Array, history: Float32Array) -> Float32Array:
        """float32[1, D] of unit length."""
        ids = np.concatenate([user, history.mean(0)])[None]
        x = np.concatenate([ids, np.ones((1, 1), np.float32)], axis=1)  # of a history that is full
        for weight, bias in self._layers[:-1]:
            x = np.maximum(x @ weight + bias, 0)
        weight, bias = self._layers[-1]
        u: Float32Array = x @ weight + bias + ids @ self._around
        return u / np.linalg.norm(u)


def app_of(bundle: Artifact, histories: np.ndarray) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """POST {"user_id": int, "k": int} -> {"items": [{"id": int, "score": float}]}, whatever the path."""
    tower = Tower(bundle)
    users = bundle.tensors(model_file(MODEL, "table.user"))["weights"]
    items = bundle.tensors(model_file(MODEL, "table.history_item"))["weights"]
    entry = bundle.manifest["models"][MODEL]["index"]
    parameters = None
    if bundle.has(index_file(MODEL)):
        index = read_index(bundle.path(index_file(MODEL)))
        if entry["kind"] == "hnsw":
            parameters = faiss.SearchParametersHNSW(efSearch=max(entry["effort"], 100))
        else:
            parameters = faiss.SearchParametersIVF(nprobe=entry["effort"])
    else:
        index = faiss.IndexFlatIP(items.shape[1])
        index.add(np.ascontiguousarray(bundle.tensors(items_file(MODEL))["vectors"]))
    faiss.omp_set_num_threads(1)
    decode, encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        asked = decode(body)
        user = asked["user_id"]
        # Row 0 is the cold one, and item and user IDs count from 0.
        u = tower(users[user + 1], items[histories[user] + 1])
        scores, found = index.search(u, asked["k"], params=parameters)
        best = zip(found[0].tolist(), scores[0].tolist(), strict=True)
        content = encode({"items": [{"id": item, "score": score} for item, score in best]})
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    return app


def main(bundle: str, histories: str, port: str) -> None:
    """Serve until the process is ended."""
    app = app_of(open_artifact(Path(bundle)), np.load(histories))
    uvicorn.run(
        app, port=int(port), log_level="warning", access_log=False, lifespan="off", loop="uvloop",
        http="httptools", ws="none",
    )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
