"""Progressive validation of published versions: every interval's targets are scored before any version
learned from them.

frozen: the first bundle for ever. daily: the newest bundle that was published by then. hourly: the same
bundle with the
deltas published by then. All three see the same live histories at the same moments and differ in parameters
only
(as river's progressive validation: test, then train).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deploy.backtest.ranking import ranked
from deploy.backtest.served import overlaid
from models.arrays import Float32Array
from models.artifact import unpack_keys
from models.bundle import items_file
from models.delta import Delta
from models.learner import CatalogueColumns, Learner, Moments, PublishedModel
from models.registry import MissingDelta, Registry
from models.retrieve import dense_scores
from stream.archive import ArchiveReader, Seal

STRATEGIES = ("frozen", "daily", "hourly")
PAIRS = (("frozen", "daily"), ("daily", "hourly"))


@dataclass(frozen=True)
class Scored:
    """Targets of one interval: user key and, per strategy, whether the target was among the top k.

    start_ms: event time at which every version that was asked had been published; hits: bool[N] per strategy.
    """

    start_ms: int
    users: pa.Array
    hits: dict[str, np.ndarray]


@dataclass(frozen=True)
class _Published:
    """A model and the items it is searched over, keys string[N] and vectors float32[N, W]."""

    model: PublishedModel
    keys: pa.Array
    vectors: Float32Array

    def top_k(self, moments: Moments, targets: pa.Array, k: int) -> np.ndarray:
        """bool[N]: whether fewer than k items score above the target (ties count as their expected rank)."""
        row = pc.fill_null(pc.index_in(targets, self.keys), -1).to_numpy()
        scores = dense_scores(self.model.queries(moments), self.keys, self.vectors)
        rank, nothing = np.empty(len(row)), np.zeros(len(row) + 1, np.int64)
        best = np.empty((len(row), 1), np.int32)
        ranked(scores, row.astype(np.int32), nothing, np.empty(0, np.int32), rank, best)
        hits: np.ndarray = rank < k
        return hits

    def with_delta(self, delta: Delta, name: str) -> _Published:
        """The next one, with a delta's rows and item vectors laid over."""
        tables = delta.tables.get(name, {})
        model = self.model.with_rows(
            {table: (rows.keys, rows.rows) for table, rows in tables.items()},
            {table: rows.tombstones for table, rows in tables.items()},
        )
        items = (self.keys, self.vectors)
        return _Published(model, *(overlaid(*items, tables["item"]) if "item" in tables else items))


@dataclass
class _Version:
    """A published bundle with the deltas up to `sequence` laid over."""

    bundle: str
    watermark_ms: int
    bare: _Published
    current: _Published = field(init=False)
    sequence: int = 0

    def __post_init__(self) -> None:
        self.current = self.bare


class ProgressiveValidation:
    """Walks the sealed intervals after the first bundle and asks each strategy for its recall."""

    def __init__(
        self,
        archive: ArchiveReader,
        registry: Registry,
        catalogue_at: Callable[[int], CatalogueColumns],
        model: str,
        k: int = 50,
    ) -> None:
        self._archive, self._registry, self._catalogue_at = archive, registry, catalogue_at
        self._model, self._k = model, k

    def run(
        self, first_bundle: str, progress: Callable[[int, int], None] = lambda done, of: None
    ) -> Iterator[Scored]:
        """Yield one `Scored` per interval with targets, ascending, starting at the watermark of
        `first_bundle`.
        """
        history = Learner.load(self._registry.open_bundle(first_bundle), self._model)
        frozen = self._open(first_bundle)
        versions = {
            bundle: frozen if bundle == first_bundle else self._open(bundle)
            for bundle in self._registry.bundles()
        }
        seals = [seal for seal in self._archive.seals() if seal.interval_end_ms > frozen.watermark_ms]
        start_ms = frozen.watermark_ms
        for done, seal in enumerate(seals):
            events = self._archive.read(start_ms, seal.interval_end_ms)
            samples = history.prepare(events, self._catalogue_at(start_ms))
            if len(samples):
                moments, targets = history.moments(samples), history.target_keys(samples)
                daily = self._at(versions, start_ms, seals)
                asked = {"frozen": frozen.bare, "daily": daily.bare, "hourly": daily.current}
                hits = {name: version.top_k(moments, targets, self._k) for name, version in asked.items()}
                yield Scored(start_ms, moments.user_id, hits)
            start_ms = seal.interval_end_ms
            progress(done + 1, len(seals))

    def _at(self, versions: dict[str, _Version], now_ms: int, seals: list[Seal]) -> _Version:
        """The version of the highest watermark that was published by `now_ms`, brought to it.

        Not always one of `now_ms` itself: a hand-over that catches up publishes one delta for several hours.
        """
        ends = [seal.interval_end_ms for seal in seals if seal.interval_end_ms <= now_ms]
        newest_first = sorted(versions.values(), key=lambda version: version.watermark_ms, reverse=True)
        for moment_ms in [*reversed(ends), newest_first[-1].watermark_ms]:
            for version in newest_first:
                if version.watermark_ms <= moment_ms and self._brought_to(version, moment_ms, ends):
                    return version
        raise MissingDelta(f"{self._registry.root}: expected a version published by {now_ms}, got none")

    def _brought_to(self, version: _Version, moment_ms: int, ends: list[int]) -> bool:
        """Lay the deltas up to a watermark over a version; False when none was published with that one."""
        sequence = sum(version.watermark_ms < end <= moment_ms for end in ends)
        try:
            chain = self._registry.chain(version.bundle, version.sequence, sequence)
        except MissingDelta:
            return False
        for ref in chain:
            version.current = version.current.with_delta(self._registry.open_delta(ref), self._model)
        version.sequence = sequence
        return True

    def _open(self, bundle_id: str) -> _Version:
        bundle = self._registry.open_bundle(bundle_id)
        items = bundle.tensors(items_file(self._model))
        keys, vectors = unpack_keys(items, "keys."), np.asarray(items["vectors"], np.float32)
        return _Version(
            bundle_id,
            bundle.manifest["watermark_ms"],
            _Published(PublishedModel.load(bundle, self._model), keys, vectors),
        )


@dataclass(frozen=True)
class Interval:
    """A share and its 95% bootstrap interval, resampled by user."""

    mean: float
    low: float
    high: float


def bootstrap(users: np.ndarray, values: np.ndarray, seed: int = 7, rounds: int = 1000) -> Interval:
    """Mean of `values` float[N] with its interval; rows of one user (int[N] codes) are drawn together."""
    count = np.bincount(users)
    total = np.bincount(users, weights=values)
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(count), (rounds, len(count)))
    means = total[draws].sum(1) / count[draws].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))


def summary(scored: list[Scored]) -> dict[str, Interval]:
    """Recall per strategy, and the paired differences `daily-frozen` and `hourly-daily`."""
    users = pa.concat_arrays([one.users for one in scored]).dictionary_encode().indices.to_numpy()
    hits = {name: np.concatenate([one.hits[name] for one in scored]).astype(float) for name in STRATEGIES}
    pairs = {f"{b}-{a}": hits[b] - hits[a] for a, b in PAIRS}
    return {name: bootstrap(users, values) for name, values in {**hits, **pairs}.items()}
