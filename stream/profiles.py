"""Online user profiles in Redis: recent history, consumed items, counters, attributes.

Per user four keys of one hash slot: `<prefix>:{u:<key text>}` and the same with `:h`, `:c`, `:r`. A Lua
script (profiles.lua) applies the events of a user together with their position, so that neither a retry nor a
replay counts twice. The history is kept in canonical order: event time, then position.

A profile without events for long expires: its four keys in the same millisecond, so that what is applied
again afterwards meets either all of it or nothing. Attributes come from the catalogue and stay, and with them
the hash they are in: then the positions stay too, and what was forgotten is not applied again.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources import files
from itertools import groupby
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from stream.applied import AppliedMarks
from stream.archive import Archive
from stream.script_calls import ScriptCalls
from stream.seals import Positions, column
from stream.seen import BloomSeen, ExactSeen, read_keys, read_sets
from stream.seen_config import SeenConfig
from stream.store import SETTING, connected, reached
from stream.unapplied import unapplied

log = logging.getLogger(__name__)
_SCRIPT = files("stream").joinpath("profiles.lua").read_text()
# One packed string: hundreds of small replies would cost the client ten times as much to parse. Exact seen
# sets (ARGV[2] of them) are in it; filters follow in one more, for their bits are no text.
_READ = """
local lists = {
  redis.call('HGETALL', KEYS[1]),
  redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES'),
  ARGV[1] == '1' and redis.call('ZRANGE', KEYS[3], 0, -1, 'WITHSCORES') or {}
}
local exact = tonumber(ARGV[2])
for at = 4, 3 + exact do lists[at] = redis.call('ZRANGE', KEYS[at], 0, -1, 'WITHSCORES') end
local slots, lengths = {}, {}
for at = 4 + exact, #KEYS do
  local slot = redis.call('GET', KEYS[at]) or ''
  slots[#slots + 1], lengths[#lengths + 1] = slot, tostring(#slot)
end
lists[#lists + 1] = lengths
return {cmsgpack.pack(lists), table.concat(slots)}
"""
# KEYS as in profiles.lua   ARGV 1 attributes, "" = none   2 as ARGV[5] there
_ATTRIBUTES = """
if ARGV[1] ~= '' then
  redis.call('HSET', KEYS[1], 'attributes', ARGV[1])
  redis.call('PERSIST', KEYS[1])
else
  redis.call('HDEL', KEYS[1], 'attributes')
  local kept_ms = tonumber(ARGV[2])
  if kept_ms > 0 and redis.call('PTTL', KEYS[1]) == -1 then
    local now = redis.call('TIME')
    local at_ms = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000) + kept_ms + kept_ms / 16)
    for at = 1, 4 do redis.call('PEXPIREAT', KEYS[at], at_ms) end
  end
end
"""
_DAY_MS = 86_400_000
_KEEPS_ALL = "noeviction"
PLACE_BYTES = 36
"""Fixed-width hexadecimal position in front of a history member: equal times sort by it."""
_HISTORY, _CONSUMED = 1, 2


class ProfileConfig(BaseModel):
    """What a profile keeps of a user."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefix: str = Field("freshrecall", min_length=1, description="Beginning of every key in the store.")
    history_kinds: tuple[str, ...] = Field(
        ("click", "long_view", "like", "purchase", "play"), description="Kinds that enter the history."
    )
    consumed_kinds: tuple[str, ...] = Field(
        ("click", "long_view", "like", "purchase", "play", "view", "finish"),
        description="Kinds that make an item seen; an impression never does.",
    )
    history_length: int = Field(200, gt=0, description="Newest history entries kept per user.")
    consumed_length: int = Field(2_000, gt=0, description="Newest consumed items kept per user.")
    # As long as the models remember an ID by default. Wall time, for a store knows no other; a replay of old
    # events runs faster, so that nothing goes early.
    expire_after_days: float = Field(
        400.0,
        ge=0,
        description="A user without events for so long (wall time) has no history, consumed items and "
        "counters any more, days; 0 = never. Attributes stay.",
    )
    batch_users: int = Field(2_000, gt=0, description="Users per round trip to the store.")

    @property
    def kept_ms(self) -> int:
        """Wall time from the last event to the expiry at the earliest, 0 = never."""
        return round(self.expire_after_days * _DAY_MS)


class HistoryEntry(msgspec.Struct, frozen=True, gc=False):
    """One thing the user did; `item_id` is a key text."""

    item_id: str
    kind: str
    ts_ms: int
    request_id: str


class Profile(msgspec.Struct, frozen=True):
    """What is known of a user now; `position` is "incarnation:partition:offset:ordinal"."""

    user_id: str
    history: Sequence[HistoryEntry] = []
    consumed: dict[str, int] = {}
    counters: dict[str, int] = {}
    attributes: dict[str, str] = {}
    position: str = ""
    seen: tuple[ExactSeen | BloomSeen, ...] = ()


_unpack_entries = msgspec.json.Decoder(list[tuple[str, str, str]]).decode
_unpack = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_unpack_texts = msgspec.msgpack.Decoder(list[str]).decode
Histories = Callable[[bytes], Sequence[HistoryEntry]]
"""What makes a history of the msgpack list [member, time, member, time, ...] that the store gives."""


def history_entries(packed: bytes) -> list[HistoryEntry]:
    """As objects."""
    history = _unpack_texts(packed)
    members = _unpack_entries(f"[{','.join([member[PLACE_BYTES:] for member in history[::2]])}]")
    times = map(int, history[1::2])
    return [
        HistoryEntry(item, kind, ts_ms, request)
        for (item, kind, request), ts_ms in zip(members, times, strict=True)
    ]


class Profiles:
    """The writing end, used by the intake."""

    def __init__(self, url: str, config: ProfileConfig | None = None) -> None:
        """Connect. Raises Unreachable if the store does not answer."""
        self.config = config or ProfileConfig()
        self._url = url
        self._store = connected(url)
        self._warn_of_eviction()
        self._apply = self._store.register_script(_SCRIPT)
        self._set_attributes = self._store.register_script(_ATTRIBUTES)
        self._marks = AppliedMarks(self._store, f"{self.config.prefix}:applied", SETTING, url)
        history, consumed = set(self.config.history_kinds), set(self.config.consumed_kinds)
        self._flags = {
            kind: _HISTORY * (kind in history) + _CONSUMED * (kind in consumed) for kind in history | consumed
        }

    def apply(
        self, batch: pa.RecordBatch | pa.Table, following: Mapping[tuple[int, int], int] | None = None
    ) -> None:
        """Apply events of EVENT_SCHEMA, each partition in order; what was applied before is skipped.

        `following`: next offsets after this batch, recorded last; they say where a replay has to begin.
        Raises Unreachable if the store went away, StoreForgot if it no longer holds what was applied before;
        applying the same again later does no harm.
        """
        with reached(self._url):
            self._apply_all(batch, following or {})

    def _apply_all(self, batch: pa.RecordBatch | pa.Table, following: Mapping[tuple[int, int], int]) -> None:
        self._marks.check(following)
        calls = self._calls(batch)
        size = self.config.batch_users
        for first in range(0, len(calls), size):
            with self._store.pipeline(transaction=False) as pipeline:
                for keys, place, events in calls[first : first + size]:
                    arguments: list[bytes | str | int] = [
                        place,
                        self.config.history_length,
                        self.config.consumed_length,
                        events,
                        self.config.kept_ms,
                    ]
                    self._apply(keys=keys, args=arguments, client=pipeline)
                pipeline.execute()
        self._marks.move(following)

    def positions(self) -> Positions:
        """(incarnation, partition) -> next offset to apply."""
        with reached(self._url):
            return self._marks.read()

    def repair(self, archive: Archive) -> int:
        """Apply what the archive holds and the profiles do not; returns the number of events looked at."""
        looked_at = 0
        for events, marks in unapplied(archive, self.positions()):
            self.apply(events, marks)
            looked_at += events.num_rows
        return looked_at

    def set_attributes(self, attributes: Mapping[str, Mapping[str, str] | None]) -> None:
        """Replace the attributes of users (key text -> attributes, None = deleted). Raises Unreachable."""
        with reached(self._url), self._store.pipeline(transaction=False) as pipeline:
            for user_id, values in attributes.items():
                content = msgspec.json.encode(values) if values else b""
                keys = user_keys(self.config.prefix, user_id)
                self._set_attributes(keys=keys, args=[content, self.config.kept_ms], client=pipeline)
            pipeline.execute()

    def holds_attributes(self) -> bool:
        """Whether the store still has what `attributes_set` left there. Raises Unreachable."""
        with reached(self._url):
            return bool(self._store.exists(f"{self.config.prefix}:users"))

    def attributes_set(self) -> None:
        """Record that the attributes of all users are in the store. Raises Unreachable."""
        with reached(self._url):
            self._store.set(f"{self.config.prefix}:users", 1)

    def close(self) -> None:
        """End the connection."""
        self._store.close()

    def _warn_of_eviction(self) -> None:
        """Say it of a store that, when full, drops keys one by one: a position may outlive its history."""
        with reached(self._url):
            memory = self._store.info("memory")
        policy = memory.get("maxmemory_policy", _KEEPS_ALL)
        if policy != _KEEPS_ALL:
            log.warning(
                "%s: expected maxmemory-policy %s, got %s: a full store would drop parts of profiles",
                SETTING, _KEEPS_ALL, policy,
            )  # fmt: skip

    def _calls(self, batch: pa.RecordBatch | pa.Table) -> list[tuple[list[str], str, bytes]]:
        """(keys, place, packed events) for each user and partition in the batch."""
        rows = _in_user_order(batch)
        flags, prefix, pack = self._flags, self.config.prefix, msgspec.msgpack.encode
        calls = []
        for (user, incarnation, partition), events in groupby(rows, key=lambda row: row[:3]):
            packed = []
            for _, _, _, offset, ordinal, ts_ms, kind, item, request in events:
                mark = flags.get(kind, 0) if item else 0
                member = ""
                if mark & _HISTORY:
                    member = f"{incarnation:06x}{partition:06x}{offset:016x}{ordinal:08x}"
                    member += msgspec.json.encode((item, kind, request)).decode()
                packed.append((offset, ordinal, ts_ms, kind, mark, item, request, member))
            content = pack(packed)
            calls.append((user_keys(prefix, user), f"{incarnation}:{partition}", content))
        return calls


class AsyncProfiles:
    """The reading end, used by serving. Reading never changes anything."""

    def __init__(
        self,
        url: str,
        config: ProfileConfig | None = None,
        seen: Mapping[str, SeenConfig] | None = None,
        histories: Histories = history_entries,
    ) -> None:
        """seen: the sets that are kept (stream/seen_store.py)."""
        self._histories = histories
        self.config, self.seen = config or ProfileConfig(), dict(seen or {})
        self._url = url
        self._read = ScriptCalls(url, _READ)
        ordered = sorted(self.seen.items(), key=lambda one: one[1].store == "bloom")
        self._sets = {asked: [one for one in ordered if asked or one[1].always] for asked in (False, True)}

    async def fetch(self, user_id: str, consumed: bool = True) -> Profile:
        """The profile of a key text in one round trip; an empty one for an unknown user.

        Without `consumed` the consumed items, which may be many, are left out, and the seen sets that hold
        for requests with exclude_seen only. Raises Unreachable.
        """
        keys, sets = user_keys(self.config.prefix, user_id)[:3], self._sets[consumed]
        exact = 0
        if sets:
            keys += read_keys(keys[0], sets)
            exact = sum(one.store == "exact" for _, one in sets)
        with reached(self._url):
            packed, slots = await self._read(keys, [int(consumed), exact])
        facts, history, items, *others = _unpack(packed)
        *listed, lengths = map(_unpack_texts, others)
        return _profile(
            user_id,
            _unpack_texts(facts),
            self._histories(bytes(history)),
            _unpack_texts(items),
            read_sets(sets, listed, slots, map(int, lengths)),
        )

    async def close(self) -> None:
        """End the connections."""
        await self._read.close()


def user_keys(prefix: str, user_id: str) -> list[str]:
    """The keys of one user, all in one hash slot ("u:" keeps the hash tag from being empty)."""
    base = f"{prefix}:{{u:{user_id}}}"
    return [base, base + ":h", base + ":c", base + ":r"]


def _profile(
    user_id: str,
    facts: list[str],
    history: Sequence[HistoryEntry],
    items: list[str],
    seen: tuple[ExactSeen | BloomSeen, ...],
) -> Profile:
    """From the flat lists of the store: field, value, ...; item, score, ..."""
    known = dict(zip(facts[::2], facts[1::2], strict=True))
    return Profile(
        user_id=user_id,
        history=history,
        consumed=dict(zip(items[::2], map(int, items[1::2]), strict=True)),
        counters={name[2:]: int(count) for name, count in known.items() if name.startswith("n:")},
        attributes=_decode_attributes(known.get("attributes", "{}")),
        position=known.get("position", ""),
        seen=seen,
    )


_decode_attributes = msgspec.json.Decoder(dict[str, str]).decode


def _in_user_order(batch: pa.RecordBatch | pa.Table) -> Iterator[tuple[Any, ...]]:
    """Rows by user, then position: the order of calls inside a user stays that of each partition."""
    users = batch["user_id"]
    users = (users.combine_chunks() if isinstance(users, pa.ChunkedArray) else users).dictionary_encode()
    codes = users.indices.to_numpy(zero_copy_only=False)
    place = [column(batch, name) for name in ("ordinal", "offset", "partition", "incarnation")]
    rows = batch.take(pa.array(np.lexsort([*place, codes])))
    names = (
        "user_id",
        "incarnation",
        "partition",
        "offset",
        "ordinal",
        "ts_ms",
        "kind",
        "item_id",
        "request_id",
    )
    return zip(*(rows[name].to_pylist() for name in names), strict=True)
