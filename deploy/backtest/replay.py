"""One pass over event time: in every interval all strategies are asked first, and learn from it afterwards.

The full retrains of a chain (shuffled or ordered) are made once, in memory, and every strategy that wants
them forks from the same version. Training goes through updater/state.py, as in production.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from deploy.backtest.channels import Channel, channel_of
from deploy.backtest.events import EventStream
from deploy.backtest.fused import FusedChannel, lead_start_ms
from deploy.backtest.moment_signals import MomentSignals
from deploy.backtest.observer import Block, Observer
from deploy.backtest.plan import Step
from deploy.backtest.plan import steps as cut_steps
from deploy.backtest.ranking import ranked
from deploy.backtest.rejects import RejectLog
from deploy.backtest.served import Items, Served
from deploy.backtest.settings import FUSED, PRERANK, Settings
from deploy.backtest.snapshot import Snapshot
from deploy.backtest.strategies import Strategy
from deploy.backtest.targets import History, Targets
from models.arrays import BoolArray, Float32Array, Float64Array, Int32Array, Int64Array
from models.blend_candidates import Said
from models.catalogue_columns import CatalogueColumns
from updater.sample_order import SampleOrder, Shuffled, in_time_order
from updater.state import Recipe, TrainingState

SCOPES = ("all", "new")
"""all: nothing filtered. new: items the user had before are filtered out, and only unseen targets count."""

Progress = Callable[[str, int, int], None]
"""Told (what is being done, event time replayed, event time to be replayed, ms)."""


@dataclass(frozen=True)
class Answer:
    """What one strategy's version answered to n targets through one channel in one scope.

    rows: int64[n] target numbers; rank: float64[n], inf = not recommendable; best: int32[n, k] item codes,
    best first, -1 beyond; candidates: how many items there were to choose from.
    """

    strategy: str
    channel: str
    scope: str
    step: Step
    watermark_ms: int
    rows: Int64Array
    rank: Float64Array
    best: Int32Array
    candidates: int


@dataclass(frozen=True)
class _Roles:
    """What the rows of a block are for, bool[n]: asked ones are shown, blends are fitted to learned ones,
    rejects of rejecting ones go back.
    """

    asked: BoolArray
    learned: BoolArray
    rejecting: BoolArray


_Found = tuple[str, str, int, Int64Array, Float64Array, Int32Array]
"""Channel, scope, candidates, and what Replay._answer gives."""


class _Chain:
    """Full retrains, each from the one before."""

    def __init__(self, recipe: Recipe, order: Callable[[int], SampleOrder]) -> None:
        self._state = TrainingState.fresh(recipe)
        self._order = order
        self._runs = 0

    def retrain(self, events: pa.Table, catalogue: CatalogueColumns, end_ms: int) -> Snapshot:
        order = self._order(self._runs)
        self._state.retrain([(events, catalogue)], end_ms, order, first=self._runs == 0)
        self._runs += 1
        return Snapshot(self._state, end_ms)


@dataclass
class Replay:
    """A backtest's run; seconds: wall time by strategy, of full retrains and of moments."""

    stream: EventStream
    catalogue: CatalogueColumns
    targets: Targets
    settings: Settings
    strategies: Sequence[Strategy]
    scopes: Sequence[str] = SCOPES
    k: int = 100

    def __post_init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        shown = [name for name in self.settings.channels if name not in (FUSED, PRERANK)]
        self._sources: dict[str, Channel] = {
            name: channel_of(name, self.settings.recipe, self.targets)
            for name in dict.fromkeys([*shown, *self.settings.blended])
        }
        self._shown = frozenset(shown)
        self._signals, recipe = None, self.settings.recipe
        prerank = PRERANK in self.settings.channels
        if prerank or (self.settings.blended and self.settings.counts):
            sides = recipe.affinity_counts.sides
            self._signals = MomentSignals(self.stream.events, self.targets, recipe.positives, sides)
        seed = self.settings.shuffle_seed
        back = self.settings.rejects
        self.rejects = None if back is None else RejectLog(self.targets, back)
        self.fused = FusedChannel(
            self.settings.blended, self.targets, self.k, seed, self._signals, self.rejects,
            self.settings.counts, prerank,
        )  # fmt: skip

    def run(
        self, steps: Sequence[Step], rows: Int64Array, progress: Progress = lambda what, done, of: None
    ) -> Iterator[Answer]:
        """Answers to the targets `rows` (int64, ascending) within the steps, by time."""
        lead = self._lead(steps[0].start_ms)
        days = [*_days(lead), *_days(steps)]
        start_ms = days[0][0].start_ms
        before = self.stream.between(None, start_ms)
        chains = self._chains()
        of_ms = steps[-1].end_ms - start_ms
        progress("first full retrain", 0, of_ms)
        versions = self._retrained(chains, None, start_ms)
        with _Timed(self.seconds, "moments"):
            observer = Observer(self.settings.recipe, self.targets, self.settings.interval_ms)
            observer.observe(before, self.catalogue)
        served = [
            Served(s, self.settings.recipe, self.targets, versions[self._lineage(s)]) for s in self.strategies
        ]
        for day in days:
            bounds = (day[0].start_ms, day[-1].end_ms)
            learned = self.fused.rows_of_day(*bounds) if self.settings.blended else rows[:0]
            rejecting = self.rejects.rows_of_day(*bounds) if self.rejects else rows[:0]
            with _Timed(self.seconds, "moments"):
                asked = np.union1d(np.union1d(self._within(rows, *bounds), learned), rejecting)
                observer.take(self.stream.between(*bounds), self.catalogue, asked)
            for step in day:
                progress("replay", step.start_ms - start_ms, of_ms)
                with _Timed(self.seconds, "moments"):
                    blocks = observer.blocks(self._within(asked, step.start_ms, step.end_ms))
                for block in blocks:
                    roles = _Roles(*(np.isin(block.rows, some) for some in (rows, learned, rejecting)))
                    yield from self._asked(served, block, step, roles)
                if step is not steps[-1]:
                    self._advance(served, step)
            begins = bool(lead) and day[-1] is lead[-1]  # the lead is over
            if (day[-1].full or begins) and day[-1] is not steps[-1]:
                progress("full retrain", bounds[1] - start_ms, of_ms)
                if begins:  # as if there had been no lead
                    chains = self._chains()
                renewed = [one for one in served if one.strategy.daily or begins]
                wanted = {self._lineage(one.strategy) for one in renewed}
                read = {name: chain for name, chain in chains.items() if name in wanted}
                versions = self._retrained(read, None if begins else bounds[0], bounds[1])
                if self.rejects and bounds[1] >= steps[0].start_ms:  # those of the lead are read again
                    self.rejects.forget(bounds[1])
                for one in renewed:
                    with _Timed(self.seconds, one.strategy.name):
                        one.hand_over(versions[self._lineage(one.strategy)])
                with _Timed(self.seconds, FUSED):
                    self.fused.fit([one.strategy.name for one in renewed])
        progress("replay", of_ms, of_ms)

    def _lead(self, start_ms: int) -> list[Step]:
        """The steps before the start in which the blend learns its first weights."""
        if not self.settings.blended:
            return []
        lead_ms = lead_start_ms(self.targets, start_ms)
        if lead_ms >= start_ms:
            return []
        return cut_steps(lead_ms, start_ms, self.settings.interval_ms, self.settings.day_timezone)

    def _lineage(self, strategy: Strategy) -> str:
        """Whose chain a strategy's versions come from: where rejects go back, every one has its own."""
        return strategy.name if self.rejects else ("shuffled" if strategy.shuffled else "ordered")

    def _chains(self) -> dict[str, _Chain]:
        seed = self.settings.shuffle_seed
        orders: dict[bool, Callable[[int], SampleOrder]] = {
            True: lambda run: Shuffled(seed, run),
            False: lambda run: in_time_order,
        }
        wanted = {self._lineage(strategy): orders[strategy.shuffled] for strategy in self.strategies}
        return {name: _Chain(self.settings.recipe, order) for name, order in sorted(wanted.items())}

    def _retrained(
        self, chains: Mapping[str, _Chain], start_ms: int | None, end_ms: int
    ) -> dict[str, Snapshot]:
        """New versions by lineage, of what happened since start_ms, and of what the lineage's own strategy
        turned down.
        """
        events, found = self.stream.between(start_ms, end_ms), {}
        with _Timed(self.seconds, "full retrains"):
            for name, chain in chains.items():
                told = self.rejects.joined(name, events, start_ms, end_ms) if self.rejects else events
                found[name] = chain.retrain(told, self.catalogue, end_ms)
        return found

    def _advance(self, served: Sequence[Served], step: Step) -> None:
        events = self.stream.between(step.start_ms, step.end_ms)
        for one in served:
            if not (step.full and one.strategy.daily):  # else the new version takes its place at once
                with _Timed(self.seconds, one.strategy.name):
                    one.advance(events, self.catalogue, step.end_ms)

    def _within(self, rows: Int64Array, start_ms: int, end_ms: int) -> Int64Array:
        ts_ms = self.targets.ts_ms[rows]
        return rows[(ts_ms >= start_ms) & (ts_ms < end_ms)]

    def _asked(self, served: Sequence[Served], block: Block, step: Step, roles: _Roles) -> Iterator[Answer]:
        history = self.targets.before(block.rows)
        holder = np.repeat(np.arange(len(block.rows)), np.diff(history.offsets))
        target = self.targets.item[block.rows]
        again = np.zeros(len(block.rows), bool)
        again[holder[history.items == target[holder]]] = True
        rejecting = roles.rejecting
        if self.rejects:
            rejecting = rejecting & self.rejects.as_of_request(block.rows, history, step.start_ms)
        for one in served:
            said: list[Said] = []
            found: list[_Found] = []
            for name, channel in self._sources.items():
                with _Timed(self.seconds, one.strategy.name):
                    items, scores = channel.scores(one, block, history)
                    if name in self._shown and roles.asked.any():
                        found += [
                            (name, scope, len(items.codes), *self._answer(
                                scope, items, scores, history, target, ~again
                            ))
                            for scope in self.scopes
                        ]  # fmt: skip
                    if name in self.settings.blended:
                        said.append(channel.said(items, scores))
            if said:
                with _Timed(self.seconds, FUSED):
                    known = None
                    if self._signals:
                        moments = next(iter(block.moments.values()))
                        known = self._signals.block(one.affinities, moments, block.rows)
                    for scope in dict.fromkeys(["all", *self.scopes]):
                        answers = self.fused.answer(
                            one.strategy.name, said, block.rows, history, ~again & roles.asked,
                            roles.learned, scope, known, rejecting,
                        )  # fmt: skip
                        items_in_all = max(len(one_said.codes) for one_said in said)
                        found += [
                            (name, scope, items_in_all, order.kept, order.rank, order.best)
                            for name, order in answers.items()
                            if name in self.settings.channels
                        ]
            for name, scope, candidates, kept, rank, best in found:
                counts = roles.asked[kept]
                if scope in self.scopes and counts.any():
                    yield Answer(
                        one.strategy.name, name, scope, step, one.watermark_ms,
                        block.rows[kept[counts]], rank[counts], best[counts], candidates,
                    )  # fmt: skip

    def _answer(
        self, scope: str, items: Items, scores: Float32Array, history: History, target: Int32Array,
        unseen: np.ndarray,
    ) -> tuple[Int64Array, Float64Array, Int32Array]:  # fmt: skip
        """Which of the block's targets count in the scope, their ranks and lists of item codes."""
        kept = np.arange(len(target)) if scope == "all" else np.flatnonzero(unseen)
        offsets, barred = np.zeros(len(kept) + 1, np.int64), np.empty(0, np.int32)
        if scope == "new":
            sizes = np.diff(history.offsets)
            held = np.repeat(unseen, sizes)
            barred = items.places_of(history.items[held])
            np.cumsum(sizes[kept], out=offsets[1:])
        rank = np.empty(len(kept), np.float64)
        best = np.empty((len(kept), self.k), np.int32)
        ranked(scores[kept], items.places_of(target[kept]), offsets, barred, rank, best)
        return kept, rank, np.where(best >= 0, items.codes[best], -1).astype(np.int32)


def _days(steps: Sequence[Step]) -> list[list[Step]]:
    """The steps, cut after every midnight."""
    days: list[list[Step]] = [[]]
    for step in steps:
        days[-1].append(step)
        if step.full:
            days.append([])
    return [day for day in days if day]


class _Timed:
    """Adds the wall time of a block of code to a counter."""

    def __init__(self, seconds: Counter[str], name: str) -> None:
        self._seconds, self._name = seconds, name

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._seconds[self._name] += time.perf_counter() - self._began  # type: ignore[assignment]
