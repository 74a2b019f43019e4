"""How long until what comes in shows in an answer: a user's event, what is popular now, a new item."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pyarrow as pa

from deploy.demo.settings import NEW_SCENE, POPULAR_SCENE
from stream.change import Change
from stream.event import Event
from stream.producer import EventProducer

_PROBE_USER = "probe"
_CLICKS = 30  # enough to be among the first, whatever is bought; no model learns from clicks here
_POLL_S = 0.005


class Probe:
    """Times one thing after the other: from just before it is produced until an answer knows of it."""

    def __init__(self, url: str, gap_s: float, deadline_s: float = 20.0) -> None:
        """gap_s: pause after each; deadline_s: after so long it counts as lost."""
        self._client = httpx.Client(base_url=url, timeout=10.0)
        self._gap_s, self._deadline_s = gap_s, deadline_s
        self._waiting: queue.Queue[tuple[Callable[[], bool], float] | None] = queue.Queue(maxsize=1)
        self._busy = threading.Event()
        self._next_s = 0.0
        self._thread = threading.Thread(target=self._run, name="probe", daemon=True)
        self.visible_ms: list[float] = []
        self.lost = 0
        self._thread.start()

    @property
    def free(self) -> bool:
        """Whether nothing is being watched, and nothing has been for a while."""
        return not self._busy.is_set() and time.monotonic() >= self._next_s

    def watch(self, seen: Callable[[], bool]) -> None:
        """Time what is produced next until `seen`, which is called in another thread."""
        self._busy.set()
        self._waiting.put((seen, time.monotonic()))

    def ask(self, **request: Any) -> dict[str, Any] | None:
        """An answer, None where there is none."""
        try:
            response = self._client.post("/v1/recall", json=request)
        except httpx.HTTPError:
            return None
        return response.json() if response.status_code == 200 else None

    def stop(self) -> None:
        """Wait for what is being watched, then end."""
        self._waiting.put(None)
        self._thread.join()
        self._client.close()

    def _run(self) -> None:
        while (watched := self._waiting.get()) is not None:
            self._time(*watched)
            self._next_s = time.monotonic() + self._gap_s
            self._busy.clear()

    def _time(self, seen: Callable[[], bool], produced_s: float) -> None:
        while time.monotonic() < produced_s + self._deadline_s:
            if seen():
                self.visible_ms.append((time.monotonic() - produced_s) * 1000)
                return
            time.sleep(_POLL_S)
        self.lost += 1


class ProfileProbe(Probe):
    """An event of a user, until that user's profile has moved. `before` is called before rows are sent."""

    def __init__(self, url: str) -> None:
        super().__init__(url, gap_s=0.2)
        self.changed = 0
        """Answers that had other items then."""

    def before(self, chunk: pa.Table) -> None:
        """Take the last user of the rows that are about to be sent, if no other is being watched."""
        if not self.free:
            return
        user = int(chunk["user_id"][len(chunk) - 1].as_py())
        held = self.ask(user_id=user, k=50)
        if held is not None:
            self.watch(lambda: self._moved(user, held))

    def _moved(self, user: int, held: dict[str, Any]) -> bool:
        answer = self.ask(user_id=user, k=50)
        moved = answer is not None and answer["profile"] != held["profile"]
        if answer is not None and moved:
            self.changed += answer["items"] != held["items"]
        return moved


class PopularProbe(Probe):
    """Clicks on an item that nobody knew, until the channel popular_now has it."""

    def __init__(self, url: str, producer: EventProducer) -> None:
        """producer: used in the thread that calls `before`."""
        super().__init__(url, gap_s=0.2)
        self._producer, self._number = producer, 0

    def before(self, chunk: pa.Table) -> None:
        """Send clicks at the moment of the rows that are about to be sent, if none are being watched."""
        if not self.free:
            return
        self._number += 1
        item, ts_ms = f"popular-{self._number}", int(chunk["ts_ms"][len(chunk) - 1].as_py())
        clicks = [
            Event(event_id=f"{item}-{n}", ts_ms=ts_ms, user_id=_PROBE_USER, item_id=item, kind="click")
            for n in range(_CLICKS)
        ]
        request = {"user_id": _PROBE_USER, "k": 200, "context": {"scene": POPULAR_SCENE}}
        self.watch(lambda: item in _items(self.ask(**request)))
        self._producer.send_packed(clicks)


class NewItemProbe(Probe):
    """An upsert of a new item, until it is retrieved. The one before is deleted again."""

    def __init__(self, url: str, producer: EventProducer, topic: str) -> None:
        """producer: used in the thread that calls `before`; topic: of items."""
        super().__init__(url, gap_s=0.5)
        self._producer, self._topic, self._number = producer, topic, 0

    def before(self, chunk: pa.Table) -> None:
        """Upsert an item at the moment of the rows that are about to be sent, if none is being watched."""
        if not self.free:
            return
        self._number += 1
        item, ts_ms = f"new-{self._number}", int(chunk["ts_ms"][len(chunk) - 1].as_py())
        request = {"user_id": _PROBE_USER, "k": 50, "context": {"scene": NEW_SCENE}, "ts_ms": ts_ms}
        self.watch(lambda: item in _items(self.ask(**request)))
        changes = [Change(id=item, ts_ms=ts_ms, attributes={"department": "GROCERY"})]
        if self._number > 1:
            changes.append(Change(id=f"new-{self._number - 1}", ts_ms=ts_ms, deleted=True))
        self._producer.send_changes(self._topic, changes)


@dataclass(frozen=True)
class Probes:
    """All of them, beside one replay."""

    profile: ProfileProbe
    popular: PopularProbe
    new_item: NewItemProbe

    def before(self, chunk: pa.Table) -> None:
        """Watch for what the rows about to be sent do, and send something of their own."""
        for probe in (self.profile, self.popular, self.new_item):
            probe.before(chunk)

    def stop(self) -> None:
        """Wait for what is being watched, then end."""
        for probe in (self.profile, self.popular, self.new_item):
            probe.stop()


def _items(answer: dict[str, Any] | None) -> set[int | str]:
    return {item["id"] for item in answer["items"]} if answer else set()
