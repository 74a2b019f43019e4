"""The server end to end: what it answers, how fast beside a hand-written one, and how long it starts."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.bundles import ASKED, MODEL, Published, published
from benchmarks.measure import Result, rates
from benchmarks.system import System, hand_written, pinned, running, serving
from benchmarks.worker import Worker
from models.artifact import Artifact
from models.moments import one_moment
from models.published import PublishedModel
from stream.keys import encode_id

K, CONNECTIONS = 100, 8
PEER = "hand-written ASGI app"


def served(
    items: int, users: int, graph_from: int, requests: int, recalled: int, rounds: int
) -> list[Result]:
    """Top 100 at 8 connections, the server on one core, load, store and broker on the other: recall of the
    answers, the rate beside a hand-written app, and how even the latency is.
    """
    made = published(items, users, graph_from)
    with tempfile.TemporaryDirectory() as name, serving(Path(name), made) as (system, bundle):
        opened = system.registry.open_bundle(bundle, verify=False)
        recall = _recall(system, opened, made, recalled)
        with Worker("benchmarks.load") as load, hand_written(Path(name), opened, made) as peer:
            for pid in (system.pid, peer.pid):
                pinned(pid, 0)
            for pid in (load.pid, *system.services):
                pinned(pid, 1)
            latency_ms: list[float] = []

            def ours() -> float:
                told = asked(load, system.url, requests=requests)
                latency_ms.extend(told["latency_ms"])
                return float(told["seconds"])

            rate, by_hand = rates(
                requests,
                ours,
                lambda: float(asked(load, peer.url, requests=requests)["seconds"]),
                rounds=rounds,
            )
    p50, p99 = (float(np.percentile(latency_ms, share)) for share in (50, 99))
    entry = made.fields.models[MODEL]["index"]
    index = {key: entry[key] for key in ("kind", "effort", "recall")}
    params = {"k": K, "index": index}
    under_load = params | {"connections": CONNECTIONS, "p50_ms": round(p50, 3), "p99_ms": round(p99, 3)}
    return [
        Result("serve.recall.1m", recall, "", params=params),
        Result("serve.rate.1m", rate, "requests/s", PEER, by_hand, params=under_load),
        Result("serve.p99_over_p50", p99 / p50, "", params=under_load),
    ]


def startup(items: int, users: int, graph_from: int, rounds: int) -> list[Result]:
    """Seconds from the start of the process to the first version served."""
    made = published(items, users, graph_from)
    taken = []
    with tempfile.TemporaryDirectory() as name, running(Path(name)) as system:
        bundle = made.publish(system.registry)
        system.point(bundle)
        for _ in range(rounds):
            began = time.perf_counter()
            system.start_server()
            system.until_served(bundle)
            taken.append(time.perf_counter() - began)
            system.stop_server()
    return [Result("startup.server_s", float(np.median(taken)), "s", params={"rounds_s": taken})]


def asked(load: Worker, url: str, **until: float) -> dict[str, Any]:
    """What a load was told. Raises RuntimeError where an answer was not whole."""
    told: dict[str, Any] = load.ask(url=url, users=ASKED, k=K, connections=CONNECTIONS, **until)
    if told["failed"]:
        raise RuntimeError(
            f"{url}: {told['failed']} of {len(told['latency_ms'])} failed, first {told['said']}"
        )
    return told


def _recall(system: System, bundle: Artifact, made: Published, recalled: int) -> float:
    """Share of the exact best 100 that the server answers, over users."""
    model, found = PublishedModel.load(bundle, MODEL), 0
    moment_ms = made.fields.watermark_ms
    with httpx.Client(base_url=system.url, timeout=30.0) as http:
        for user in range(recalled):
            history = [(encode_id(item), moment_ms) for item in made.histories[user].tolist()]
            u_D = model.queries(one_moment(encode_id(user), moment_ms, history)).flat[0]
            exact = np.argpartition(-(made.vectors @ u_D), K - 1)[:K]
            answer = http.post("/v1/recall", json={"user_id": user, "k": K}).raise_for_status().json()
            found += len({one["id"] for one in answer["items"]} & set(exact.tolist()))
    return found / (K * recalled)
