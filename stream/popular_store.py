"""What is popular now, in Redis: a sorted set of items by decayed count for every half-life and segment.

Keys `<prefix>:{popular}:…`, one hash slot: `state` (positions, rule, newest event time), `segments`,
`landmarks`, `changes`, and the lists. A Lua script (popular_store.lua) adds a batch only if the positions in
the store are those the batch begins at, and moves them in the same step: neither a retry nor a replay counts
twice.
"""

import uuid
from collections.abc import Mapping
from importlib.resources import files
from itertools import count

import msgspec
import numpy as np
import pyarrow as pa
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from stream.archive import Archive
from stream.errors import StoreForgot
from stream.popular_counts import LANDMARK_HALF_LIVES, PopularNowConfig, counted, landmarks_ms, tally
from stream.seals import Positions, column, from_text, limits
from stream.store import SETTING, connected, reached
from stream.unapplied import unapplied, whole_messages

_WRITE = files("stream").joinpath("popular_store.lua").read_text()
_READ = files("stream").joinpath("popular_read.lua").read_text()
_COLUMNS = (
    *("incarnation", "partition", "offset", "ordinal"),
    *("ts_ms", "kind", "item_id", "scene", "context"),
)
_EVENTS_PER_CALL = 2_000  # the store answers nobody else while a script runs: some 10 ms
_SEGMENTS_PER_CALL = 32  # for the same reason
_IDLE_HALF_LIVES = 20  # a segment without events for so long may make room: one of its events weighs 1e-6
_FORGOTTEN_HALF_LIVES = 40  # nothing older is counted again: 1e-12


class PopularCounts:
    """The writing end, used by the intake."""

    def __init__(self, url: str, config: PopularNowConfig, prefix: str = "freshrecall") -> None:
        """prefix: beginning of every key. Raises Unreachable if the store does not answer."""
        self.config, self._url = config, url
        self._store = connected(url)
        self._write = self._store.register_script(_WRITE)
        self._base = _base(prefix)
        self._held: Positions | None = None

    def apply(
        self, batch: pa.RecordBatch | pa.Table, following: Mapping[tuple[int, int], int] | None = None
    ) -> None:
        """Count events of EVENT_SCHEMA, messages whole; what was counted before is skipped.

        `following`: next offsets after this batch, where it has messages without events at its end.
        Raises Unreachable if the store went away, StoreForgot if it no longer holds what was counted before;
        applying the same again later does no harm.
        """
        with reached(self._url):
            if self._held is None:
                self.positions()
            events = _in_order(batch)
            parts = list(whole_messages(events, _EVENTS_PER_CALL)) or [events]
            for part in parts[:-1]:
                self._apply(part, _following(part))
            last = _following(parts[-1])
            for place, offset in (following or {}).items():
                last[place] = max(offset, last.get(place, 0))
            self._apply(parts[-1], last)

    def positions(self) -> Positions:
        """(incarnation, partition) -> next offset to count, by this rule. Raises Unreachable."""
        with reached(self._url):
            state: dict[bytes, bytes] = self._store.hgetall(self._base + "state")  # type: ignore[assignment]
        texts = {key.decode(): value for key, value in state.items()}
        mine = texts.get("rule", b"").decode() == self.config.rule
        marks = {key[2:]: int(value) for key, value in texts.items() if mine and key.startswith("p:")}
        self._held = from_text(marks)
        return dict(self._held)

    def repair(self, archive: Archive) -> int:
        """Count what the archive holds and the store has not; all of it, if that counted by another rule.

        Returns the number of events looked at. Raises Unreachable.
        """
        self._forget_another_rule()
        newest_ms = max(archive.newest_ms().values(), default=0)
        since_ms = newest_ms - _FORGOTTEN_HALF_LIVES * max(self.config.half_lives_ms)
        looked_at = 0
        for events, marks in unapplied(archive, self.positions(), since_ms):
            self.apply(events, marks)
            looked_at += events.num_rows
        return looked_at

    def close(self) -> None:
        """End the connection."""
        self._store.close()

    def _apply(self, events: pa.Table, following: Positions) -> None:
        """Count events from wherever the store is; `following` of each of their partitions."""
        held = dict(self._held or {})
        while new := {place: end for place, end in following.items() if end > held.get(place, 0)}:
            moves = [(f"{i}:{p}", held.get((i, p), 0), end) for (i, p), end in new.items()]
            fresh = events.filter(pa.array(column(events, "offset") >= limits(events, held)))
            recorded = self._call(moves, counted(fresh, self.config))
            if any(at < expected for at, (_, expected, _) in zip(recorded, moves, strict=False)):
                raise StoreForgot(SETTING, self._url)
            # Ahead of what was known: a call whose answer was lost had been carried out.
            held |= dict(zip(new, recorded, strict=True)) if recorded else new
            self._held = held

    def _call(self, moves: list[tuple[str, int, int]], events: pa.Table) -> list[int]:
        """One call of the script: [] when it was applied, else the positions that the store has."""
        config, newest_ms, segments = self.config, 0, []
        if events.num_rows:
            newest_ms = int(column(events, "ts_ms").max())
            marks_ms = landmarks_ms(config, newest_ms)
            for one in tally(events, config, marks_ms):
                lists = [
                    (_name(half_life), mark, LANDMARK_HALF_LIVES * half_life, weights)
                    for half_life, mark, weights in zip(
                        config.half_lives_ms, marks_ms, one.weights_HN.tolist(), strict=True
                    )
                ]
                segments.append((one.segment, one.events, one.newest_ms, one.items, lists))
        names = ("state", "segments", "landmarks", "changes")
        answer: list[int] = self._write(
            keys=[self._base + name for name in names],
            args=[
                config.rule,
                uuid.uuid4().hex,
                config.keep,
                config.segments,
                _IDLE_HALF_LIVES * max(config.half_lives_ms),
                self._base + "list:",
                LANDMARK_HALF_LIVES,
                msgspec.msgpack.encode((moves, newest_ms, segments)),
            ],
        )
        return answer

    def _forget_another_rule(self) -> None:
        """Drop the counts that another configuration made; their state last, so that a crash repeats it."""
        with reached(self._url):
            rule: bytes | None = self._store.hget(self._base + "state", "rule")  # type: ignore[assignment]
            if rule is None or rule.decode() == self.config.rule:
                return
            lists: list[bytes] = self._store.hkeys(self._base + "landmarks")  # type: ignore[assignment]
            for field in lists:
                self._store.unlink(f"{self._base}list:{field.decode()}")
            for name in ("landmarks", "segments", "changes", "state"):
                self._store.unlink(self._base + name)


class ReadList(msgspec.Struct, frozen=True):
    """The top of a sorted set: item key texts, best first, and sums of weights relative to the landmark."""

    landmark_ms: int
    items: list[str]
    sums: list[float]


# facts, names of all segments, what changed: name and lists (landmark_ms, items, sums)
_Packed = tuple[list[str], list[str], list[tuple[str, list[tuple[int, list[str], list[float]]]]]]
_unpack = msgspec.msgpack.Decoder(_Packed).decode


class PopularReading(msgspec.Struct, frozen=True):
    """What the store holds now of the rule that was asked for.

    epoch, sequence: "" and 0 while there are no such counts; newest_ms: newest event time counted; refused:
    events of segments that found no place; age_s: since the last batch was counted; segments: all that there
    are; changed: lists of those that changed, one for each half-life.
    """

    epoch: str = ""
    sequence: int = 0
    newest_ms: int = 0
    refused: int = 0
    age_s: float = 0.0
    segments: list[str] = []
    changed: dict[str, list[ReadList]] = {}


class PopularReader:
    """The reading end, used by serving. Reading never changes anything."""

    def __init__(self, url: str, config: PopularNowConfig, prefix: str = "freshrecall") -> None:
        self.config, self._url = config, url
        # Whoever reads so often need not wait long, nor try again by itself.
        self._store = redis.Redis.from_url(
            url, socket_timeout=1.0, socket_connect_timeout=1.0, retry=Retry(NoBackoff(), 0)
        )
        self._script = self._store.register_script(_READ)
        self._base = _base(prefix)

    def read(self, epoch: str = "", after: int = 0) -> PopularReading:
        """All lists, or those that changed after sequence `after` of the same epoch. Raises Unreachable."""
        changed: dict[str, list[ReadList]] = {}
        for call in count(1):
            facts, segments, lists = self._read_some(epoch, after)
            if not facts:
                break
            if facts[0] != epoch:  # counted anew: nothing that was read of another epoch holds any more
                changed = {}
            epoch = facts[0]
            after, whole, newest_ms, refused, age_us = map(int, facts[1:])
            changed |= {name: [ReadList(*one) for one in both] for name, both in lists}
            # What a busy writer goes on changing meanwhile is left to the next time.
            if whole or call > len(segments) // _SEGMENTS_PER_CALL:
                return PopularReading(epoch, after, newest_ms, refused, age_us / 1e6, segments, changed)
        return PopularReading()

    def _read_some(self, epoch: str, after: int) -> _Packed:
        with reached(self._url):
            packed: bytes = self._script(
                keys=[self._base + name for name in ("state", "landmarks", "changes")],
                args=[
                    self.config.rule,
                    epoch,
                    after,
                    _SEGMENTS_PER_CALL,
                    self.config.top,
                    self._base + "list:",
                    *(_name(half_life) for half_life in self.config.half_lives_ms),
                ],
            )
        unpacked: _Packed = _unpack(packed)
        return unpacked

    def close(self) -> None:
        """End the connection."""
        self._store.close()


def _base(prefix: str) -> str:
    return f"{prefix}:{{popular}}:"


def _name(half_life_ms: int) -> str:
    return f"{half_life_ms}ms"


def _in_order(batch: pa.RecordBatch | pa.Table) -> pa.Table:
    """What is read of events, by partition and position."""
    events = batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch])
    events = events.select(_COLUMNS)
    names = ("ordinal", "offset", "partition", "incarnation")
    order = np.lexsort([column(events, name) for name in names])
    in_order = bool((order[1:] > order[:-1]).all())
    return (events if in_order else events.take(pa.array(order))).combine_chunks()


def _following(events: pa.Table) -> Positions:
    """Next offset of every partition, of events in order."""
    place = column(events, "incarnation").astype(np.int64) << 32 | column(events, "partition")
    last = np.flatnonzero(np.diff(place, append=-1))
    ends = (column(events, "offset")[last] + 1).tolist()
    return {(at >> 32, at & 0xFFFFFFFF): end for at, end in zip(place[last].tolist(), ends, strict=True)}
