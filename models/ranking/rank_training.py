"""A training call: counts as of every stretch, then passes over all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from models.arrays import Float32Array, Float64Array, Int64Array
from models.dense_adam import DenseAdam
from models.embedding import EmbeddingTable
from models.ranking.assembly import RankerParts
from models.ranking.inputs import RankInputs
from models.ranking.losses import loss_weights, step_losses
from models.ranking.pairwise import groups_shuffled, pair_losses
from models.ranking.rank_samples import RankSamples
from models.ranking.row_space import PAIRS
from models.ranking.side import SCENE
from models.time_features import local_ms

_HOUR_MS = 3_600_000
Progress = Callable[[int, int], None]
"""(samples done, of all) after each step."""


@dataclass(frozen=True)
class TrainingRows:
    """What the steps of a call read: both sides' rows side by side. rows int64[N, S], factors float32[N, S],
    numbers float32[N, M], labels float32[N, T], watch_s float32[N]; group int64[N]: one number for the rows
    of a user in a stretch, -1 for nobody's.
    """

    rows: Int64Array
    factors: Float32Array
    numbers: Float32Array
    labels: Float32Array
    watch_s: Float32Array
    group: Int64Array


class RankTraining:
    """Moves the parts of one ranker. calls: trainings made; passes: passes made (key of the shuffles)."""

    def __init__(self, parts: RankerParts, adam: DenseAdam) -> None:
        self._parts = parts
        self._adam = adam
        self.calls = 0
        self.passes = 0

    def train(self, samples: RankSamples, progress: Progress | None) -> dict[str, float]:
        """Mean loss per head over the last pass; {} for no samples. FloatingPointError, with the rows already
        spoiled, for a loss that is not finite: go on from the last bundle.
        """
        if not len(samples):
            return {}
        config = self._parts.config
        request_raw, item_raw = self._numbers(samples)
        stretches = self.stretches(samples)
        rows = self._rows(samples, request_raw, item_raw, stretches)
        first = self.calls == 0
        if first:
            self._start_biases(rows)
        rate = 1.0 if first else config.warm_rate
        passes = config.epochs_first if first else 1
        mean = np.zeros(config.heads)
        begun = self._parts.space.rows_state() if config.fresh_rows else None
        for place in range(passes):
            if begun is not None and place:
                self._parts.space.begin_again(begun)
            mean = self._pass(rows, stretches, (place, passes), rate, progress)
            self.passes += 1
        self.calls += 1
        names = [*config.names, *(["watch"] if config.watch else [])]
        return dict(zip(names, mean.tolist(), strict=True))

    def stretches(self, samples: RankSamples) -> list[Int64Array]:
        """Positions of the samples of every stretch, in order of time: all as one where stretch_h is 0."""
        config = self._parts.config
        if not config.stretch_h:
            return [np.arange(len(samples))]
        number = local_ms(samples.emitted_ms, config.day_timezone) // int(config.stretch_h * _HOUR_MS)
        order = np.argsort(number, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(number[order])) + 1)

    def _numbers(self, samples: RankSamples) -> tuple[Float32Array, Float32Array]:
        """Raw numbers of both sides, counts as of the beginning of each sample's stretch; counts move on."""
        parts = self._parts
        request = np.empty((len(samples), parts.request.encoding.numbers), np.float32)
        item = np.empty((len(samples), parts.item.encoding.numbers), np.float32)
        scene = parts.request.slot(SCENE)
        for places in self.stretches(samples):
            part = samples.take(places)
            request[places] = parts.request_raw(part.request, part.pair, part.request_numbers)
            item[places] = parts.item_raw(part.item, part.item_numbers)
            entries = {"user": part.request[:, 0], PAIRS: part.pair, SCENE: part.request[:, scene]}
            parts.counts.add(entries | {"item": part.item[:, 0]}, part.labels)
        parts.request.encoding.fit(request)
        parts.item.encoding.fit(item)
        return request, item

    def _rows(
        self, samples: RankSamples, request: Float32Array, item: Float32Array, stretches: list[Int64Array]
    ) -> TrainingRows:
        space = self._parts.space
        u = self._parts.request.rows(space, samples.request, request)
        i = self._parts.item.rows(space, samples.item, item)
        group = samples.request[:, 0].astype(np.int64)
        for place, stretch in enumerate(stretches):
            user = group[stretch]
            group[stretch] = np.where(user < 0, -1, user * len(stretches) + place)
        return TrainingRows(
            np.concatenate([u.rows, i.rows], axis=1),
            np.concatenate([u.factors, i.factors], axis=1),
            np.concatenate([u.numbers, i.numbers], axis=1),
            samples.labels,
            samples.watch_s,
            group,
        )

    def _start_biases(self, rows: TrainingRows) -> None:
        """Every head starts at the log-odds of its labels: a rare task would spend its first pass on that."""
        config = self._parts.config
        begun = []
        for place, task in enumerate(config.tasks):
            labels = rows.labels[:, place]
            if task.after:
                labels = labels[rows.labels[:, config.names.index(task.after)] > 0]
            begun.append(_log_odds(labels.sum(), len(labels) - labels.sum()))
        if config.watch:
            positive = rows.labels[:, config.names.index(config.watch.click)]
            begun.append(_log_odds((positive * rows.watch_s).sum(), (1 - positive).sum()))
        with torch.no_grad():
            for bias in self._parts.network.output_biases():
                bias.copy_(torch.tensor(begun, dtype=torch.float32))

    def _pass(
        self,
        rows: TrainingRows,
        stretches: list[Int64Array],
        place: tuple[int, int],
        rate: float,
        progress: Progress | None,
    ) -> Float64Array:
        """Pass number place[0] of place[1], with `rate` times the step sizes; mean loss [H]."""
        config, n = self._parts.config, len(rows.labels)
        random = np.random.default_rng([config.seed, self.passes])
        parts = stretches if config.order == "stretches" else [np.arange(n)]
        order = np.concatenate(
            [
                part[groups_shuffled(random, rows.group[part])]
                if config.pairwise
                else random.permutation(part)
                for part in parts
            ]
        )
        unknown = random.random((n, 2)) < config.id_dropout
        total = np.zeros(config.heads)
        network = self._parts.network
        network.train()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed * 1_000_003 + self.passes)
            for start in range(0, n, config.batch_size):
                batch = order[start : start + config.batch_size]
                done = (place[0] * n + start) / (place[1] * n)
                self._set_rates(rate * (1.0 - (1.0 - config.final_rate) * done))
                total += len(batch) * self._step(rows, batch, unknown[batch])
                if progress is not None:
                    progress(place[0] * n + start + len(batch), place[1] * n)
        network.eval()
        return total / n

    def _set_rates(self, rate: float) -> None:
        """Step sizes of the following steps: the configured ones times `rate`."""
        config, space = self._parts.config, self._parts.space
        self._adam.set_lr(config.lr_dense * rate)
        if isinstance(space.rows, EmbeddingTable):
            space.rows.set_lr(config.lr_rows * rate)
        if space.first is not None:
            space.first.lr = config.lr_linear * rate

    def _step(self, rows: TrainingRows, batch: Int64Array, unknown: np.ndarray) -> Float64Array:
        """One step over positions `batch`; unknown bool[b, 2]: train as an unknown user, item. Losses [H],
        the means over the members of the network.
        """
        parts, config = self._parts, self._parts.config
        at, factors = rows.rows[batch], rows.factors[batch]
        item_slot = int(parts.request.starts[-1])
        at[unknown[:, 0], 0] = parts.space.cold("user")
        at[unknown[:, 1], item_slot] = parts.space.cold("item")
        inputs = self._inputs(at, factors, rows.numbers[batch])
        self._adam.zero_grad()
        labels, watch_s = torch.from_numpy(rows.labels[batch]), torch.from_numpy(rows.watch_s[batch])
        members = parts.network.members(inputs)
        losses = torch.stack([step_losses(config, logits, labels, watch_s) for logits in members])
        loss = (losses * loss_weights(config)).sum() + parts.network.penalty()
        if config.pairwise:
            group = torch.from_numpy(rows.group[batch])
            pairs = torch.stack([pair_losses(config, logits, labels, group) for logits in members])
            loss = loss + config.pairwise * (pairs * loss_weights(config)[: len(config.tasks)]).sum()
        found: Float64Array = losses.detach().mean(0).numpy().astype(np.float64)
        if not np.isfinite(found).all():
            raise FloatingPointError(
                f"ranker {config.kind}: loss {found.tolist()} after {self.passes} passes is not finite; "
                "lower lr_dense or lr_rows and train again from the last bundle"
            )
        torch.autograd.backward(loss)
        self._adam.step()
        if parts.space.first is not None:
            parts.space.first.step()
        return found

    def _inputs(self, at: Int64Array, factors: Float32Array, numbers: Float32Array) -> RankInputs:
        """Network inputs whose backward() moves the rows that they are made of."""
        parts, (n, slots) = self._parts, at.shape
        index, weights = torch.from_numpy(at), torch.from_numpy(factors)
        rows, linear = torch.zeros(n, len(parts.field_starts), 0), torch.zeros(n, parts.config.heads)
        if isinstance(parts.space.rows, EmbeddingTable):
            offsets = (slots * np.arange(n)[:, None] + parts.field_starts).reshape(-1)
            flat = torch.from_numpy(np.append(offsets, n * slots))
            pooled = parts.space.rows.trained(index.reshape(-1), flat, weights.reshape(-1))
            rows = pooled.view(n, len(parts.field_starts), -1)
        if parts.space.first is not None:
            linear = parts.space.first.trained(index, weights)
        return RankInputs(rows, linear, torch.from_numpy(numbers))


def _log_odds(positive: float, negative: float) -> float:
    """log((positive + 0.5) / (negative + 0.5)): finite for a task with one class only."""
    return float(np.log((positive + 0.5) / (negative + 0.5)))
