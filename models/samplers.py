"""Negatives drawn from the corpus, with the log of how often each is expected among the draws.

Every draw is with replacement and a pure function of (seed, step), so that a restarted run draws the same.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from models.arrays import Float32Array, Float64Array, Index, Int64Array, Tensors
from models.native import compiled

_REDRAWS = 1000  # of places that hit the row's own positive, before a corpus counts as too small
_ROUND = 1 << 40  # steps between the redraws of one step, so that no two draws share random numbers


class Sampler(Protocol):
    """Where easy negatives come from."""

    def draw(self, n: int, step: int) -> Int64Array:
        """int64[n] item entries; the same for the same seed and step (0 <= step < 2^40)."""
        ...

    def log_expected(self, entries: Int64Array, n: int) -> Float32Array:
        """Log of how often each entry is expected among n draws, float32[N]; finite for every entry."""
        ...


class UnigramSampler:
    """Probability ~ count^power: 0 is uniform over the corpus, 1 by frequency, 0.75 word2vec's in between.

    entries: int64[N] candidates below `capacity`; counts: int64[N] how often each was seen.
    """

    def __init__(
        self, entries: Int64Array, counts: Int64Array, capacity: int, power: float, seed: int
    ) -> None:
        _refuse_empty(len(entries))
        shares = np.maximum(counts, 1).astype(np.float64) ** power
        self._entries = entries
        self._cumulative = np.cumsum(shares)
        self._seed = seed
        # An entry that is never drawn (no row yet) can be a target all the same: as rare as the rarest.
        self._log_share = np.full(capacity, np.log(shares.min() / self._cumulative[-1]))
        self._log_share[entries] = np.log(shares / self._cumulative[-1])

    def draw(self, n: int, step: int) -> Int64Array:
        """int64[n] entries; the same for the same seed and step."""
        at = _uniform(n, self._seed, step) * self._cumulative[-1]
        places = np.searchsorted(self._cumulative, at, side="right")
        drawn: Int64Array = self._entries[np.minimum(places, len(self._entries) - 1)]
        return drawn

    def log_expected(self, entries: Int64Array, n: int) -> Float32Array:
        """log(n * share) of every entry, float32[N]: its expected count among n draws."""
        expected: Float32Array = (self._log_share[entries] + np.log(n)).astype(np.float32)
        return expected


class LogUniformSampler:
    """Zipfian: P(rank r) = log((r + 2) / (r + 1)) / log(N + 1), rank 0 the most frequent item.

    Only right on ranks by falling frequency, so it takes a rank map and never bare IDs.
    entries: int64[N] candidates below `capacity`; ranks: int64[N] their frequency ranks, 0..N-1 each once.
    """

    def __init__(self, entries: Int64Array, ranks: Int64Array, capacity: int, seed: int) -> None:
        """ValueError if ranks are no permutation of 0..N-1."""
        n = len(entries)
        _refuse_empty(n)
        if len(ranks) != n or not np.array_equal(np.sort(ranks), np.arange(n)):
            raise ValueError(
                f"log-uniform sampler: expected the frequency ranks 0..{n - 1}, each once, got {len(ranks)} "
                "other numbers; IDs are no ranks: use frequency_ranks(counts)"
            )
        self._by_rank = np.empty(n, np.int64)
        self._by_rank[ranks] = entries
        self._seed = seed
        self._log_share = np.full(capacity, _log_uniform(n - 1, n))
        self._log_share[self._by_rank] = _log_uniform(np.arange(n), n)

    def draw(self, n: int, step: int) -> Int64Array:
        """int64[n] entries; the same for the same seed and step."""
        size = len(self._by_rank)
        rank = np.exp(_uniform(n, self._seed, step) * np.log(size + 1)).astype(np.int64) - 1
        drawn: Int64Array = self._by_rank[np.clip(rank, 0, size - 1)]
        return drawn

    def log_expected(self, entries: Int64Array, n: int) -> Float32Array:
        """log(n * share) of every entry, float32[N]; an entry without a rank counts as the rarest."""
        expected: Float32Array = (self._log_share[entries] + np.log(n)).astype(np.float32)
        return expected


def frequency_ranks(counts: Int64Array) -> Int64Array:
    """int64[N] rank of every place by falling count, 0 the most frequent; ties in order of place."""
    ranks = np.empty(len(counts), np.int64)
    ranks[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    return ranks


class LearnedUnigramSampler:
    """Probability ~ count, where the counts are learned from the targets as they pass.

    A Fenwick tree over entries: a count moves and a draw is found in O(log entries), with no rebuild per
    step. An entry is drawn only after it has been observed.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._counts = np.zeros(1024, np.int64)
        self._tree = np.zeros(1025, np.int64)
        self._total = 0

    def observe(self, entries: Int64Array) -> None:
        """Count targets int64[N]."""
        if len(entries) == 0:
            return
        self._reserve(int(entries.max()) + 1)
        _count(entries, self._counts, self._tree)
        self._total += len(entries)

    def drop(self, entries: Int64Array) -> None:
        """Forget entries that expired; they are not drawn until observed again."""
        self._counts[entries[entries < len(self._counts)]] = 0
        self._rebuild()

    def draw(self, n: int, step: int) -> Int64Array:
        """int64[n] entries; the same for the same seed, step and counts. ValueError before any target."""
        _refuse_empty(self._total)
        below = (_uniform(n, self._seed, step) * self._total).astype(np.int64)
        drawn = np.empty(n, np.int64)
        _find(np.minimum(below, self._total - 1), self._tree, drawn)
        return drawn

    def log_expected(self, entries: Int64Array, n: int) -> Float32Array:
        """log(n * share) of every entry, float32[N]; an entry not seen yet counts as seen once."""
        counts = np.ones(len(entries), np.int64)
        known = entries < len(self._counts)
        counts[known] = np.maximum(self._counts[entries[known]], 1)
        expected: Float32Array = np.log(counts * (n / max(self._total, 1))).astype(np.float32)
        return expected

    def state(self) -> Tensors:
        """Everything from_state() needs."""
        return {"counts": self._counts.copy(), "seed": np.array([self._seed], np.int64)}

    @classmethod
    def from_state(cls, state: Tensors) -> LearnedUnigramSampler:
        """The sampler that state() described."""
        sampler = cls(int(state["seed"][0]))
        sampler._counts = np.array(state["counts"], np.int64)
        sampler._rebuild()
        return sampler

    def _reserve(self, entries: int) -> None:
        if entries > len(self._counts):
            grown = np.zeros(1 << (entries - 1).bit_length(), np.int64)
            grown[: len(self._counts)] = self._counts
            self._counts = grown
            self._rebuild()

    def _rebuild(self) -> None:
        self._total = int(self._counts.sum())
        self._tree = np.zeros(len(self._counts) + 1, np.int64)
        _build(self._counts, self._tree)


def per_row(sampler: Sampler, rows: int, n: int, step: int) -> Int64Array:
    """Negatives for each of `rows` rows, int64[rows, n]: row i has draws i*n .. i*n + n - 1.

    Flattened it is row-major: its users are np.repeat(users, n).
    """
    return sampler.draw(rows * n, step).reshape(rows, n)


def per_row_others(sampler: Sampler, positive_B: Int64Array, n: int, step: int) -> Int64Array:
    """per_row() without the row's own positive, int64[B, n]: places that hit it are drawn again.

    ValueError when the sampler hardly draws anything else.
    """
    drawn = per_row(sampler, len(positive_B), n, step)
    row, place = np.nonzero(drawn == positive_B[:, None])
    for again in range(1, _REDRAWS + 1):
        if len(row) == 0:
            break
        drawn[row, place] = sampler.draw(len(row), step + again * _ROUND)
        still = drawn[row, place] == positive_B[row]
        row, place = row[still], place[still]
    if len(row):
        raise ValueError(
            f"sampler: {len(row)} negatives are their row's own positive even after {_REDRAWS} redraws; "
            "expected a corpus of at least two items; train on more items or lower the sampler's power"
        )
    return drawn


def uniform_by_key(keys: Int64Array, salt: int) -> Float32Array:
    """One uniform number in [0, 1) per key, float32[N]; a pure function of (key, salt) (splitmix64)."""
    x = keys.astype(np.uint64) + np.uint64((salt + 1) * 0x9E3779B97F4A7C15 % (1 << 64))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)


def _uniform(n: int, seed: int, step: int) -> Float64Array:
    return np.random.Generator(np.random.Philox(key=[seed, step])).random(n)


def _log_uniform(rank: Int64Array | int, n: int) -> Float64Array:
    share: Float64Array = np.log(np.log1p(1.0 / (np.asarray(rank) + 1.0)) / np.log(n + 1.0))
    return share


def _refuse_empty(n: int) -> None:
    if n == 0:
        raise ValueError("sampler: no items to draw negatives from; train on at least one target first")


@compiled
def _build(counts: Int64Array, tree: Int64Array) -> None:
    """Fenwick tree (one-based) of counts, in O(n)."""
    for at in range(1, len(tree)):
        tree[at] += counts[at - 1]
        parent = at + (at & -at)
        if parent < len(tree):
            tree[parent] += tree[at]


@compiled
def _count(entries: Int64Array, counts: Int64Array, tree: Int64Array) -> None:
    for i in range(len(entries)):
        counts[entries[i]] += 1
        at = entries[i] + 1
        while at < len(tree):
            tree[at] += 1
            at += at & -at


@compiled
def _find(below: Int64Array, tree: Int64Array, found: Int64Array) -> None:
    """found[i]: the entry whose counts cover below[i] when all counts are laid end to end."""
    size = len(tree) - 1  # a power of two
    for i in range(len(below)):
        left: Index = below[i]
        at: Index = 0
        half: Index = size
        while half > 0:
            if at + half <= size and tree[at + half] <= left:
                at += half
                left -= tree[at]
            half //= 2
        found[i] = at
