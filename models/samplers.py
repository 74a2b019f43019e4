"""Negatives drawn from the corpus, with the log of how often each is expected among the draws.

Every draw is with replacement and a pure function of (seed, step), so that a restarted run draws the same.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from models.arrays import Float32Array, Float64Array, Index, Int32Array, Int64Array
from models.native import compiled
from models.philox import uniform

_REDRAWS = 1000  # of places that hit the row's own positive, before a corpus counts as too small
_ROUND = 1 << 40  # steps between the redraws of one step, so that no two draws share random numbers


@compiled
def _bucket(value: float, buckets: Index, total: float) -> Index:
    """Never falls as the value rises, whatever is lost in rounding: what the search relies on."""
    return min(np.int64(value * (buckets / total)), buckets - 1)


@compiled
def _bucket_begins(cumulative: Float64Array) -> Int32Array:
    """int32[N]: the first place whose cumulative value is in a bucket, of N equal ones, or in a later one."""
    buckets = len(cumulative)
    begins = np.empty(buckets, np.int32)
    bucket = 0
    for place in range(buckets):
        last = _bucket(cumulative[place], buckets, cumulative[-1])
        while bucket <= last:
            begins[bucket] = place
            bucket += 1
    return begins


@compiled
def _found(
    at: Float64Array, cumulative: Float64Array, begins: Int32Array, entries: Int64Array, drawn: Int64Array
) -> None:
    """drawn[i] = the entry of the first place above at[i]: np.searchsorted(side="right"), begun in at[i]'s
    bucket, which saves the misses of a search from the middle.
    """
    n = len(cumulative)
    for i in range(len(at)):
        bucket = _bucket(at[i], n, cumulative[-1])
        low = begins[bucket]
        high = begins[bucket + 1] if bucket + 1 < n else n - 1
        while low < high:
            middle = (low + high) // 2
            if cumulative[middle] > at[i]:
                high = middle
            else:
                low = middle + 1
        drawn[i] = entries[low]


def _powers(counts: Int64Array | Float64Array, power: float) -> Float64Array:
    """Counts ** power, float64[N]. Whole numbers are mostly small and repeated: each is raised once."""
    if counts.dtype == np.int64 and len(counts) and (largest := int(counts.max())) < len(counts):
        of_each: Float64Array = np.arange(largest + 1, dtype=np.float64) ** power
        return of_each[counts]
    return counts.astype(np.float64) ** power


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
        self,
        entries: Int64Array,
        counts: Int64Array | Float64Array,
        capacity: int,
        power: float,
        seed: int,
    ) -> None:
        _refuse_empty(len(entries))
        shares = _powers(np.maximum(counts, 1), power)
        self._entries = entries
        self._cumulative = np.cumsum(shares)
        self._begins = _bucket_begins(self._cumulative)
        self._seed = seed
        # An entry that is never drawn (no row yet) can be a target all the same: as rare as the rarest.
        self._share = np.full(capacity, shares.min() / self._cumulative[-1])
        self._share[entries] = shares / self._cumulative[-1]

    def draw(self, n: int, step: int) -> Int64Array:
        """int64[n] entries; the same for the same seed and step."""
        at = uniform(n, (self._seed, step)) * self._cumulative[-1]
        drawn = np.empty(n, np.int64)
        _found(at, self._cumulative, self._begins, self._entries, drawn)
        return drawn

    def log_expected(self, entries: Int64Array, n: int) -> Float32Array:
        """log(n * share) of every entry, float32[N]: its expected count among n draws."""
        expected: Float32Array = (np.log(self._share[entries]) + np.log(n)).astype(np.float32)
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

    @classmethod
    def of_counts(
        cls, entries: Int64Array, counts: Int64Array, capacity: int, seed: int
    ) -> LogUniformSampler:
        """The sampler whose rank map is the order of falling counts int64[N]."""
        return cls(entries, frequency_ranks(counts), capacity, seed)

    def draw(self, n: int, step: int) -> Int64Array:
        """int64[n] entries; the same for the same seed and step."""
        size = len(self._by_rank)
        rank = np.exp(uniform(n, (self._seed, step)) * np.log(size + 1)).astype(np.int64) - 1
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


class LearnedUnigramSampler(UnigramSampler):
    """Probability ~ p^power, where p is learned from the stream of targets as it goes.

    p: float64[N] in (0, 1], the frequency estimator's running estimate of each entry's share of targets: it
    follows drift and continues from the bundle, where a count remembers for ever.
    """

    def __init__(self, entries: Int64Array, p: Float64Array, capacity: int, power: float, seed: int) -> None:
        """ValueError for an estimate that is no share."""
        if len(p) and not (p.min() > 0 and p.max() <= 1):
            raise ValueError(
                f"learned-unigram sampler: expected shares in (0, 1], got {p.min()} .. {p.max()}; "
                "pass FrequencyEstimator.probability(entries)"
            )
        super().__init__(entries, p / p.min() if len(p) else p, capacity, power, seed)


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
    """One uniform number in [0, 1) per key, float32 of the same shape; a pure function of (key, salt)
    (splitmix64).
    """
    uniform = np.empty(keys.shape, np.float32)
    _uniform_of_all(np.ascontiguousarray(keys, np.int64).ravel(), key_shift(salt), uniform.reshape(-1))
    return uniform


def key_shift(salt: int) -> np.uint64:
    """What uniform_of() takes of a salt."""
    return np.uint64((salt + 1) * 0x9E3779B97F4A7C15 % (1 << 64))


@compiled
def uniform_of(key: Index, shift: np.uint64) -> np.float32:
    """uniform_by_key() of one key, for compiled code."""
    x = np.uint64(key) + shift
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.float32((x ^ (x >> np.uint64(31))) >> np.uint64(40)) / np.float32(1 << 24)


@compiled
def _uniform_of_all(keys: Int64Array, shift: np.uint64, uniform: Float32Array) -> None:
    for i in range(len(keys)):
        uniform[i] = uniform_of(keys[i], shift)


def _log_uniform(rank: Int64Array | int, n: int) -> Float64Array:
    share: Float64Array = np.log(np.log1p(1.0 / (np.asarray(rank) + 1.0)) / np.log(n + 1.0))
    return share


def _refuse_empty(n: int) -> None:
    if n == 0:
        raise ValueError("sampler: no items to draw negatives from; train on at least one target first")
