"""Who asks, when, and what they did before: the one input of a user tower, in training and in serving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import pyarrow as pa

from models.arrays import Int64Array
from models.key_bytes import string_array

History = Sequence[tuple[str, int]]
"""(item key, ts_ms), oldest first."""
Value = str | float | Sequence[str] | None


@dataclass(frozen=True)
class HistoryLists:
    """One history of N users.

    id: string[flat] item key texts, oldest first inside each; offsets: int64[N+1]; ts_ms: int64[flat].
    """

    id: pa.Array
    offsets: Int64Array
    ts_ms: Int64Array

    def row(self, n: int) -> HistoryLists:
        """That of user n alone."""
        begin, end = self.offsets[n : n + 2].tolist()
        return HistoryLists(
            self.id.slice(begin, end - begin), np.array([0, end - begin], np.int64), self.ts_ms[begin:end]
        )

    def check(self, name: str, n: int) -> None:
        """ValueError unless this is of `n` moments; `name` says which history it is."""
        if len(self.offsets) != n + 1:
            raise ValueError(
                f"moments: column {name}_offsets has {len(self.offsets) - 1} rows, user_id has {n}"
            )
        flat = int(self.offsets[-1])
        if len(self.id) < flat or len(self.ts_ms) < flat:
            raise ValueError(
                f"moments: {name}_offsets end at {flat}, but {len(self.id)} ids and {len(self.ts_ms)} times "
                "are given"
            )


def newest_places(offsets: Int64Array, most: int) -> tuple[Int64Array, Int64Array]:
    """Of N lists that end with their newest entry, the last `most` entries of each: their places
    int64[flat], and the offsets int64[N+1] of what is left.

    offsets: int64[N+1], from anywhere.
    """
    sizes = np.minimum(np.diff(offsets), most)
    left = np.zeros(len(offsets), np.int64)
    np.cumsum(sizes, out=left[1:])
    return np.repeat(offsets[1:] - left[1:], sizes) + np.arange(left[-1]), left


@dataclass(frozen=True)
class Moments:
    """N moments at which a user vector is wanted.

    user_id: string[N] key texts; "" = nobody known.
    ts_ms: int64[N] event time of the moment.
    history_id: string[flat] item key texts, oldest first inside each moment; taken as given (the caller
    leaves out what belongs to the moment itself), only the newest that the model reads are read.
    history_offsets: int64[N+1]; history_ts_ms: int64[flat].
    context / user_attributes: column name -> array[N] (strings, numbers, lists of strings or null); absent
    columns count as unknown.
    histories: the further histories by name (ModelConfig.histories), in the form of the main one; one that is
    not given is empty.
    """

    user_id: pa.Array
    ts_ms: Int64Array
    history_id: pa.Array
    history_offsets: Int64Array
    history_ts_ms: Int64Array
    context: Mapping[str, pa.Array] = field(default_factory=dict)
    user_attributes: Mapping[str, pa.Array] = field(default_factory=dict)
    histories: Mapping[str, HistoryLists] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse columns of unequal length (ValueError)."""
        n = len(self.user_id)
        self._check_length("ts_ms", self.ts_ms, n)
        for name, column in self.context.items():
            self._check_length(f"context.{name}", column, n)
        for name, column in self.user_attributes.items():
            self._check_length(f"user_attributes.{name}", column, n)
        self.history.check("history", n)
        for name, lists in self.histories.items():
            lists.check(f"histories.{name}", n)

    def __len__(self) -> int:
        return len(self.user_id)

    @staticmethod
    def _check_length(name: str, column: Sized, n: int) -> None:
        if len(column) != n:
            raise ValueError(f"moments: column {name} has {len(column)} rows, user_id has {n}")

    @property
    def history(self) -> HistoryLists:
        """The main history."""
        return HistoryLists(self.history_id, self.history_offsets, self.history_ts_ms)

    def row(self, n: int) -> Moments:
        """The moment n alone."""
        main = self.history.row(n)
        return Moments(
            self.user_id.slice(n, 1),
            self.ts_ms[n : n + 1],
            main.id,
            main.offsets,
            main.ts_ms,
            {name: column.slice(n, 1) for name, column in self.context.items()},
            {name: column.slice(n, 1) for name, column in self.user_attributes.items()},
            {name: lists.row(n) for name, lists in self.histories.items()},
        )

    def history_named(self, name: str) -> HistoryLists:
        """The further history `name`; one of nothing where it is not given."""
        if name in self.histories:
            return self.histories[name]
        nothing = np.zeros(len(self) + 1, np.int64)
        return HistoryLists(pa.array([], pa.string()), nothing, np.empty(0, np.int64))


def one_moment(
    user_id: str,
    ts_ms: int,
    history: History,
    context: Mapping[str, Value] | None = None,
    user_attributes: Mapping[str, Value] | None = None,
    histories: Mapping[str, History] | None = None,
) -> Moments:
    """The Moments of a single request."""
    lists = [history, *(histories or {}).values()]
    made = string_array([user_id, *[key for one in lists for key, _ in one]])  # one array of all
    begins = accumulate(map(len, lists), initial=1)
    main, *further = [_one_list(made, begin, one) for begin, one in zip(begins, lists, strict=False)]
    named = dict(zip(histories or {}, further, strict=True))
    return _moment(made.slice(0, 1), ts_ms, main, context, user_attributes, named)


def _moment(
    user_id: pa.StringArray,
    ts_ms: int,
    history: HistoryLists,
    context: Mapping[str, Value] | None,
    user_attributes: Mapping[str, Value] | None,
    histories: Mapping[str, HistoryLists],
) -> Moments:
    return Moments(
        user_id=user_id,
        ts_ms=np.array([ts_ms], np.int64),
        history_id=history.id,
        history_offsets=history.offsets,
        history_ts_ms=history.ts_ms,
        context=_columns(context) if context else {},
        user_attributes=_columns(user_attributes) if user_attributes else {},
        histories=histories,
    )


def _columns(values: Mapping[str, Value]) -> dict[str, pa.Array]:
    """Of one row each."""
    texts = pa.array([value if isinstance(value, str) else None for value in values.values()], pa.string())
    return {
        name: texts.slice(place, 1) if value is None or isinstance(value, str) else pa.array([value])
        for place, (name, value) in enumerate(values.items())
    }


def _one_list(keys: pa.Array, begin: int, entries: History) -> HistoryLists:
    return HistoryLists(
        keys.slice(begin, len(entries)),
        np.array([0, len(entries)], np.int64),
        np.array([ts for _, ts in entries], np.int64),
    )
