"""Versions swapped in under load: what requests notice of it, and what memory it takes."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.bundles import ASKED, MODEL, published
from benchmarks.measure import Result
from benchmarks.serve import CONNECTIONS, K, asked
from benchmarks.system import resident_bytes, serving
from benchmarks.worker import Worker
from models.artifact import Artifact
from models.bundle import index_file, items_file, model_file

SAMPLE_S = 0.005
WARM_UP = 500
"""Requests of a server that has just started, which say nothing of a steady one."""
Span = tuple[float, float]
"""From a move of the pointer to the first answer of the new version, time.monotonic."""
Gap = tuple[float, float]
"""Its length, and for how much of it a core of the machine stood still; ms."""


def swapped(
    items: int,
    users: int,
    graph_from: int,
    changed_users: int,
    changed_items: int,
    deltas: int,
    bundles: int,
    steady_s: float,
) -> list[Result]:
    """Deltas, of users and of items in turn, and whole bundles, swapped in while 8 connections ask; steady_s
    lies before, between and after the swaps.
    """
    made = published(items, users, graph_from)
    with tempfile.TemporaryDirectory() as name, serving(Path(name), made) as (system, bundle):
        held = held_bytes(system.registry.open_bundle(bundle, verify=False))
        versions = [(bundle, sequence) for sequence in range(1, deltas + 1)]
        for _, sequence in versions:
            table, changed = [("item", changed_items), ("user", changed_users)][sequence % 2]
            system.registry.publish_delta(made.delta(bundle, sequence, table, changed))
        versions += [(made.publish(system.registry, hour), 0) for hour in range(1, bundles + 1)]
        on = Path(name) / "load-on"
        on.touch()
        spans, peak = list[Span](), Peak(system.pid)
        with Worker("benchmarks.load") as load, Worker("benchmarks.pauses") as watch:
            asked(load, system.url, requests=WARM_UP)
            outside = resident_bytes(system.pid)
            with peak:
                watch.tell(while_there=str(on))
                load.tell(url=system.url, users=ASKED, k=K, connections=CONNECTIONS, while_there=str(on))
                time.sleep(steady_s)
                for version, delta in versions:
                    began = time.monotonic()
                    system.point(version, delta)
                    system.until_served(version, delta)
                    spans.append((began, time.monotonic()))
                    time.sleep(steady_s)
                on.unlink()
                told, paused = load.answer(), watch.answer()
    pauses = list(zip(paused["began_s"], paused["ended_s"], strict=True))
    seen = Seen.of(np.array(told["latency_ms"]), np.array(told["ended_s"]), spans, pauses)
    params = {
        "k": K, "connections": CONNECTIONS, "requests": len(told["ended_s"]), "said": told["said"],
        "pauses_real_time": paused["real_time"],
        "swap_s": [round(end - began, 3) for began, end in spans], **seen.params,
    }  # fmt: skip
    memory = {"held_bytes": held, "empty_bytes": system.empty_bytes}
    return [
        Result("swap.p99_over_steady", seen.p99_ms / seen.steady_p99_ms, "", params=params),
        Result("swap.stall_ms", seen.stall_ms, "ms", params=params),
        Result("swap.failed", float(told["failed"]), "requests", params=params),
        Result("memory.server", outside / held, "", params=memory | {"resident_bytes": outside}),
        Result("memory.server.swap", peak.bytes / held, "", params=memory | {"resident_bytes": peak.bytes}),
    ]


class Seen:
    """What the answers say: p99 of those during a swap and of the others, and the longest time without any
    answer, each in ms. paused: of which the machine had stood still.
    """

    def __init__(self, p99_ms: float, steady_p99_ms: float, stall: Gap, steady_stall: Gap) -> None:
        self.p99_ms, self.steady_p99_ms = p99_ms, steady_p99_ms
        self.stall_ms, self.stall_paused_ms = stall
        self.steady_stall_ms, self.steady_stall_paused_ms = steady_stall

    @classmethod
    def of(
        cls,
        latency_ms: NDArray[np.float64],
        ended_s: NDArray[np.float64],
        spans: Sequence[Span],
        pauses: Sequence[Span] = (),
    ) -> Seen:
        """latency_ms, ended_s: [n] of the answers; pauses: of the machine. Raises ValueError where none was
        during a swap, or none outside.
        """
        order = np.argsort(ended_s, kind="stable")
        ended_s, latency_ms = ended_s[order], latency_ms[order]
        during = _touching(ended_s - latency_ms / 1000, ended_s, spans)
        if during.all() or not during.any():
            raise ValueError(
                f"swap: expected answers during swaps and outside, got {during.sum()} of {len(during)} during"
            )
        gap_during = _touching(ended_s[:-1], ended_s[1:], spans)
        return cls(
            float(np.percentile(latency_ms[during], 99)),
            float(np.percentile(latency_ms[~during], 99)),
            _longest(ended_s[:-1][gap_during], ended_s[1:][gap_during], pauses),
            _longest(ended_s[:-1][~gap_during], ended_s[1:][~gap_during], pauses),
        )

    @property
    def params(self) -> dict[str, float]:
        """For the record."""
        return {name: round(value, 3) for name, value in vars(self).items()}


def _longest(begin_s: NDArray[np.float64], end_s: NDArray[np.float64], pauses: Sequence[Span]) -> Gap:
    if not len(begin_s):
        return 0.0, 0.0
    at = int(np.argmax(end_s - begin_s))
    begin, end = float(begin_s[at]), float(end_s[at])
    paused, until = 0.0, begin
    for first, last in sorted(pauses):  # those of several cores overlap
        paused += max(0.0, min(last, end) - max(first, until))
        until = max(until, min(last, end))
    return 1000 * (end - begin), 1000 * paused


def _touching(
    begin_s: NDArray[np.float64], end_s: NDArray[np.float64], spans: Sequence[Span]
) -> NDArray[np.bool_]:
    """Which of [begin, end] have a moment in common with any span."""
    touching = np.zeros(len(begin_s), np.bool_)
    for first, last in spans:
        touching |= (begin_s <= last) & (end_s >= first)
    return touching


class Peak:
    """The most memory of a process that was resident while this was open, or that `read` gives."""

    def __init__(self, pid: int, read: Callable[[int], int] = resident_bytes) -> None:
        self._pid, self._read, self.bytes = pid, read, 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak", daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            self.bytes = max(self.bytes, self._read(self._pid))

    def __enter__(self) -> Peak:
        self.bytes = self._read(self._pid)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def held_bytes(bundle: Artifact) -> int:
    """What a server has to keep of a bundle: rows and IDs of every table, item keys, vectors and index; each
    vector once.
    """
    held = 0
    for name in bundle.names():
        if name.startswith(f"models/{MODEL}/table."):
            held += sum(array.nbytes for part, array in bundle.tensors(name).items() if part != "momentum")
    items = bundle.tensors(items_file(MODEL))
    held += sum(array.nbytes for part, array in items.items() if part.startswith("keys."))
    kind = bundle.manifest["models"][MODEL]["index"]["kind"]
    if kind != "hnsw":  # a graph holds the vectors itself
        held += items["vectors"].nbytes
    if bundle.has(index_file(MODEL)):
        held += bundle.path(index_file(MODEL)).stat().st_size
    return held + sum(array.nbytes for array in bundle.tensors(model_file(MODEL, "dense")).values())
