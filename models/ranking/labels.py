"""From the actions of joined samples to labels and watch times."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.arrays import Float32Array
from models.ranking.rank_config import RankConfig, WatchConfig


def task_labels(config: RankConfig, actions: pa.MapArray) -> Float32Array:
    """float32[N, T]: 1 where any of the task's kinds is among the actions, of a task with `after` only where
    that one's label is 1 too.
    """
    labels = np.zeros((len(actions), len(config.tasks)), np.float32)
    for place, task in enumerate(config.tasks):
        for kind in task.kinds:
            there = pc.is_valid(pc.map_lookup(actions, kind, "last"))
            labels[:, place][np.array(there, np.bool_)] = 1.0
        if task.after:
            # The product of probabilities is that of both: an action without its click would train it to 1.
            labels[:, place] *= labels[:, config.names.index(task.after)]
    return labels


def watch_seconds(watch: WatchConfig, actions: pa.MapArray) -> Float32Array:
    """float32[N] seconds, at most cap_s; 0 where nothing was watched. ValueError for a negative or non-finite
    value.
    """
    values = pc.map_lookup(actions, watch.kind, "last").cast(pa.float64()).fill_null(0.0)
    seconds = np.array(values) * watch.seconds_per_unit
    wrong = np.flatnonzero(~np.isfinite(seconds) | (seconds < 0))
    if len(wrong):
        raise ValueError(
            f"joined samples: row {wrong[0]}: {watch.kind}: expected a value of 0 or more, "
            f"got {values[int(wrong[0])].as_py()}; such events should not have passed validation"
        )
    return np.minimum(seconds, watch.cap_s).astype(np.float32)
