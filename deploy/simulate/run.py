"""A whole simulation as the verb asks for it: world, recommender, sink, metrics.json."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.errors import StartError
from deploy.simulate.config import DAY_MS, RunConfig, WorldConfig
from deploy.simulate.loop import Progress, Simulation, Sink
from deploy.simulate.over_http import Http
from deploy.simulate.recommenders import Oracle, Popular, Random, Recommender, Warmed
from deploy.simulate.sinks import KafkaSink, ParquetSink
from deploy.simulate.world import World
from stream.topics import KafkaConfig

RECOMMENDERS = ("oracle", "random", "popular", "http")


@dataclass(frozen=True)
class Order:
    """What a simulation is asked. out: parquet; else kafka. metrics: the file of the figures."""

    world: WorldConfig
    run: RunConfig
    recommender: str
    metrics: Path
    out: Path | None = None
    kafka: KafkaConfig | None = None
    url: str = "http://127.0.0.1:8000"
    timeout_s: float = 2.0
    speed: float | None = None


def simulate(order: Order, progress: Progress = lambda minutes, ts_ms, events: None) -> dict[str, Any]:
    """Run it, write `order.metrics`; returns its content.

    Raises StartError and Unreachable for what is absent outside.
    """
    began_s = time.perf_counter()
    world = World(order.world)
    with _recommender(order, world) as recommender, _sink(order, world) as sink:
        simulation = Simulation(world, order.run, _warmed(order, world, recommender), sink)
        simulation.run(progress)
    wall_s = time.perf_counter() - began_s
    figures: dict[str, Any] = {
        "simulation": True,
        "note": "SIMULATED: these figures say something about a made-up world, nothing about real users.",
        "recommender": order.recommender,
        "world": order.world.model_dump(),
        "run": order.run.model_dump(),
        "figures": simulation.figures.summary(),
        "events": simulation.handed_out,
        "events_after_the_end": simulation.after_the_end,
        "wall_s": round(wall_s, 2),
        "events_per_s": round(simulation.handed_out / wall_s),
        **({"http": recommender.summary()} if isinstance(recommender, Http) else {}),
        "made_by": made_by(),
    }
    order.metrics.parent.mkdir(parents=True, exist_ok=True)
    aside = order.metrics.with_suffix(".tmp")
    aside.write_text(json.dumps(figures, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    aside.rename(order.metrics)
    return figures


def made_by() -> dict[str, Any]:
    """What the figures must say to be repeated."""
    # After the run: it imports all of training.
    from deploy.wiring_training import provenance

    found = provenance()
    return {
        "command": "freshrecall " + " ".join(sys.argv[1:]),
        "git": found.git,
        "versions": dict(found.versions),
        "machine": {"cores": os.cpu_count(), "architecture": platform.machine()},
    }


def check_times(order: Order, now_ms: int) -> None:
    """Raise StartError where events would be from the future: consumers refuse those (intake.times)."""
    length_ms = order.run.minutes * 60_000
    reached_ms = now_ms + (length_ms / order.speed if order.speed else 0.0)
    if order.world.start_ms + length_ms > reached_ms:
        raise StartError(
            f"start_ms {order.world.start_ms}: expected {order.run.days:g} days of events before the wall "
            f"clock ({now_ms}), as consumers refuse events of the future; begin before "
            f"{now_ms - round(order.run.days * DAY_MS)}, or give --speed 1"
        )


def _warmed(order: Order, world: World, recommender: Recommender) -> Recommender:
    if not order.run.warm_days:
        return recommender
    popular = Popular(world, order.run.popular_half_life_h, order.run.explore)
    until_ms = order.world.start_ms + round(order.run.warm_days * DAY_MS)
    begin = recommender.wait_ready if isinstance(recommender, Http) else lambda: None
    return Warmed(world, popular, recommender, until_ms, begin)


@contextmanager
def _recommender(order: Order, world: World) -> Iterator[Recommender]:
    if order.recommender == "http":
        http = Http(world, order.url, order.timeout_s)
        try:
            yield http
        finally:
            http.close()
        return
    made: dict[str, Callable[[], Recommender]] = {
        "oracle": lambda: Oracle(world),
        "random": lambda: Random(world),
        "popular": lambda: Popular(world, order.run.popular_half_life_h, order.run.explore),
    }
    if order.recommender not in made:
        raise StartError(f"recommender: expected {', '.join(RECOMMENDERS)}, got {order.recommender!r}")
    yield made[order.recommender]()


@contextmanager
def _sink(order: Order, world: World) -> Iterator[Sink]:
    from stream.producer import EventProducer

    if order.out is not None:
        with ParquetSink(order.out, world.users_table()) as sink:
            yield sink
        return
    if order.kafka is None:
        raise StartError("events: expected a file (--out) or a broker (--kafka), got neither")
    check_times(order, time.time_ns() // 1_000_000)
    with EventProducer(order.kafka) as producer:
        yield KafkaSink(producer, world.users_table(), order.world.start_ms, order.speed)
