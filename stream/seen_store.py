"""Seen sets in Redis: a sorted set by last time, or a ring of Bloom filters, for every user and set.

Keys lie in the user's hash slot: `<prefix>:{u:<key text>}:s:<set>:<rule>`, and for a filter `:<slot>` behind.
Additions are idempotent (stream/seen.py), so the marks of what was applied need not move with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files

import msgspec
import pyarrow as pa

from stream.applied import AppliedMarks
from stream.archive import Archive
from stream.profiles import user_keys
from stream.seals import Positions
from stream.seen import Added, added, seen_key
from stream.seen_config import SeenConfig
from stream.store import SETTING, connected, reached
from stream.unapplied import unapplied

_SCRIPT = files("stream").joinpath("seen_store.lua").read_text()
_EXACT, _BLOOM = 0, 1
_ENTRIES_PER_CALL = 100  # the store answers nobody else while a script runs: about a millisecond
_CALLS = 50  # per round trip


class SeenSets:
    """The writing end, used by the intake. dropped: items that full exact sets dropped, counted again where
    events are applied again.
    """

    def __init__(self, url: str, sets: Mapping[str, SeenConfig], prefix: str = "freshrecall") -> None:
        """prefix: beginning of every key. Raises Unreachable if the store does not answer."""
        self.sets, self.prefix, self.dropped = dict(sets), prefix, 0
        self._url, self._told = url, {name: _Told.of(one) for name, one in sets.items()}
        self._store = connected(url)
        self._add = self._store.register_script(_SCRIPT)
        rules = sha256("".join(sorted(f"{name}:{one.rule};" for name, one in sets.items())).encode())
        # Another rule begins anew: its marks are others too.
        marks = f"{prefix}:seen:{rules.hexdigest()[:8]}"
        self._marks = AppliedMarks(self._store, marks, SETTING, url)

    def apply(
        self, batch: pa.RecordBatch | pa.Table, following: Mapping[tuple[int, int], int] | None = None
    ) -> None:
        """Add what events of EVENT_SCHEMA say, in any order, also again.

        `following`: next offsets after this batch, recorded last; they say where a replay has to begin.
        Raises Unreachable if the store went away, StoreForgot if it no longer holds what was applied before.
        """
        with reached(self._url):
            self._marks.check(following or {})
            self._apply([self._entry(one) for one in added(batch, self.sets)])
            self._marks.move(following or {})

    def positions(self) -> Positions:
        """(incarnation, partition) -> next offset to apply. Raises Unreachable."""
        with reached(self._url):
            return self._marks.read()

    def repair(self, archive: Archive) -> int:
        """Add what the archive holds and the store has not, where a horizon still reaches it; returns the
        number of events looked at. Raises Unreachable.
        """
        horizons_ms = [one.horizon_ms + one.slice_ms for one in self.sets.values()]
        forever = any(not one.horizon_ms for one in self.sets.values())
        newest_ms = max(archive.newest_ms().values(), default=0)
        since_ms = 0 if forever else newest_ms - max(horizons_ms, default=0)
        looked_at = 0
        for events, marks in unapplied(archive, self.positions(), since_ms):
            self.apply(events, marks)
            looked_at += events.num_rows
        return looked_at

    def close(self) -> None:
        """End the connection."""
        self._store.close()

    def _apply(self, entries: Sequence[tuple[str, tuple[object, ...]]]) -> None:
        step = _ENTRIES_PER_CALL
        for first in range(0, len(entries), _CALLS * step):
            with self._store.pipeline(transaction=False) as pipeline:
                for begin in range(first, min(first + _CALLS * step, len(entries)), step):
                    keys, told = zip(*entries[begin : begin + step], strict=True)
                    self._add(keys=keys, args=[msgspec.msgpack.encode(told)], client=pipeline)
                self.dropped += sum(pipeline.execute())

    def _entry(self, one: Added) -> tuple[str, tuple[object, ...]]:
        """The key that an addition goes to, and what the script is told of it."""
        told, user = self._told[one.name], user_keys(self.prefix, one.user)[0]
        if told.exact:
            scored = [told for pair in zip(one.ts_ms, one.items, strict=True) for told in pair]
            return seen_key(user, one.name, told.rule), (
                _EXACT,
                told.expire_ms,
                told.kept_ms,
                told.items,
                scored,
            )
        key = seen_key(user, one.name, told.rule, one.generation % told.slots)
        return key, (_BLOOM, told.expire_ms, one.generation, one.bits, told.bytes)


@dataclass(frozen=True)
class _Told:
    """What the script is told of every addition to a set, worked out once."""

    exact: bool
    rule: str
    expire_ms: int
    kept_ms: int
    items: int
    slots: int
    bytes: int

    @classmethod
    def of(cls, config: SeenConfig) -> _Told:
        kept_ms = config.horizon_ms + config.slice_ms if config.horizon_ms else 0
        exact, shape = config.store == "exact", config.shape
        return cls(exact, config.rule, config.expire_ms, kept_ms, config.items, config.slots, shape.bytes)
