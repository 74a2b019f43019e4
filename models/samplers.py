"""Negatives drawn from the corpus, with the log of how often each is expected among the draws.

Every draw is with replacement and a pure function of (seed, step), so that a restarted run draws the same.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from models.arrays import Float32Array, Float64Array, Index, Int32Array, Int64Array
from models.native import FLOATS_OF_A_LINE, compiled, compiled_into, prefetch
from models.philox import uniform

_REDRAWS = 1000  # of places that hit the row's own positive, before a corpus counts as too small
_ROUND = 1 << 40  # steps between the redraws of one step, so that no two draws share random numbers
_BLOCK = 16
"""Entries whose shares are added up for every draw that falls among them."""
_FEW = 1 << 12
"""Powers that are raised sooner than their numbers are looked at."""


@compiled
def _filled(
    entries: Int64Array,
    counts: Int64Array,
    powers: Float64Array,
    shares: Float64Array,
    share_of: Float64Array,
) -> None:
    """Fill in shares = powers[counts], of a count of 0 that of 1, and share_of[entries] = shares."""
    for place in range(len(entries)):
        share = powers[max(counts[place], 1)]
        shares[place] = share
        share_of[entries[place]] = share


@compiled
def _block_sums(shares: Float64Array) -> Float64Array:
    """float64[blocks]: the sum of all shares up to the end of every block, added up one by one."""
    sums = np.empty(-(-len(shares) // _BLOCK), np.float64)
    total = 0.0
    for block in range(len(sums)):
        for place in range(block * _BLOCK, min((block + 1) * _BLOCK, len(shares))):
            total += shares[place]
        sums[block] = total
    return sums


@compiled_into
def _bucket(value: float, scale: float, buckets: Index) -> Index:
    """Never falls as the value rises, whatever is lost in rounding: what the search relies on."""
    return min(np.int64(value * scale), np.int64(buckets - 1))


@compiled
def _bucket_begins(block_sums: Float64Array) -> Int32Array:
    """int32[blocks]: the first block whose sum is in a bucket, of as many equal ones, or in a later one."""
    buckets = len(block_sums)
    begins = np.empty(buckets, np.int32)
    bucket, scale = 0, buckets / block_sums[-1]
    for block in range(buckets):
        last = _bucket(block_sums[block], scale, buckets)
        while bucket <= last:
            begins[bucket] = block
            bucket += 1
    return begins


@compiled
def _found(
    at: Float64Array,
    shares: Float64Array,
    block_sums: Float64Array,
    begins: Int32Array,
    entries: Int64Array,
    drawn: Int64Array,
) -> None:
    """drawn[i] = the entry of the first place up to which the shares, added up one by one, are more than
    at[i]: np.searchsorted(side="right") in their cumulative sum.

    Blocks lie all over the memory: all are asked for before the first one is read.
    """
    blocks, scale = len(block_sums), len(block_sums) / block_sums[-1]
    for i in range(len(at)):
        bucket = _bucket(at[i], scale, blocks)
        low = begins[bucket]
        high = begins[bucket + 1] if bucket + 1 < blocks else blocks - 1
        while low < high:
            middle = (low + high) // 2
            if block_sums[middle] > at[i]:
                high = middle
            else:
                low = middle + 1
        drawn[i] = low
        for place in range(low * _BLOCK, (low + 1) * _BLOCK, FLOATS_OF_A_LINE // 2):
            prefetch(shares, place)
            prefetch(entries, place)
    for i in range(len(at)):
        block = drawn[i]
        place, end = block * _BLOCK, min((block + 1) * _BLOCK, len(shares)) - 1
        reached = (block_sums[block - 1] if block > 0 else 0.0) + shares[place]
        while reached <= at[i] and place < end:
            place += 1
            reached += shares[place]
        drawn[i] = entries[place]


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
        self._entries = entries
        self._seed = seed
        self._share_of = np.zeros(capacity)  # by entry, of all together _block_sums[-1]
        self._shares = np.empty(len(entries))
        if counts.dtype == np.int64 and (largest := int(counts.max())) < max(len(counts), _FEW):
            # Whole numbers are mostly small and repeated: each is raised once.
            powers = np.arange(max(largest, 1) + 1, dtype=np.float64) ** power
            _filled(entries, counts.astype(np.int64, copy=False), powers, self._shares, self._share_of)
        else:
            self._shares = np.maximum(counts, 1).astype(np.float64) ** power
            self._share_of[entries] = self._shares
        self._block_sums = _block_sums(self._shares)
        self._begins = _bucket_begins(self._block_sums)
        # An entry that is never drawn (no row yet) can be a target all the same: as rare as the rarest.
        self._least = self._shares.min()

    def draw(self, n: int, step: int) -> Int64Array:
        """int64[n] entries; the same for the same seed and step."""
        at = uniform(n, (self._seed, step)) * self._block_sums[-1]
        drawn = np.empty(n, np.int64)
        _found(at, self._shares, self._block_sums, self._begins, self._entries, drawn)
        return drawn

    def log_expected(self, entries: Int64Array, n: int) -> Float32Array:
        """log(n * share) of every entry, float32[N]: its expected count among n draws."""
        share = np.maximum(self._share_of[entries], self._least) / self._block_sums[-1]
        expected: Float32Array = (np.log(share) + np.log(n)).astype(np.float32)
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
