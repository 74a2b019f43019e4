"""Generated data of the measurements: seeded, so that every run of the same sizes has the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.measure import sha256
from models.arrays import Float32Array, Int64Array
from stream.event import Event

START_MS = 1_700_000_000_000
SKEW = 1.2
"""Exponent of the Zipf distribution of item ids."""
LENGTH, WIDTH = 50, 64
"""Items of a history, and width of vectors, as in the goals."""
CLUSTER, INTRINSIC = 200, 16
PART = 1_000_000
"""Events of a part."""
Draw = Callable[[np.random.Generator, int, int], Int64Array]
"""(generator, how many, number of IDs) -> IDs."""


def generator() -> np.random.Generator:
    """What all draw from."""
    return np.random.default_rng(7)


def zipf(rng: np.random.Generator, size: int, ids: int) -> Int64Array:
    """int64[size] in 0..ids-1, Zipf-distributed."""
    return (rng.zipf(SKEW, size) - 1) % ids


def uniform(rng: np.random.Generator, size: int, ids: int) -> Int64Array:
    """int64[size] in 0..ids-1, each as likely as the others."""
    return rng.integers(0, ids, size)


def key_texts(ids: Int64Array) -> pa.Array:
    """string[n] key texts of integer IDs."""
    return pc.binary_join_element_wise("#", pa.array(ids).cast(pa.string()), "")


def clicks(users: Int64Array, items: Int64Array, first: int = 0) -> pa.Table:
    """Clicks a second apart as the models read events; user -1 is nobody. first: events before these."""
    n = len(items)
    who = pc.if_else(pa.array(users >= 0), key_texts(users), "")
    return pa.table(
        {
            "user_id": who,
            "item_id": key_texts(items),
            "kind": pa.repeat("click", n),
            "scene": pa.repeat("home", n),
            "request_id": pa.repeat("", n),
            "ts_ms": START_MS + 1000 * np.arange(first, first + n, dtype=np.int64),
        }
    )


@dataclass(frozen=True)
class Histories:
    """n users with a whole history each, and the item that each takes next. IDs are below `items`.

    history: int64[n, L], oldest first; target: int64[n].
    """

    items: int
    history: Int64Array
    target: Int64Array

    @classmethod
    def drawn(cls, users: int, items: int, length: int = LENGTH, draw: Draw = zipf) -> Histories:
        """Zipf-distributed, or as `draw` has it."""
        rng = generator()
        history = draw(rng, users * length, items).reshape(users, length)
        return cls(items, history, draw(rng, users, items))

    def pasts(self) -> Iterator[pa.Table]:
        """Every item once by nobody, in order, so that item i has row i + 1; then all histories. In parts:
        many items are many events.
        """
        users, length = self.history.shape
        n = self.items + users * length
        for begin in range(0, n, PART):
            at = np.arange(begin, min(begin + PART, n))
            of_users = np.maximum(at - self.items, 0)
            user, newer = of_users % users, of_users // users
            whole = at < self.items
            who, what = np.where(whole, -1, user), np.where(whole, at, self.history[user, newer])
            yield clicks(who, what, begin)

    @property
    def past(self) -> pa.Table:
        """The same in one piece."""
        return pa.concat_tables(list(self.pasts()))

    @property
    def following(self) -> pa.Table:
        """What each user takes after that."""
        return clicks(np.arange(len(self.target)), self.target, self.items + self.history.size)

    @property
    def sha256(self) -> str:
        """Of histories and targets."""
        return sha256(self.history, self.target)


def typed(users: Int64Array, items: Int64Array, begin_ms: int = START_MS) -> list[Event]:
    """Clicks a millisecond apart as the stream's events, with all fields that a site would send."""
    return [
        Event(event_id=f"{begin_ms + n:032x}", ts_ms=begin_ms + n, user_id=user, item_id=item, kind="click",
              scene="home", request_id=f"r{n // 4}", value=1.0)
        for n, (user, item) in enumerate(zip(users.tolist(), items.tolist(), strict=True))
    ]  # fmt: skip


def clustered(rng: np.random.Generator, n: int, space: Float32Array | None = None) -> Float32Array:
    """float32[n, WIDTH] of unit length as trained item vectors lie: near a space of INTRINSIC dimensions, in
    clusters of CLUSTER neighbouring rows that overlap. An index of vectors without any neighbourhood says
    nothing of one that has them. space: float32[INTRINSIC, WIDTH], where it is not to be drawn.
    """
    centres = rng.standard_normal((n // CLUSTER + 1, INTRINSIC), np.float32)
    places = centres[np.arange(n) // CLUSTER]
    places += np.float32(0.5) * rng.standard_normal((n, INTRINSIC), np.float32)
    vectors = places @ (rng.standard_normal((INTRINSIC, WIDTH), np.float32) if space is None else space)
    vectors += np.float32(0.2) * rng.standard_normal((n, WIDTH), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def interests(rng: np.random.Generator, users: int, items: int) -> Int64Array:
    """int64[users, LENGTH] items that each of them took, out of two of those clusters, none of them twice:
    a profile counts once what was taken twice in one request.
    """
    first = rng.integers(0, max(1, items - CLUSTER), (users, 2))
    which = rng.integers(0, 2, (users, LENGTH))
    of = np.take_along_axis(first // CLUSTER * CLUSTER, which, 1)
    inside = rng.permuted(np.tile(np.arange(CLUSTER), (users, 1)), axis=1)[:, :LENGTH]
    return np.minimum(of + inside, items - 1)
