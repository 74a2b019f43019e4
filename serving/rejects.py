"""What the stages turned down goes back to the stream: hard negatives for tomorrow's recall models."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from serving.metrics import ServingMetrics
from serving.schema import RecallAnswer, RecallRequest
from serving.stages import Rejected
from stream.event import Event
from stream.keys import decode_id

_LOG = logging.getLogger(__name__)
_MOST_WAITING = 100
"""Answers whose rejects may wait for the stream; those of further ones are dropped."""


def reject_events(
    request: RecallRequest, ts_ms: int, answer: RecallAnswer, rejected: Sequence[Rejected]
) -> list[Event]:
    """Events of kind `reject` (docs/events.md), at the moment of the request, IDs derived from its own."""
    return [
        Event(
            event_id=f"{answer.request_id}-{one.stage}-{one.rank}",
            ts_ms=ts_ms,
            user_id=request.user_id,
            item_id=decode_id(one.key),
            kind="reject",
            scene=request.context.get("scene", "")[:256],
            request_id=answer.request_id,
            value=one.score,
            context={
                "stage": one.stage,
                "rank": str(one.rank),
                "cutoff": f"{one.cutoff:.6g}",
                "bundle": answer.bundle,
                "delta": str(answer.delta),
            },
        )
        for one in rejected
    ]


class RejectSender:
    """Sends behind the answer's back: a stream that is slow or away costs rejects, never an answer."""

    def __init__(self, send: Callable[[Sequence[Event]], object], metrics: ServingMetrics) -> None:
        self._send, self._metrics = send, metrics
        self._waiting: set[asyncio.Task[None]] = set()

    def send(self, events: Sequence[Event]) -> None:
        """Hand over events on the running loop."""
        if len(self._waiting) >= _MOST_WAITING:
            self._metrics.rejects_lost.inc(len(events))
            return
        task = asyncio.create_task(self._sent(events))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def settled(self) -> None:
        """Wait for what was handed over so far."""
        await asyncio.gather(*self._waiting)

    async def _sent(self, events: Sequence[Event]) -> None:
        try:
            await asyncio.to_thread(self._send, events)
        except Exception:  # whatever the stream's client raises
            _LOG.warning("%d rejects were not taken by the stream", len(events), exc_info=True)
            self._metrics.rejects_lost.inc(len(events))
        else:
            self._metrics.rejects.inc(len(events))
