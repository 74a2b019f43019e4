"""Which positives a training call sees: popular ones dropped, cold ones repeated, very active users capped.

Recall data is mostly popular items; left as it is, they win every comparison. No weights undo it: the bias is
wanted. All choices are pure functions of the sample's running number.
"""

from __future__ import annotations

import numpy as np

from models.arrays import BoolArray, Float64Array, Int32Array, Int64Array
from models.model_config import ModelConfig
from models.samplers import uniform_by_key
from models.samples import Samples


def keep_probability(counts: Int64Array, total: int, threshold: float) -> Float64Array:
    """Word2vec's sub-sampling, float64[N]: min(1, sqrt(t / f)) for an item with the share f = count / total.

    So the drop probability 1 - sqrt(t / f) grows with the item's count; threshold 0 drops nothing (Mikolov et
    al., NeurIPS 2013, section 2.3).
    """
    if threshold == 0:
        return np.ones(len(counts))
    share = np.maximum(counts, 1) / max(total, 1)
    keep: Float64Array = np.minimum(1.0, np.sqrt(threshold / share))
    return keep


def copies(
    counts: Int64Array,
    keep: Float64Array,
    sequence: Int64Array,
    salt: int,
    cold_below: int,
    cold_repeats: int,
) -> Int64Array:
    """How often each of N samples is seen, int64[N]: 0 dropped, 1, or cold_repeats for an item with a count
    below cold_below.
    """
    kept = uniform_by_key(sequence, salt) < keep
    return np.where(kept, np.where(counts < cold_below, cold_repeats, 1), 0)


def newest_of_users(user: Int32Array, ts_ms: Int64Array, sequence: Int64Array, most: int) -> BoolArray:
    """True for the newest `most` samples of every user, bool[N]; unknown users (-1) are not capped."""
    order = np.lexsort((-sequence, -ts_ms, user))
    starts = np.flatnonzero(np.diff(user[order], prepend=np.int32(-2)))
    nth = np.arange(len(user)) - np.repeat(starts, np.diff(starts, append=len(user)))
    kept = np.empty(len(user), np.bool_)
    kept[order] = (nth < most) | (user[order] < 0)
    return kept


def resampled(
    config: ModelConfig,
    samples: Samples,
    order: Int64Array,
    counts: Int64Array | None = None,
    salt: int = 0,
) -> tuple[Int64Array, dict[str, int]]:
    """The positions of `order` int64[n] that are seen, in its order, copies side by side; and the changes.

    counts: int64[entries] how often each item was a target (None = among these samples); salt: varies the
    choice between passes. The counts returned: "capped" (by samples_per_user), "dropped" (popular),
    "repeated" (further copies of cold ones).
    """
    changed = {"capped": 0, "dropped": 0, "repeated": 0}
    if config.samples_per_user:
        part = samples.take(order)
        kept = newest_of_users(part.user, part.ts_ms, part.sequence, config.samples_per_user)
        changed["capped"] = len(order) - int(kept.sum())
        order = order[kept]
    if config.popular_threshold == 0 and config.cold_repeats == 1:
        return order, changed
    if counts is None:
        counts = np.bincount(samples.item)
    of_item = counts[samples.item[order]]
    keep = keep_probability(of_item, int(counts.sum()), config.popular_threshold)
    seen = copies(of_item, keep, samples.sequence[order], salt, config.cold_below, config.cold_repeats)
    changed["dropped"] = int((seen == 0).sum())
    changed["repeated"] = int(np.maximum(seen - 1, 0).sum())
    return np.repeat(order, seen), changed
