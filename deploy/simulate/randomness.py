"""Random numbers as functions of (seed, stream, step): no draw depends on how many others were made."""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What the numbers are for. Values are part of what a seed means: never renumber."""

    GEOMETRY = 0
    USERS = 1
    ITEMS = 2
    TRENDS = 3
    DRIFT = 4
    VISITS = 5
    BEHAVIOUR = 6
    RECOMMENDER = 7
    TREND_HISTORY = 8
    EXPLORE = 9


def generator(seed: int, stream: Stream, step: int) -> np.random.Generator:
    """A generator of its own for each (seed, stream, step); step: minutes since the start, -1 = before."""
    return np.random.default_rng([seed, int(stream), step + 1])
