"""Negatives drawn from the corpus, with the log of how often each is expected among the draws.

Every draw is with replacement and a pure function of (seed, step), so that a restarted run draws the same.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from models.arrays import BoolArray, Float32Array, Float64Array, Index, Int32Array, Int64Array
from models.native import FLOATS_OF_A_LINE, compiled, compiled_into, prefetch
from models.philox import uniform

_REDRAWS = 1000  # of places that hit the row's own positive, before a corpus counts as too small
_ROUND = 1 << 40  # steps between the redraws of one step, so that no two draws share random numbers
_BLOCK = 16
"""Entries whose shares are added up for every draw that falls among them."""
_FEW = 1 << 12
"""Counts below this are raised beforehand, once for all entries."""


@compiled
def _fill_in(
    live: BoolArray,
    counts: Int64Array | Float64Array,
    few: int,
    powers: Float64Array,
    shares: Float64Array,
    block_sums: Float64Array,
) -> float:
    """Fill in shares, the power of the count where live and 0 elsewhere, and block_sums: the sum of all
    shares up to the end of every block, added up one by one. Returns the least share above 0.

    powers: of the counts 0..few-1, then of each that is not among these, as they come.
    """
    total, least, following = 0.0, np.inf, np.int64(few)
    for block in range(len(block_sums)):
        for entry in range(block * _BLOCK, min((block + 1) * _BLOCK, len(shares))):
            place = np.int64(counts[entry])
            if counts[entry] >= few:
                place = following
                following += 1
            share = powers[place] if live[entry] else 0.0
            shares[entry] = share
            total += share
            least = min(least, share if share > 0.0 else np.inf)
        block_sums[block] = total
    return least


@compiled_into
def _bucket(value: float, scale: float, buckets: Index) -> Index:
    """Never falls as the value rises, whatever is lost in rounding: what the search relies on."""
    return min(np.int64(value * scale), np.int64(buckets - 1))


@compiled
def _bucket_begins(block_sums: Float64Array) -> Int32Array:
    """int32[blocks]: the first block whose sum is in a bucket, of as many equal ones, or in a later one."""
    buckets = len(block_sums)
    last, scale = buckets - 1, buckets / block_sums[-1]
    begins = np.full(buckets, last, np.int32)
    for block in range(last, -1, -1):
        begins[_bucket(block_sums[block], scale, buckets)] = block
    first = np.int32(last)
    for bucket in range(last, -1, -1):
        first = min(first, begins[bucket])
        begins[bucket] = first
    return begins


@compiled
def _found(
    uniform: Float64Array,
    shares: Float64Array,
    block_sums: Float64Array,
    begins: Int32Array,
    found: Int64Array,
) -> None:
    """found[i] = the first place up to which the shares, added up one by one, are more than uniform[i] of all
    of them: np.searchsorted(side="right") in their cumulative sum.

    What is read lies all over the memory: it is asked for on behalf of all before the first one reads it.
    """
    blocks, total = len(block_sums), block_sums[-1]
    scale = blocks / total
    for i in range(len(found)):
        found[i] = begins[_bucket(uniform[i] * total, scale, blocks)]
        prefetch(block_sums, found[i])
    for i in range(len(found)):
        at, block = uniform[i] * total, found[i]
        while block_sums[block] <= at and block < blocks - 1:  # a bucket has one block on average
            block += 1
        found[i] = block
        for place in range(block * _BLOCK, (block + 1) * _BLOCK, FLOATS_OF_A_LINE // 2):
            prefetch(shares, place)
    for i in range(len(found)):
        at, block = uniform[i] * total, found[i]
        place, end = block * _BLOCK, min((block + 1) * _BLOCK, len(shares)) - 1
        reached = (block_sums[block - 1] if block > 0 else 0.0) + shares[place]
        while reached <= at and place < end:
            place += 1
            reached += shares[place]
        found[i] = place


@compiled
def _expect(
    entries: Int64Array, shares: Float64Array, least: float, draws: float, expected: Float64Array
) -> None:
    """Fill in expected = draws * shares[entries], at least `least` of these: reads that wait together."""
    for i in range(len(entries)):
        expected[i] = max(shares[entries[i]], least) * draws


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

    By entry: live: bool[entries] whether it is drawn, and counts [entries] how often it was seen.
    """

    def __init__(self, live: BoolArray, counts: Int64Array | Float64Array, power: float, seed: int) -> None:
        _refuse_empty(int(np.count_nonzero(live)))
        self._seed = seed
        # Whole numbers are mostly small and repeated: each is raised once.
        few = _FEW if np.issubdtype(counts.dtype, np.integer) else 0
        powers = np.maximum(np.concatenate([np.arange(float(few)), counts[counts >= few]]), 1.0) ** power
        self._shares = np.empty(len(live))  # by entry
        self._block_sums = np.empty(-(-len(live) // _BLOCK))
        # An entry that is never drawn (no row yet) can be a target all the same: as rare as the rarest.
        self._least = _fill_in(live, counts, few, powers, self._shares, self._block_sums)
        self._begins = _bucket_begins(self._block_sums)

    def draw(self, n: int, step: int) -> Int64Array:
        """int64[n] entries; the same for the same seed and step."""
        drawn = np.empty(n, np.int64)
        _found(uniform(n, (self._seed, step)), self._shares, self._block_sums, self._begins, drawn)
        return drawn

    def log_expected(self, entries: Int64Array, n: int) -> Float32Array:
        """log(n * share) of every entry, float32[N]: its expected count among n draws."""
        expected = np.empty(len(entries))
        _expect(entries, self._shares, self._least, n / self._block_sums[-1], expected)
        return np.log(expected, out=expected).astype(np.float32)


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

    p: float64[entries] in (0, 1] where live, the frequency estimator's running estimate of each entry's share
    of targets: it follows drift and continues from the bundle, where a count remembers for ever.
    """

    def __init__(self, live: BoolArray, p: Float64Array, power: float, seed: int) -> None:
        """ValueError for an estimate that is no share."""
        _refuse_empty(int(np.count_nonzero(live)))
        least, most = p.min(where=live, initial=np.inf), p.max(where=live, initial=0.0)
        if not (least > 0 and most <= 1):
            raise ValueError(
                f"learned-unigram sampler: expected shares in (0, 1], got {least} .. {most}; "
                "pass FrequencyEstimator.probability(entries)"
            )
        super().__init__(live, p / least, power, seed)


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
