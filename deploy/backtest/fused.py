"""The channels `fused` and `prerank`: all others of the run in one ranking, by a blend that learns day by
day, and the first of that ranking ordered again by a network that reads what is known of the items.

Before the start a lead is replayed: the strategies begin there, answer, and at every midnight the blend is
fitted to the targets of the day that ended. So its weights are older than what is asked. At the start all
models begin anew, as they would without a lead: the other channels answer as in a run without these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from deploy.backtest.moment_signals import BlockSignals, MomentSignals
from deploy.backtest.rejects import RejectLog
from deploy.backtest.settings import FUSED, PRERANK
from deploy.backtest.targets import History, Targets
from models.arrays import BoolArray, Float32Array, Float64Array, Int32Array, Int64Array
from models.blend import Blend, blend_features, with_counts
from models.blend_candidates import Said, candidates
from models.blend_fit import BlendRows, fit_blend
from models.item_signals import NAMES
from models.prerank import Prerank, prerank_inputs
from models.prerank_fit import CANDIDATES, fit_prerank

_LEAD_SHARE, _LEAD_MS = 0.75, 7 * 86_400_000
_MANY, _FEW, _MANY_UNTIL = 2000, 500, 14_000


def lead_start_ms(targets: Targets, start_ms: int) -> int:
    """Where the lead begins: the last quarter of the targets before the start, at most a week; start_ms
    where there are too few for one.
    """
    first = int(np.searchsorted(targets.ts_ms, start_ms))
    quarter_ms = int(targets.ts_ms[int(_LEAD_SHARE * first)]) if first else start_ms
    return max(min(quarter_ms, start_ms), start_ms - _LEAD_MS)


@dataclass(frozen=True)
class Ranked:
    """kept: int64[n] rows of a block; rank: float64[n]; best: int32[n, k] item codes, -1 beyond."""

    kept: Int64Array
    rank: Float64Array
    best: Int32Array

    def put(
        self, at: int, codes: Int64Array, values: Float32Array, order: Int64Array, target: Int64Array
    ) -> None:
        """The ranking of row `at`: items by code with their values, `order` puts them best first."""
        first = order[: self.best.shape[1]]
        self.best[at, : len(first)] = codes[first]
        if len(target):
            own = values[target[0]]
            self.rank[at] = (values > own).sum() + ((values == own).sum() - 1) / 2


def _nothing(kept: Int64Array, k: int) -> Ranked:
    return Ranked(kept, np.full(len(kept), np.inf), np.full((len(kept), k), -1, np.int32))


class FusedChannel:
    """One blend per strategy, over the same channels; with `signals` it may read their counts, and there may
    be a pre-rank network of each as well; with `rejects` what that turns down is noted there.
    """

    def __init__(
        self,
        channels: Sequence[str],
        targets: Targets,
        k: int,
        seed: int,
        signals: MomentSignals | None = None,
        rejects: RejectLog | None = None,
        counts: bool = False,
        prerank: bool = True,
    ) -> None:
        """counts: whether the blends read the signals' counts; prerank: whether networks read the signals."""
        self._asked, self._targets, self._k, self._seed = tuple(channels), targets, k, seed
        self._counts, self._ranks = counts and signals is not None, prerank and signals is not None
        self._channels = (*self._asked, *NAMES) if self._counts else self._asked
        self._named = signals.named if signals else ()
        self._rejects = rejects
        self._blends: dict[str, Blend] = {}
        self._preranks: dict[str, Prerank | None] = {}
        self._rows: dict[str, BlendRows] = {}
        self._fits = 0
        self._learned = 0

    def rows_of_day(self, start_ms: int, end_ms: int) -> Int64Array:
        """Targets that the blend is fitted to after the day, by the day's own content only."""
        many = _MANY if self._learned < _MANY_UNTIL else _FEW
        rows = self._targets.sampled(start_ms, end_ms, many, self._seed)
        self._learned += len(rows)
        return rows

    def fit(self, strategies: Sequence[str]) -> None:
        """Move the blends of these strategies on to what was asked since; the others' rows are dropped."""
        for name in strategies:
            if name in self._rows:
                seed = self._seed + self._fits
                self._blends[name] = fit_blend(self._blend(name), self._rows[name], seed)
                if self._ranks:
                    before = self._preranks.get(name)
                    self._preranks[name] = fit_prerank(before, self._blends[name], self._rows[name], seed)
        self._rows.clear()
        self._fits += 1

    def weights(self) -> Mapping[str, Mapping[str, tuple[float, float]]]:
        """Strategy -> channel -> weights of its score and of its rank."""
        return {
            name: {
                channel: (float(blend.weights[at]), float(blend.weights[len(blend.channels) + at]))
                for at, channel in enumerate(blend.channels)
            }
            for name, blend in self._blends.items()
        }

    def answer(
        self, strategy: str, said: Sequence[Said], rows: Int64Array, history: History, unseen: BoolArray,
        learn: BoolArray, scope: str, known: BlockSignals | None = None,
        rejecting: BoolArray | None = None,
    ) -> dict[str, Ranked]:  # fmt: skip
        """By channel, as Replay has it of any: the rows of the block that count in the scope, their ranks
        (inf = no channel brought the target up) and lists of item codes.

        learn: rows that the next fit takes (scope all); known: of the block, where signals are read;
        rejecting: rows of which is noted what the network does not put among the first k (scope all).
        """
        kept = np.arange(len(rows)) if scope == "all" else np.flatnonzero(unseen)
        blend, prerank = self._blend(strategy), self._preranks.get(strategy)
        found = {name: _nothing(kept, self._k) for name in ((FUSED, PRERANK) if self._ranks else (FUSED,))}
        for at, row in enumerate(kept):
            barred = None
            if scope == "new":
                barred = history.items[history.offsets[row] : history.offsets[row + 1]].astype(np.int64)
            codes, scores_CN = candidates(said, int(row), barred)
            place = np.flatnonzero(codes == self._targets.item[rows[row]])
            signals = known.of(int(row), codes) if known else None
            if self._counts and signals is not None:
                scores_CN = with_counts(scores_CN, signals)
            if scope == "all" and learn[row]:
                rows_of = self._rows.setdefault(strategy, BlendRows(self._channels, self._named))
                rows_of.add(scores_CN, int(place[0]) if len(place) else -1, signals)
            features = blend_features(scores_CN)
            values: Float32Array = features @ blend.weights
            order = np.argsort(-values, kind="stable")
            found[FUSED].put(at, codes, values, order, place)
            if self._ranks and signals is not None:
                first = order[:CANDIDATES]
                ordered = np.arange(len(codes), 0, -1).astype(np.float32)[np.argsort(order)]
                if prerank and len(first):
                    inputs = prerank_inputs(values[first], features[first], signals[first])
                    network = prerank.values(inputs)
                    ordered[first[np.argsort(-network, kind="stable")]] = ordered[first]
                    if self._rejects and rejecting is not None and scope == "all" and rejecting[row]:
                        self._rejects.take(strategy, int(rows[row]), codes[first], network, self._k)
                again = np.argsort(-ordered, kind="stable")
                found[PRERANK].put(at, codes, ordered, again, place)
        return found

    def _blend(self, strategy: str) -> Blend:
        return self._blends.setdefault(strategy, Blend.fresh(self._asked).over(self._channels))
