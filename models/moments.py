"""Who asks, when, and what they did before: the one input of a user tower, in training and in serving."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from models.arrays import Int64Array


@dataclass(frozen=True)
class Moments:
    """N moments at which a user vector is wanted.

    user_id: string[N] key texts; "" = nobody known.
    ts_ms: int64[N] event time of the moment.
    history_id: string[flat] item key texts, oldest first inside each moment; taken as given (the caller
    leaves out what belongs to the moment itself), only the newest `history_length` of them are read.
    history_offsets: int64[N+1]; history_ts_ms: int64[flat].
    context / user_attributes: column name -> array[N] (strings, numbers or null); absent columns count as
    unknown.
    """

    user_id: pa.Array
    ts_ms: Int64Array
    history_id: pa.Array
    history_offsets: Int64Array
    history_ts_ms: Int64Array
    context: Mapping[str, pa.Array] = field(default_factory=dict)
    user_attributes: Mapping[str, pa.Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse columns of unequal length (ValueError)."""
        n = len(self.user_id)
        lengths = {"ts_ms": len(self.ts_ms), "history_offsets": len(self.history_offsets) - 1}
        lengths |= {f"context.{name}": len(column) for name, column in self.context.items()}
        lengths |= {f"user_attributes.{name}": len(column) for name, column in self.user_attributes.items()}
        for name, length in lengths.items():
            if length != n:
                raise ValueError(f"moments: column {name} has {length} rows, user_id has {n}")
        flat = int(self.history_offsets[-1])
        if len(self.history_id) < flat or len(self.history_ts_ms) < flat:
            raise ValueError(
                f"moments: history_offsets end at {flat}, but {len(self.history_id)} ids and "
                f"{len(self.history_ts_ms)} times are given"
            )

    def __len__(self) -> int:
        return len(self.user_id)


def one_moment(
    user_id: str,
    ts_ms: int,
    history: list[tuple[str, int]],
    context: Mapping[str, str] | None = None,
    user_attributes: Mapping[str, str] | None = None,
) -> Moments:
    """The Moments of a single request; `history` is (item key, ts_ms), oldest first."""
    context, user_attributes = context or {}, user_attributes or {}
    texts = pa.array([user_id, *context.values(), *user_attributes.values()], pa.string())
    columns = [texts.slice(place, 1) for place in range(len(texts))]  # one array of all is built faster
    return Moments(
        user_id=columns[0],
        ts_ms=np.array([ts_ms], np.int64),
        history_id=pa.array([key for key, _ in history], pa.string()),
        history_offsets=np.array([0, len(history)], np.int64),
        history_ts_ms=np.array([ts for _, ts in history], np.int64),
        context=dict(zip(context, columns[1:], strict=False)),
        user_attributes=dict(zip(user_attributes, columns[1 + len(context) :], strict=True)),
    )
