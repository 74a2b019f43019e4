"""Compiled walk through a graph of items (HNSW, Malkov and Yashunin, TPAMI 2018) by inner product.

A walk waits for memory more than it computes: vectors and links lie anywhere in it. So the four best places
are left together, what they lead to is asked for at once, and the links of the next place are asked for
meanwhile. Places in the pool are not in order: a key is score and slot in one number, and the best and the
worst of a few hundred are found sooner than an order is kept.
"""

import numpy as np

from models.arrays import Float32Array, Index, Int32Array, Int64Array, UInt8Array, UInt64Array
from models.native import FLOATS_OF_A_LINE, compiled_into, compiled_sums, float_bits, float_of, prefetch

LEFT_TOGETHER = 4
SEEN_PER_EFFORT = 64
"""A walk ends, with what it has, where it has seen so many times its effort; five times as many as usual."""
_NONE = np.int64(-(2**63))
_LOW = np.int64(0xFFFFFFFF)
_INTS_OF_A_LINE = 16


@compiled_into
def _key(score: np.float32, low: Index) -> np.int64:
    """Ordered as scores are, then as `low` is, which is below 2^32."""
    bits = float_bits(score)
    key: np.int64 = np.int64(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))) << 32 | np.int64(low)
    return key


@compiled_into
def _score(key: np.int64) -> np.float32:
    """Of a _key()."""
    bits = np.int32(key >> 32)
    return float_of(bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF)))


@compiled_into
def _least(keys_P: Int64Array, n: Index) -> np.int64:
    least: np.int64 = keys_P[0]
    for i in range(1, n):
        least = min(least, keys_P[i])
    return least


@compiled_into
def _most(keys_P: Int64Array, n: Index) -> np.int64:
    most = _NONE
    for i in range(n):
        most = max(most, keys_P[i])
    return most


@compiled_into
def _product(vectors: Float32Array, at: Index, u_D: Float32Array) -> np.float32:
    total = np.float32(0)
    for d in range(len(u_D)):
        total += vectors[at, d] * u_D[d]
    return total


@compiled_into
def _fetch(vectors: Float32Array, at: Index) -> None:
    width = vectors.shape[1]
    for d in range(0, width, FLOATS_OF_A_LINE):
        prefetch(vectors, at * width + d)


@compiled_into
def _descended(
    vectors: Float32Array,
    links: Int32Array,
    first_link: UInt64Array,
    level_ends: Int64Array,
    entry: Index,
    levels: Index,
    u_D: Float32Array,
) -> np.int64:
    """Where the bottom is entered: on each level above it, from place to better place as far as that goes."""
    here = np.int64(entry)
    best = _product(vectors, here, u_D)
    for level in range(levels, 0, -1):
        moved = True
        while moved:
            moved = False
            first = np.int64(first_link[here])
            begin, end = first + level_ends[level], first + level_ends[level + 1]
            for link in range(begin, end):
                if links[link] < 0:
                    break
                _fetch(vectors, np.int64(links[link]))
            for link in range(begin, end):
                at = np.int64(links[link])
                if at < 0:
                    break
                score = _product(vectors, at, u_D)
                if score > best:
                    best, here, moved = score, at, True
    return here


@compiled_sums
def walk(
    vectors: Float32Array,
    links: Int32Array,
    first_link: UInt64Array,
    level_ends: Int64Array,
    entry: Index,
    levels: Index,
    u_BD: Float32Array,
    k: Index,
    effort: Index,
    masked: bool,
    allowed: UInt8Array,
    visited: UInt64Array,
    scores_BK: Float32Array,
    places_BK: Int64Array,
) -> None:
    """The best k that a walk for each query meets, best first, equal ones by place; -1 (score -inf) beyond.

    vectors: float32[N, D]; links: those of place i on level l from first_link[i] + level_ends[l] to
    first_link[i] + level_ends[l + 1], the last of them -1; entry: a place on the highest of `levels` levels
    above the bottom. effort: places in the pool, at least k. allowed: bitmap over the places, read where
    masked. visited: bitmap over them, all zeros before and after.
    """
    per_place = level_ends[1]
    seen_most = SEEN_PER_EFFORT * effort + LEFT_TOGETHER * per_place
    seen, seen_scores = np.empty(seen_most, np.int32), np.empty(seen_most, np.float32)
    keys_P, left_P, places_P = np.empty((3, effort), np.int64)
    for b in range(len(u_BD)):
        u_D = u_BD[b]
        here = _descended(vectors, links, first_link, level_ends, entry, levels, u_D)
        # The pool: keys_P of all in it, left_P of those that were not left yet. A key's low half is its slot.
        seen[0], seen_scores[0], places_P[0] = here, _product(vectors, here, u_D), here
        worst = keys_P[0] = left_P[0] = _key(seen_scores[0], 0)
        visited[here >> 6] |= np.uint64(1) << np.uint64(here & 63)
        n, met = np.int64(1), np.int64(1)
        while met + LEFT_TOGETHER * per_place <= seen_most:
            first = met
            for _ in range(LEFT_TOGETHER):
                best = _most(left_P, n)
                if best == _NONE:
                    break
                slot = best & _LOW
                left_P[slot] = _NONE
                begin = np.int64(first_link[places_P[slot]])
                before = met
                for link in range(begin, begin + per_place):
                    at = np.int64(links[link])
                    if at < 0:
                        break
                    word, bit = visited[at >> 6], np.uint64(at & 63)
                    seen[met] = at
                    met += np.int64(((word >> bit) & np.uint64(1)) ^ np.uint64(1))
                    visited[at >> 6] = word | (np.uint64(1) << bit)
                for i in range(before, met):
                    _fetch(vectors, np.int64(seen[i]))
            if met == first and best == _NONE:
                break
            best = _most(left_P, n)
            if best != _NONE:
                begin = np.int64(first_link[places_P[best & _LOW]])
                for link in range(begin, begin + per_place, _INTS_OF_A_LINE):
                    prefetch(links, link)
                prefetch(links, begin + per_place - 1)  # they need not begin where a line does
            for i in range(first, met):
                at = np.int64(seen[i])
                score = _product(vectors, at, u_D)
                seen_scores[i] = score
                if n < effort:
                    slot = n
                    n += np.int64(1)
                elif _key(score, _LOW) > worst:
                    slot = worst & _LOW
                else:
                    continue
                keys_P[slot] = left_P[slot] = _key(score, slot)
                places_P[slot] = at
                prefetch(first_link, at)
                if n == effort:
                    worst = _least(keys_P, n)
        for i in range(met):
            visited[seen[i] >> 6] = 0
        # keys_P from here on: score, then the lower place
        found = 0
        for i in range(n):
            at = places_P[i]
            if not masked or (allowed[at >> 3] >> (at & 7)) & 1:
                keys_P[found] = (keys_P[i] & ~_LOW) | (_LOW - at)
                found += 1
        ranked = keys_P[:found]
        if found < k and masked:  # more of what it saw may be returned than of the best of it
            ranked, found = np.empty(met, np.int64), 0
            for i in range(met):
                at = np.int64(seen[i])
                if (allowed[at >> 3] >> (at & 7)) & 1:
                    ranked[found] = _key(seen_scores[i], _LOW - at)
                    found += 1
            ranked = ranked[:found]
        ranked.sort()
        for i in range(k):
            if i < found:
                key = ranked[found - 1 - i]
                scores_BK[b, i], places_BK[b, i] = _score(key), _LOW - (key & _LOW)
            else:
                scores_BK[b, i], places_BK[b, i] = -np.inf, -1
