"""Prebatch: the sample producer that draws negatives when samples are written, not in the training step.

A row is complete: one positive and its n negatives, each with its attributes as of sample time, and the
user's history. The item tower can then use every item feature and the training step only parses. What goes on
changing until the training (counts, the user's own items) is not in a row: ModelConfig.check_prebatch()
refuses models that need it.

Shapes: B rows, n negatives, L history, C categories and M numbers of the request, C' and M' of an item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from models.arrays import Float32Array, Int32Array, Int64Array
from models.samplers import Sampler, per_row_others
from models.samples import Samples


@dataclass(frozen=True)
class PrebatchedRows:
    """B complete rows. Items are entries of one Learner's ID tables; place 0 of an item axis is the positive.

    history: int32[B, L] newest last, -1 = none; history_age_s: int32[B, L]. negatives: int32[B, n], never the
    row's positive. item_categories: int32[B, 1 + n, C'] entries, -1 = none; item_numbers: float32[B, 1 + n,
    M'] raw, nan = missing. log_expected: float32[B, 1 + n], how often the item is among n draws.
    """

    samples: Samples
    history: Int32Array
    history_age_s: Int32Array
    negatives: Int32Array
    item_categories: Int32Array
    item_numbers: Float32Array
    log_expected: Float32Array

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def items(self) -> Int64Array:
        """int64[B, 1 + n]: the positive, then its negatives."""
        return np.concatenate([self.samples.item[:, None], self.negatives], axis=1).astype(np.int64)


@dataclass(frozen=True)
class SampleProducer:
    """Makes complete rows of samples.

    categories: item entries int64[k] -> int32[k, C']; numbers: item entries int64[k] -> float32[k, M']; both
    as of now, so a producer runs where the samples are made.
    """

    sampler: Sampler
    negatives: int
    categories: Callable[[Int64Array], Int32Array]
    numbers: Callable[[Int64Array], Float32Array]

    def batches(
        self, samples: Samples, history: Int32Array, history_age_s: Int32Array, size: int, step: int = 0
    ) -> Iterator[PrebatchedRows]:
        """Rows in the samples' order, `size` to a batch. step: the first batch's step of the sampler.

        The training takes them as they lie: shuffle the samples first.
        """
        for number, start in enumerate(range(0, len(samples), size)):
            places = slice(start, start + size)
            yield self.rows(samples.take(places), history[places], history_age_s[places], step + number)

    def rows(
        self, samples: Samples, history: Int32Array, history_age_s: Int32Array, step: int
    ) -> PrebatchedRows:
        """One batch, with the negatives of `step`. ValueError when the corpus has no other item."""
        b, places = len(samples), 1 + self.negatives
        positive = samples.item.astype(np.int64)
        negatives = per_row_others(self.sampler, positive, self.negatives, step)
        items = np.concatenate([positive[:, None], negatives], axis=1).ravel()
        # Attributes once per distinct item: popular ones are drawn often.
        distinct, place = np.unique(items, return_inverse=True)
        categories, numbers = self.categories(distinct)[place], self.numbers(distinct)[place]
        return PrebatchedRows(
            samples,
            history,
            history_age_s,
            negatives.astype(np.int32),
            categories.reshape(b, places, categories.shape[1]),
            numbers.reshape(b, places, numbers.shape[1]),
            self.sampler.log_expected(items, self.negatives).reshape(b, places),
        )
