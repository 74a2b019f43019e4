"""The training calls of one model: a shuffled pass over a day, or the steps of an hour in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from models.arrays import Float32Array, Int64Array
from models.candidates import Negatives
from models.dense_adam import DenseAdam
from models.frozen_step import frozen_stepper
from models.hard_negatives import HardNegatives, offline_hard
from models.item2vec import item2vec
from models.item_start import start_new_items
from models.lookup import Rows
from models.model_config import PER_ROW_LOSSES
from models.prebatch import PrebatchedRows, SampleProducer
from models.prebatch_file import read_prebatch, write_prebatch
from models.prebatch_step import PrebatchStepper
from models.request_targets import companions
from models.resampling import resampled
from models.samplers import (
    LearnedUnigramSampler,
    LogUniformSampler,
    Sampler,
    UnigramSampler,
)
from models.samples import Samples
from models.steps import ModelParts, Stepper, StepPlan

Progress = Callable[[int, int], None]
"""Told (samples done, samples in all) after each step."""

_CHUNK = 1024
_TOGETHER = 64
"""Batches that are made at once."""


class Training:
    """Moves the rows and weights of `parts`; counts its steps and passes, which key all random numbers."""

    def __init__(self, parts: ModelParts, adam: DenseAdam, rejects: HardNegatives) -> None:
        self._parts = parts
        self._adam = adam
        self._rejects = rejects
        self.stepper = Stepper(parts)
        self.steps = 0
        self.passes = 0
        self.resampled: dict[str, int] = {}

    def full(
        self,
        samples: Samples,
        order: Int64Array | None,
        progress: Progress | None,
        rank: Callable[[Samples], Float32Array],
    ) -> float:
        """One epoch (Learner.train_full); rank gives the model's scores of all items, float32[n, entries]."""
        parts, config = self._parts, self._parts.config
        if len(samples) == 0:
            return float("nan")
        if config.prebatch:
            return self._through_file(samples, order, progress)
        order, self.resampled = self._order(samples, order)
        numbers = self._begin(samples)
        sampler = None if config.negative_source == "in_batch" else self._sampler()
        plan = StepPlan(
            trained=frozenset(parts.tables.rows),
            negatives=Negatives(sampler, self._drawn_rejects(), self.passes),
            numbers=numbers,
            item_numbers=parts.item_features.standardised(parts.items.numbers),
            companions=companions(samples, config.num_true - 1),
            offline=self._offline(samples, rank),
            user_dropout=config.id_dropout if config.use_history else 0.0,
            item_dropout=config.item_dropout,
        )
        batches = ((self.stepper, *batch) for batch in self._batches(samples, order))
        return self._epoch(batches, plan, len(order), progress)

    def written(self, samples: Samples, order: Int64Array | None) -> Iterator[PrebatchedRows]:
        """Complete rows of the batches that full() would step over now, with the negatives of these steps
        where the loss takes each row's own (Learner.prebatch).
        """
        parts, config = self._parts, self._parts.config
        config.check_prebatch()
        if len(samples) == 0:
            return
        order, self.resampled = self._order(samples, order)
        producer = SampleProducer(
            self._sampler(),
            config.negatives_per_row,
            lambda entries: parts.items.categories[entries],
            lambda entries: parts.items.numbers[entries],
        )
        for number, (batch, _) in enumerate(self._batches(samples, order)):
            history = parts.history.read(batch.user, batch.ts_ms, batch.request, config.history_length)
            yield producer.rows(batch, *history, self.steps + number)

    def _through_file(self, samples: Samples, order: Int64Array | None, progress: Progress | None) -> float:
        """written() into a file for the time of this call, then prebatched(); the memory does not grow with
        the rows.
        """
        rows = self.written(samples, order)
        first = next(rows, None)
        if first is None:  # resampling left nothing
            return float("nan")
        origin = f"pass {self.passes}"
        with TemporaryDirectory(prefix="freshrecall-prebatch-") as directory:
            path = Path(directory) / "rows.arrow"
            write_prebatch(path, chain([first], rows), origin)
            return self.prebatched(lambda: read_prebatch(path, origin), progress)

    def prebatched(self, read: Callable[[], Iterable[PrebatchedRows]], progress: Progress | None) -> float:
        """One epoch over written rows (Learner.train_prebatched)."""
        parts, config = self._parts, self._parts.config
        config.check_prebatch()
        lying = [rows.samples for rows in read()]
        if not sum(map(len, lying)):
            return float("nan")
        samples = Samples.concatenate(lying)
        in_time = np.argsort(samples.sequence, kind="stable")
        by_time = self._begin(samples.take(in_time))
        numbers = np.empty_like(by_time)
        numbers[in_time] = by_time
        plan = StepPlan(
            trained=frozenset(parts.tables.rows),
            negatives=Negatives(None, None, self.passes),
            numbers=numbers,
            item_numbers=np.empty((0, 0), np.float32),
            companions=np.empty((len(samples), 0), np.int64),
            offline=None,
            user_dropout=config.id_dropout if config.use_history else 0.0,
            item_dropout=config.item_dropout,
        )

        def batches() -> Iterator[tuple[Stepper, Samples, slice]]:
            at = 0
            for rows in read():
                yield PrebatchStepper(parts, rows), rows.samples, slice(at, at + len(rows))
                at += len(rows)

        return self._epoch(batches(), plan, len(samples), progress)

    def _batches(self, samples: Samples, order: Int64Array) -> Iterator[tuple[Samples, Int64Array]]:
        """(batch, its positions) one after the other, made several at once: between two steps the processor
        has forgotten how.
        """
        size = self._parts.config.batch_size
        for begin in range(0, len(order), size * _TOGETHER):
            chosen = order[begin : begin + size * _TOGETHER]
            together = samples.take(chosen)
            places = [slice(start, start + size) for start in range(0, len(chosen), size)]
            yield from [(together.take(part), chosen[part]) for part in places]

    def _order(self, samples: Samples, order: Int64Array | None) -> tuple[Int64Array, dict[str, int]]:
        """The positions that this pass steps over, and what resampling changed."""
        config = self._parts.config
        if order is None:
            generator = np.random.Generator(np.random.Philox(key=[config.seed, self.passes]))
            order = generator.permutation(len(samples))
        return resampled(config, samples, order, self._parts.targets.by_entry, self.passes)

    def _begin(self, samples: Samples) -> Float32Array:
        """Set scalers, rates and never-trained rows for a full pass over samples, which are in the order of
        time; their standardised numbers float32[N, M].
        """
        parts, config = self._parts, self._parts.config
        raw = parts.features.with_age(samples.numbers, samples.ts_ms.max() - samples.ts_ms)
        parts.features.fit(raw)
        parts.item_features.fit(parts.items.numbers)
        parts.tables.spread(set(parts.tables.rows) - {"user"})
        if not config.has_item_tower:
            start_new_items(parts.tables, parts.item_features, parts.items, spread=True)
        if self.passes == 0 and config.item2vec_passes:
            self._start_items(samples)
        rate = 1.0 if self.passes < config.epochs_first else config.warm_rate
        for rows in parts.tables.rows.values():
            rows.set_lr(rate * config.lr_rows)
        self._adam.set_lr(rate * config.lr_dense)
        return parts.features.standardised(raw)

    def _epoch(
        self,
        batches: Iterable[tuple[Stepper, Samples, Int64Array | slice]],
        plan: StepPlan,
        n: int,
        progress: Progress | None,
    ) -> float:
        """Step over batches (who steps, samples, their positions) of n samples: the mean loss."""
        model, total, done = self._parts.model, 0.0, 0
        model.requires_grad_(True)
        model.train()
        torch.manual_seed(self._parts.config.seed * 1_000_003 + self.passes)  # dropout inside the towers
        for stepper, batch, positions in batches:
            self._adam.zero_grad()
            loss, _ = stepper.step(batch, positions, plan, self.steps)
            self._adam.step()
            self.steps += 1
            total += loss * len(batch)
            done += len(batch)
            if progress is not None:
                progress(done, n)
        model.eval()
        self.passes += 1
        return total / max(1, n)

    def incremental(self, samples: Samples, everything: bool, touch: Callable[[Rows], None]) -> float:
        """Steps in the samples' order (Learner.train_incremental); touch is told the rows that moved."""
        if len(samples) == 0:
            return float("nan")
        parts, config = self._parts, self._parts.config
        trained = frozenset(parts.tables.rows if everything else config.trained_tables)
        plan = StepPlan(
            trained=trained,
            # An hour's own items are few and biased: negatives are drawn from the corpus.
            negatives=Negatives(self._sampler(), self._drawn_rejects(), self.passes),
            numbers=parts.features.standardised(samples.numbers),
            item_numbers=parts.item_features.standardised(parts.items.numbers),
            companions=companions(samples, config.num_true - 1),
            offline=None,
            user_dropout=0.0,
            item_dropout=0.0,
        )
        for table in trained:
            parts.tables.rows[table].set_lr(config.lr_rows_incremental)
        parts.model.requires_grad_(everything)
        self._adam.set_lr(config.warm_rate * config.lr_dense)
        frozen = None if everything else frozen_stepper(parts, trained)
        stepper, put_cold_rows_back = frozen or self.stepper, parts.tables.cold_rows(trained)
        total = 0.0
        for start in range(0, len(samples), config.batch_size_incremental):
            places = slice(start, min(start + config.batch_size_incremental, len(samples)))
            batch = samples.take(places)
            if everything:
                self._adam.zero_grad()
            loss, rows = stepper.step(batch, places, plan, self.steps)
            put_cold_rows_back()
            if everything:
                self._adam.step()
            self.steps += 1
            total += loss * len(batch)
            touch(rows)
        return total / len(samples)

    def _sampler(self) -> Sampler:
        ids, config = self._parts.tables.ids["item"], self._parts.config
        live, counts = ids.entry_rows > 0, self._parts.targets.by_entry[: ids.entry_capacity]
        if config.negative_source == "learned_unigram":
            p = self._parts.estimator.probability(np.arange(ids.entry_capacity))
            return LearnedUnigramSampler(live, p, config.negative_power, config.seed)
        if config.negative_source == "log_uniform":
            entries = np.flatnonzero(live)
            return LogUniformSampler.of_counts(entries, counts[entries], ids.entry_capacity, config.seed)
        power = 0.0 if config.negative_source == "uniform" else config.negative_power
        return UnigramSampler(live, counts, power, config.seed)

    def _drawn_rejects(self) -> HardNegatives | None:
        return self._rejects if "rejects" in self._parts.config.hard_negatives else None

    def _offline(self, samples: Samples, rank: Callable[[Samples], Float32Array]) -> Int64Array | None:
        """Offline hard negatives of every sample from the model's own results, int64[N, n] entries."""
        config = self._parts.config
        if "offline" not in config.hard_negatives:
            return None
        n = config.negatives_per_row if config.loss in PER_ROW_LOSSES else config.hard_per_row
        picks = np.full((len(samples), n), -1, np.int64)
        if self.passes == 0:
            return picks  # a model that has learned nothing has no results
        for start in range(0, len(samples), _CHUNK):
            part = samples.take(slice(start, start + _CHUNK))
            picks[start : start + len(part)] = offline_hard(
                rank(part), part.item.astype(np.int64), config.hard_ranks, n,
                part.sequence, self.passes,
            )  # fmt: skip
        return picks

    def _start_items(self, samples: Samples) -> None:
        """Item rows begin where skip-gram over the users' sequences puts them."""
        parts, config = self._parts, self._parts.config
        ids = parts.tables.ids["item"]
        vectors = item2vec(
            samples.user, samples.item, ids.entry_capacity, config.id_dim, config.item2vec_passes, config.seed
        )
        # What nobody took yet has no vector, and keeps the place that Tables.spread gave it.
        seen = np.unique(samples.item[samples.user >= 0].astype(np.int64))
        rows = ids.rows(seen)
        seen, rows = seen[rows > 0], rows[rows > 0]
        if len(seen) == 0:
            return
        scale = np.float32(config.row_init) / max(1e-9, float(np.abs(vectors[seen]).mean()))
        for table in {"item", "history_item"} & set(parts.tables.rows):
            weights = parts.tables.rows[table].weights
            width = min(weights.shape[1], vectors.shape[1])
            weights[torch.from_numpy(rows), :width] = torch.from_numpy(scale * vectors[seen, :width])
