"""Replays a table of past events at a chosen speed of event time."""

import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa

Send = Callable[[pa.Table], None]
Progress = Callable[[int, int], None]
"""Called with (rows sent so far, event time reached in ms)."""

TICK_S = 0.05
MAX_ROWS = 20_000  # per call of `send`: bounds what waits in the producer and how old the progress shown is


def replay(
    events: pa.Table,
    send: Send,
    speed: float | None,
    progress: Progress = lambda rows, ts_ms: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Send `events` (sorted by `ts_ms`) and return how many.

    `speed` is event seconds per wall second; None sends as fast as `send` takes them. When `send` is slower
    than that, the replay runs late: nothing is dropped.
    """
    times = events["ts_ms"].to_numpy()
    sent = 0
    start_s = clock()
    while sent < len(times):
        due = len(times)
        if speed is not None:
            reached_ms = int(times[0]) + (clock() - start_s) * speed * 1000.0
            due = int(np.searchsorted(times, reached_ms, side="right"))
            if due == sent:
                sleep(min(TICK_S, max(0.0, (int(times[sent]) - reached_ms) / (speed * 1000.0))))
                continue
        due = min(due, sent + MAX_ROWS)
        send(events.slice(sent, due - sent))
        sent = due
        progress(sent, int(times[sent - 1]))
    return sent
