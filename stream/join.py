"""The impression-action join: every impression once with what followed it, as a function of sealed intervals.

An impression and an action belong together when their (request_id, item_id) are equal and their event times
are less than the horizon apart. With the interval end E as the clock:

    ts_ms + wait    <= E   its row is emitted, with the actions of event time < ts_ms + wait known by then
    ts_ms + horizon <= E   it is forgotten; if anything came that the row lacks, all is emitted once more

The second row is `late` and replaces the first. It comes at the end of the horizon and not with the first
late action, because there is one second row only: earlier it would lack whatever comes afterwards (the
purchase after the click), and what it holds would depend on how event time happens to be cut into intervals.
What an action's time says decides, not when it was read, so any cut of a stream in order gives the same rows.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, model_validator

from stream.event import EVENT_SCHEMA, KINDS
from stream.join_pairs import Pairs
from stream.join_state import (
    HELD_SCHEMA,
    IMPRESSION_COLUMNS,
    NO_VALUE,
    OPEN_SCHEMA,
    WAITING_SCHEMA,
    JoinState,
)
from stream.seals import column

JOINED_SCHEMA = pa.schema(
    [
        *(EVENT_SCHEMA.field(name) for name in IMPRESSION_COLUMNS),
        pa.field("actions", pa.map_(pa.string(), pa.float64()), nullable=False),
        pa.field("late", pa.bool_(), nullable=False),
        pa.field("emitted_ms", pa.int64(), nullable=False),
    ]
)
"""One row per impression, a second one with late = true where actions came after its wait.

actions: kind -> largest value of this kind's events, 0.0 where none has a value; only kinds that happened, in
the order of KINDS. emitted_ms: end of the interval that emitted the row.
"""
EVENT_COLUMNS = (*IMPRESSION_COLUMNS, "kind", "value")
"""Columns of EVENT_SCHEMA that the join reads."""
ACTION_KINDS = tuple(kind for kind in KINDS if kind not in ("impression", "search", "reject"))


class JoinConfig(BaseModel):
    """Which actions join an impression, and how long they are waited for, in event time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    wait_s: float = Field(900.0, ge=0, description="Event time from an impression to its row, s.")
    horizon_s: float = Field(
        86_400.0,
        gt=0,
        description="Event time after which nothing more joins an impression, s; its row is then written "
        "again (late) if anything came after wait_s. Memory grows with it.",
    )
    kinds: tuple[str, ...] = Field(
        ACTION_KINDS, min_length=1, description="Kinds of events that join an impression."
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> "JoinConfig":
        if self.horizon_s < self.wait_s:
            raise ValueError(
                f"horizon_s: expected at least wait_s ({self.wait_s:g}), got {self.horizon_s:g}; raise it"
            )
        if strange := sorted(set(self.kinds) - set(ACTION_KINDS)):
            raise ValueError(f"kinds: expected some of {', '.join(ACTION_KINDS)}, got {', '.join(strange)}")
        return self

    @property
    def wait_ms(self) -> int:
        """The wait in ms."""
        return round(self.wait_s * 1000)

    @property
    def horizon_ms(self) -> int:
        """The horizon in ms."""
        return round(self.horizon_s * 1000)


@dataclass
class JoinCounts:
    """What one join did since it was made."""

    impressions: int = 0
    """Impressions that get a row; those without request are among them."""
    without_request: int = 0
    duplicates: int = 0
    """Further impressions of a pair whose first one is held."""
    too_late: int = 0
    """Impressions that arrived after their horizon: nobody can say any more whether they are duplicates."""
    joined: int = 0
    """Actions that joined an impression."""
    orphans: int = 0
    """Actions that waited in vain, or name no request or no item."""
    emitted: int = 0
    late: int = 0
    """Rows emitted at the end of the wait, and again at the end of the horizon."""


class ImpressionJoin:
    """Takes one interval after the other. Not thread-safe."""

    def __init__(self, config: JoinConfig, state: JoinState | None = None) -> None:
        """Go on from `state`; other settings than it was made with hold from the next interval on."""
        self.config = config
        self.state = state or JoinState()
        self.counts = JoinCounts()

    def take(self, events: pa.Table, end_ms: int) -> pa.Table:
        """Take the events of one interval and return the rows it emits, of JOINED_SCHEMA: first rows, then
        late ones, each in the order in which their impressions came.

        events: EVENT_COLUMNS at least, in canonical order. Raises ValueError if the interval was taken
        before.
        """
        if self.state.through_ms is not None and end_ms <= self.state.through_ms:
            raise ValueError(
                f"join: expected an interval that ends after {self.state.through_ms}, got {end_ms}; "
                "intervals are taken once, in order"
            )
        self._match(self._impressions(events), self._actions(events))
        self._forget_waiting(end_ms)
        rows = self._emit(end_ms)
        self.state.through_ms = end_ms
        return rows

    def _impressions(self, events: pa.Table) -> pa.Table:
        """The interval's impressions that are not too late, of OPEN_SCHEMA."""
        found = events.filter(pc.equal(events["kind"], "impression")).select(IMPRESSION_COLUMNS)
        if self.state.through_ms is not None:
            # Their place was given up already.
            alive = column(found, "ts_ms") > self.state.through_ms - self.config.horizon_ms
            if not alive.all():
                self.counts.too_late += int((~alive).sum())
                found = found.filter(pa.array(alive))
        no = pa.array(np.zeros(found.num_rows, bool))
        return pa.table([*found.columns, no, no], schema=OPEN_SCHEMA)

    def _actions(self, events: pa.Table) -> pa.Table:
        """The interval's actions that name a pair, of WAITING_SCHEMA."""
        wanted = pc.is_in(events["kind"], value_set=pa.array(self.config.kinds))
        actions = events.filter(wanted)
        paired = pc.and_(pc.not_equal(actions["request_id"], ""), pc.not_equal(actions["item_id"], ""))
        found = actions.filter(paired)
        self.counts.orphans += actions.num_rows - found.num_rows
        kind = pc.index_in(found["kind"], value_set=pa.array(KINDS)).cast(pa.int8())
        value = found["value"].fill_null(NO_VALUE)
        columns = [found["request_id"], found["item_id"], found["ts_ms"], kind, value]
        return pa.table(columns, schema=WAITING_SCHEMA)

    def _match(self, impressions: pa.Table, actions: pa.Table) -> None:
        """Admit the first impression of every pair, and give the actions to their impressions."""
        state, horizon_ms = self.state, self.config.horizon_ms
        pairs = Pairs(impressions, actions)
        old, new = pairs.find(state.open), pairs.find(impressions)
        alone = new < 0  # no request
        row = state.open.num_rows + np.arange(len(new))
        first = np.full(len(pairs), -1, np.int64)
        # The last assignment to a place stays: backwards, that is the first impression, unless one is held.
        first[new[~alone][::-1]] = row[~alone][::-1]
        first[old[old >= 0]] = np.flatnonzero(old >= 0)
        admitted = alone.copy()
        admitted[~alone] = first[new[~alone]] == row[~alone]
        renumbered = np.concatenate([np.arange(len(old)), len(old) + np.cumsum(admitted) - 1])
        first[first >= 0] = renumbered[first[first >= 0]]
        self.counts.impressions += int(admitted.sum())
        self.counts.without_request += int(alone.sum())
        self.counts.duplicates += int((~admitted).sum())
        state.open = pa.concat_tables([state.open, impressions.filter(pa.array(admitted))])

        waiting = pa.concat_tables([state.waiting, actions])
        pair = pairs.find(waiting)
        asked = np.flatnonzero(pair >= 0)
        asked = asked[first[pair[asked]] >= 0]
        to = first[pair[asked]]
        after_ms = column(waiting, "ts_ms")[asked] - column(state.open, "ts_ms")[to]
        near = np.abs(after_ms) < horizon_ms
        asked, to, after_ms = asked[near], to[near], after_ms[near]
        early = (after_ms < self.config.wait_ms) & ~column(state.open, "emitted")[to]
        late = column(state.open, "late").copy()
        late[to[~early]] = True
        self.counts.joined += len(asked)
        state.open = _with_flag(state.open, "late", late)
        state.held = pa.concat_tables(
            [
                state.held,
                _largest(to, column(waiting, "kind")[asked], column(waiting, "value")[asked], early),
            ]
        )
        left = np.ones(waiting.num_rows, bool)
        left[asked] = False
        state.waiting = waiting.filter(pa.array(left))

    def _forget_waiting(self, end_ms: int) -> None:
        """Give up the actions whose impression can no longer come."""
        kept = column(self.state.waiting, "ts_ms") > end_ms - self.config.horizon_ms
        self.counts.orphans += int((~kept).sum())
        self.state.waiting = self.state.waiting.filter(pa.array(kept)).combine_chunks()

    def _emit(self, end_ms: int) -> pa.Table:
        """The rows that are due, and the state without the impressions whose horizon is over."""
        state = self.state
        ts_ms, emitted = column(state.open, "ts_ms"), column(state.open, "emitted")
        due = ~emitted & (ts_ms <= end_ms - self.config.wait_ms)
        over = ts_ms <= end_ms - self.config.horizon_ms
        again = over & column(state.open, "late")
        rows = pa.concat_tables([self._rows(due, False, end_ms), self._rows(again, True, end_ms)])
        self.counts.emitted += int(due.sum())
        self.counts.late += int(again.sum())

        kept = ~over & ~(due & pc.equal(state.open["request_id"], "").to_numpy())
        state.open = _with_flag(state.open, "emitted", emitted | due)
        if not kept.all():
            row = column(state.held, "row")
            held = state.held.filter(pa.array(kept[row]))
            renumbered = pa.array((np.cumsum(kept) - 1)[row[kept[row]]], pa.int64())
            state.held = held.set_column(0, HELD_SCHEMA.field("row"), renumbered).combine_chunks()
            state.open = state.open.filter(pa.array(kept)).combine_chunks()
        return rows

    def _rows(self, which: np.ndarray, late: bool, end_ms: int) -> pa.Table:
        """Rows of JOINED_SCHEMA for the open impressions bool[O] `which`: with all actions, or early ones."""
        held, row = self.state.held, column(self.state.held, "row")
        wanted = which[row] if late else which[row] & column(held, "early")
        impressions = self.state.open.select(IMPRESSION_COLUMNS).filter(pa.array(which))
        actions = _action_maps(
            (np.cumsum(which) - 1)[row[wanted]],
            column(held, "kind")[wanted],
            column(held, "value")[wanted],
            impressions.num_rows,
        )
        flag = pa.array(np.full(impressions.num_rows, late))
        emitted_ms = pa.array(np.full(impressions.num_rows, end_ms, np.int64))
        return pa.table([*impressions.columns, actions, flag, emitted_ms], schema=JOINED_SCHEMA)


def _with_flag(table: pa.Table, name: str, values: np.ndarray) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(place), pa.array(values))


def _maxima(group: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the different groups, ascending; the largest value of each)."""
    if not len(group):
        return group, value
    order = np.argsort(group, kind="stable")
    group = group[order]
    begin = np.flatnonzero(np.concatenate([[True], group[1:] != group[:-1]]))
    return group[begin], np.maximum.reduceat(value[order], begin)


def _largest(row: np.ndarray, kind: np.ndarray, value: np.ndarray, early: np.ndarray) -> pa.Table:
    """Actions of HELD_SCHEMA, the largest per (row, kind, early): bounds what one impression can hold."""
    group, value = _maxima((row * len(KINDS) + kind) * 2 + early, value)
    row_kind = group // 2
    columns = [
        row_kind // len(KINDS),
        (row_kind % len(KINDS)).astype(np.int8),
        value,
        (group % 2).astype(bool),
    ]
    return pa.table([pa.array(values) for values in columns], schema=HELD_SCHEMA)


def _action_maps(row: np.ndarray, kind: np.ndarray, value: np.ndarray, rows: int) -> pa.MapArray:
    """For each of `rows` rows kind -> largest value; arrays [A]: an action's row, kind, value."""
    group, value = _maxima(row * len(KINDS) + kind, value)
    offsets = np.zeros(rows + 1, np.int32)
    np.cumsum(np.bincount(group // len(KINDS), minlength=rows), out=offsets[1:])
    kinds = pa.array(KINDS, pa.string()).take(pa.array(group % len(KINDS)))
    return pa.MapArray.from_arrays(offsets, kinds, pa.array(np.where(value == NO_VALUE, 0.0, value)))
