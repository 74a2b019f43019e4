"""What is popular now, as a batch of events adds to it: forward-decayed counts by item and segment.

Forward decay (Cormode et al., ICDE 2009): an event weighs 2^((ts - landmark) / half-life) for ever, so counts
of any batches, in any order, simply add up; a count as of T is the sum times 2^((landmark - T) / half-life).
Landmarks are whole multiples of LANDMARK_HALF_LIVES half-lives: a sum moves to another one by a power of two,
which rounds nothing, and no weight of the landmark's own stretch leaves the range of a double.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Self

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, model_validator

from stream.event import Kind
from stream.seals import column

LANDMARK_HALF_LIVES = 512
EVERYTHING = ""
"""The segment of all events."""


class PopularNowConfig(BaseModel):
    """Time-decayed counts of items, kept in the store as events come in and read by servers every moment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    enabled: bool = Field(True, description="Count in the consumer, serve the channel popular_now.")
    kinds: tuple[Kind, ...] = Field(
        ("click", "long_view", "like", "purchase", "play"), description="Kinds of events that are counted."
    )
    half_lives_h: tuple[float, ...] = Field(
        (1.0, 24.0),
        min_length=1,
        description="Event time after which an event counts half, hours; a list for each.",
    )
    weights: tuple[float, ...] = Field(
        (),
        description="Weight of each half-life where a server makes one list of them, by the rates of events "
        "per hour; empty = all alike.",
    )
    by: tuple[tuple[str, ...], ...] = Field(
        (("scene",),),
        description="Segments with lists of their own: fields of an event's context (or its scene), the most "
        'specific first, as [["geo", "scene"], ["geo"]]. A request gets the first with enough events, else '
        "the list of all.",
    )
    least_events: float = Field(
        20.0, ge=0, description="Decayed events that are enough for a segment, by the longest half-life."
    )
    segments: int = Field(64, ge=0, description="Most segments; events of further ones count for all only.")
    keep: int = Field(1_000, gt=0, description="Items held per list; the least popular are forgotten.")
    top: int = Field(200, gt=0, description="Items of a list that servers read.")
    poll_interval_s: float = Field(0.25, gt=0, description="How often servers read.")
    stale_s: float = Field(
        5.0, ge=0, description="Servers do without lists that they could not read again for so long."
    )

    @property
    def half_lives_ms(self) -> tuple[int, ...]:
        """The half-lives in whole ms."""
        return tuple(round(hours * 3_600_000) for hours in self.half_lives_h)

    @property
    def rule(self) -> str:
        """Names what is counted and how: counts made by another rule are of no use."""
        told = (self.kinds, self.half_lives_h, self.by, self.keep, self.segments)
        return sha256(msgspec.json.encode(told)).hexdigest()[:16]

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if min(self.half_lives_ms) < 1 or len(set(self.half_lives_ms)) < len(self.half_lives_ms):
            raise ValueError(f"half_lives_h: expected different ones above 0, got {self.half_lives_h}")
        if self.weights and (len(self.weights) != len(self.half_lives_h) or not min(self.weights) >= 0):
            raise ValueError(
                f"weights: expected one of at least 0 for each of {len(self.half_lives_h)} half_lives_h, "
                f"got {self.weights}"
            )
        if self.weights and not sum(self.weights) > 0:
            raise ValueError("weights: expected one above 0, got none")
        if not all(self.by):
            raise ValueError("by: expected segments of one field or more, got an empty one")
        if self.top > self.keep:
            raise ValueError(f"top: expected at most keep ({self.keep}), got {self.top}")
        return self


@dataclass(frozen=True)
class SegmentCounts:
    """What a batch adds to one segment: its number of events and newest event time; items: n key texts;
    weights_HN: float64[H, n], sums of weights for each half-life.
    """

    segment: str
    events: int
    newest_ms: int
    items: list[str]
    weights_HN: np.ndarray


def segment_of(fields: tuple[str, ...], values: tuple[str, ...]) -> str:
    """Name of a segment: a JSON object."""
    return msgspec.json.encode(dict(zip(fields, values, strict=True))).decode()


def landmarks_ms(config: PopularNowConfig, newest_ms: int) -> list[int]:
    """The landmark of each half-life that weights of a batch are relative to: the last before its newest."""
    steps = [LANDMARK_HALF_LIVES * half_life for half_life in config.half_lives_ms]
    return [newest_ms // step * step for step in steps]


def counted(events: pa.Table, config: PopularNowConfig) -> pa.Table:
    """Those of EVENT_SCHEMA that are counted."""
    kinds = pa.array(config.kinds, pa.string())
    return events.filter(pc.and_(pc.is_in(events["kind"], kinds), pc.not_equal(events["item_id"], "")))


def tally(events: pa.Table, config: PopularNowConfig, marks_ms: list[int]) -> Iterator[SegmentCounts]:
    """What events (`counted`, at least one) add to the list of all and to every segment they are in."""
    ts_ms = column(events, "ts_ms")
    half_lives = zip(marks_ms, config.half_lives_ms, strict=True)
    weights_HN = np.array([np.exp2((ts_ms - mark) / half_life) for mark, half_life in half_lives])
    encoded = events["item_id"].combine_chunks().dictionary_encode()
    items, keys = _numbers(encoded.indices), encoded.dictionary
    everything = np.zeros(len(items), np.int64)
    yield from _grouped([EVERYTHING], everything, items, keys, ts_ms, weights_HN)
    for fields in config.by:
        names, segments, rows = _segments(events, fields)
        yield from _grouped(names, segments, items[rows], keys, ts_ms[rows], weights_HN[:, rows])


def _numbers(values: pa.Array) -> np.ndarray:
    """An array without nulls as int64."""
    numbers: np.ndarray = values.to_numpy(zero_copy_only=False).astype(np.int64)
    return numbers


def _segments(events: pa.Table, fields: tuple[str, ...]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names of segments; for every event that has all the fields: int64[m] its place in them, and its row."""
    texts = [_field(events, name).combine_chunks() for name in fields]
    there = np.ones(events.num_rows, bool)
    for text in texts:
        there &= pc.fill_null(pc.not_equal(text, ""), False).to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(there)
    codes, values = np.zeros(len(rows), np.int64), [()]
    for text in texts:
        encoded = text.take(pa.array(rows)).dictionary_encode()
        found = encoded.dictionary.to_pylist()
        # Only combinations that occur: the product of all values may be large.
        both, codes = np.unique(codes * len(found) + _numbers(encoded.indices), return_inverse=True)
        values = [(*values[code // len(found)], found[code % len(found)]) for code in both.tolist()]
    return [segment_of(fields, value) for value in values], codes, rows


def _field(events: pa.Table, name: str) -> pa.ChunkedArray:
    if name == "scene":
        return events["scene"]
    return pc.map_lookup(events["context"], pa.scalar(name), "first")


def _grouped(
    names: list[str],
    segments: np.ndarray,
    items: np.ndarray,
    keys: pa.Array,
    ts_ms: np.ndarray,
    weights_HN: np.ndarray,
) -> Iterator[SegmentCounts]:
    """The sums by segment and item; both given as int64[N] places in `names` and `keys`."""
    if not len(items):
        return
    pairs, pair = np.unique(segments * len(keys) + items, return_inverse=True)
    sums_HP = np.array([np.bincount(pair, weights, len(pairs)) for weights in weights_HN])
    ends = np.searchsorted(pairs, np.arange(len(names) + 1) * len(keys))
    newest = np.zeros(len(names), np.int64)
    np.maximum.at(newest, segments, ts_ms)
    numbers = np.bincount(segments, minlength=len(names))
    for place, name in enumerate(names):
        mine = slice(ends[place], ends[place + 1])
        chosen = keys.take(pa.array(pairs[mine] % len(keys))).to_pylist()
        yield SegmentCounts(name, int(numbers[place]), int(newest[place]), chosen, sums_HP[:, mine])
