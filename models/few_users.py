"""The user towers of plain perceptrons for a few moments at a time, in compiled code: what requests ask for.

torch takes some microseconds for every small operation, and a tower over a few users is little else: this
gives the same numbers in a fifth of the time. What it gives for a moment depends on no other one, to the bit:
a request is answered alike, alone or with those that wait beside it. N moments, E width of ID rows, S side
inputs, D width of the similarity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
from torch import nn

from models.architecture import RecallModel
from models.arrays import Float32Array, Int64Array
from models.features import FeatureColumns
from models.key_bytes import key_array
from models.layer_kernels import packed, perceptron
from models.model_config import ModelConfig
from models.moments import HistoryLists, Moments
from models.native import compiled
from models.own_items import own_features, own_of_moments
from models.pooling import ages_s, history_bags, newest_positions
from models.query import Queries
from models.request_columns import columns_of_moments
from models.towers import SHORTEST, Tower
from models.two_tower import TwoTower
from models.youtube_dnn import YoutubeDNN

RowsOf = Callable[[str, pa.StringArray], Float32Array]
"""(table, keys string[n]) -> rows float32[n, E]; the cold row for unknown keys."""
CodesOf = Callable[[Moments], dict[str, Int64Array]]
"""The moment's values of the features that popularity is counted by."""


@compiled
def weighted_sums(
    weights: Float32Array, rows_E: Float32Array, offsets: Int64Array, out_NI: Float32Array, first: int
) -> None:
    """out[n, first:first + E] += sum of weights[i] * rows[i] over bag n of weights float32[flat] and rows
    float32[flat, E].
    """
    sums_E = np.empty(rows_E.shape[1], np.float32)
    for n in range(len(offsets) - 1):
        sums_E[:] = 0
        for at in range(offsets[n], offsets[n + 1]):
            for to in range(len(sums_E)):
                sums_E[to] += weights[at] * rows_E[at, to]
        for to in range(len(sums_E)):
            out_NI[n, first + to] += sums_E[to]


@compiled
def to_unit_length(u_ND: Float32Array, shortest: float) -> None:
    """Divide every vector by its length, or by `shortest`."""
    for n in range(len(u_ND)):
        square = 0.0
        for at in range(u_ND.shape[1]):
            square += np.float64(u_ND[n, at]) * np.float64(u_ND[n, at])
        length = np.float32(max(math.sqrt(square), shortest))
        for at in range(u_ND.shape[1]):
            u_ND[n, at] /= length


class _Linear:
    """A linear layer of one row."""

    def __init__(self, layer: nn.Linear) -> None:
        self._weight_OI: Float32Array = layer.weight.detach().numpy()
        self._bias = 0.0 if layer.bias is None else layer.bias.detach().numpy()

    def __call__(self, x_1I: Float32Array) -> Float32Array:
        out_O: Float32Array = x_1I[0] @ self._weight_OI.T + self._bias
        return out_O


class FewUsers:
    """A recall model's user side. Nothing in here ever changes."""

    def __init__(self, config: ModelConfig, model: RecallModel, tower: Tower) -> None:
        layers = [layer for layer in tower.layers if isinstance(layer, nn.Linear)]
        self._config = config
        self._inputs = layers[0].in_features
        self._weights, self._layers = packed(
            [
                (layer.weight.detach().numpy(), None if layer.bias is None else layer.bias.detach().numpy())
                for layer in (*layers, tower.around)
            ]
        )
        self._unit = model.towers.unit_length
        head = model.head
        self._popularity, self._own_popularity = (
            None if layer is None else _Linear(layer) for layer in (head.popularity, head.own_popularity)
        )
        if head.own is not None:
            self._own_similarity = np.float32(head.own_similarity.item())
            self._own = [layer for layer in head.own if isinstance(layer, nn.Linear)]

    @classmethod
    def of(cls, config: ModelConfig, model: RecallModel) -> FewUsers | None:
        """None for a model whose tower is another."""
        towers = model.towers
        if not isinstance(towers, TwoTower | YoutubeDNN) or towers.user_tower.crossed is not None:
            return None
        return cls(config, model, towers.user_tower)

    def queries(
        self, features: FeatureColumns, moments: Moments, rows_of: RowsOf, codes_of: CodesOf
    ) -> Queries:
        """As encode_queries()."""
        config = self._config
        x_NI = np.zeros((len(moments), self._inputs), np.float32)
        if config.user_row:
            x_NI[:, : config.id_dim] = rows_of("user", key_array(moments.user_id))
        sizes, end = [0] * len(moments), 2 * config.id_dim
        if config.use_history:
            sizes = self._pooled(
                moments, moments.history, config.history_length, rows_of, x_NI, config.id_dim
            )
        for name, kinds in config.histories.items():
            self._pooled(moments, moments.history_named(name), kinds.length, rows_of, x_NI, end)
            end += config.id_dim
        side_NS = x_NI[:, end:]
        self._side(features, moments, sizes, rows_of, side_NS)
        u_ND = perceptron(x_NI, self._weights, self._layers)
        if self._unit:
            to_unit_length(u_ND, SHORTEST)
        else:
            u_ND[:, -1] = 1.0
        if not (config.popularity or config.own_items):
            return Queries.plain(u_ND[:, None])
        of_each = [
            self._asked(u_ND[n], side_NS[n : n + 1], moments.row(n), codes_of) for n in range(len(moments))
        ]
        return Queries.joined(of_each)

    def _asked(self, u_D: Float32Array, side_1S: Float32Array, moment: Moments, codes_of: CodesOf) -> Queries:
        """What the head adds to one user's vector."""
        config = self._config
        codes = codes_of(moment) if config.popularity else {}
        nothing = np.zeros(len(config.popularity), np.float32)
        weights = nothing if self._popularity is None else self._popularity(side_1S)

        def beside(similarity: Float32Array, weights: Float32Array) -> Float32Array:
            joined = np.concatenate([similarity, self._spread(np.float32(config.tau) * weights, codes)])
            return joined[None, None]

        vectors = beside(u_D, weights)
        if not config.own_items:
            return Queries.plain(vectors)
        if self._own_popularity is not None:
            weights = weights + self._own_popularity(side_1S)
        own, keys = own_of_moments(moment, config.own_items)
        hidden, last = self._own
        x = np.maximum(own_features(own) @ hidden.weight.numpy().T + hidden.bias.numpy(), 0.0)
        scores = np.float32(config.tau) * (x @ last.weight.numpy()[0] + last.bias.numpy())
        return Queries(vectors, beside(self._own_similarity * u_D, weights), own.offsets, keys, scores)

    def _pooled(
        self,
        moments: Moments,
        history: HistoryLists,
        length: int,
        rows_of: RowsOf,
        x_NI: Float32Array,
        first: int,
    ) -> list[int]:
        """Adds the weighted means of the newest items' rows to x[:, first:first + E]; how many of each."""
        config = self._config
        places = newest_positions(history.offsets, length)
        ages = np.zeros_like(places)
        if config.history_half_life_days > 0 and len(history.ts_ms):
            ages = ages_s(moments.ts_ms, history.ts_ms[places])
        flat, offsets, weights = history_bags(places, ages, config.history_half_life_days)
        keys = key_array(history.id)
        if len(flat) < len(keys):
            keys = keys.take(pa.array(flat))
        rows = rows_of("item" if config.shared_items else "history_item", keys)
        weighted_sums(weights, rows, offsets, x_NI, first)
        sizes: list[int] = np.diff(offsets).tolist()
        return sizes

    def _side(
        self,
        features: FeatureColumns,
        moments: Moments,
        sizes: Sequence[int],
        rows_of: RowsOf,
        side_NS: Float32Array,
    ) -> None:
        """Writes everything but the vectors of ID rows."""
        whole = math.log1p(self._config.history_length)
        side_NS[:, 0] = [math.log1p(size) / whole for size in sizes]
        if features.categories or features.numbers:
            for n in range(len(moments)):
                side_NS[n, 1:] = self._features(features, moments.row(n), rows_of)

    def _features(self, features: FeatureColumns, moment: Moments, rows_of: RowsOf) -> Float32Array:
        """The features of one moment."""
        columns = columns_of_moments(moment)
        bags = zip(features.categories, features.keys(columns, moment.ts_ms), strict=True)
        vectors = [rows_of(feature.table, bag.keys).mean(0) for feature, bag in bags]
        numbers = features.standardised(features.raw_numbers(columns, moment.ts_ms))[0]
        return np.concatenate([*vectors, numbers])

    def _spread(self, weights: Float32Array, codes: dict[str, Int64Array]) -> Float32Array:
        """As PopularityLayout.spread()."""
        counts = self._config.popularity
        spread, start = np.zeros(sum(count.width for count in counts), np.float32), 0
        for weight, count in zip(weights.tolist(), counts, strict=True):
            code = int(codes[count.by][0]) if count.by else 0
            if 0 <= code < count.width:
                spread[start + code] = weight
            start += count.width
        return spread
