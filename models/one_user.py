"""The user towers of plain perceptrons for one moment at a time, in compiled code: what a request asks for.

torch takes some microseconds for every small operation, and a tower over one user is little else: this gives
the same numbers in a fifth of the time. E width of ID rows, S side inputs, D width of the similarity.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pyarrow as pa
from torch import nn

from models.architecture import RecallModel
from models.arrays import Float32Array, Int64Array
from models.features import FeatureColumns
from models.key_bytes import key_array
from models.model_config import ModelConfig
from models.moments import HistoryLists, Moments
from models.native import compiled
from models.own_items import own_features, own_of_moments
from models.pooling import ages_s, history_bags
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
def add_products(x: Float32Array, weight_IO: Float32Array, out: Float32Array) -> None:
    """Out float32[O] += x float32[I] @ weight float32[I, O]."""
    for at in range(len(x)):
        value = x[at]
        if value != 0.0:  # half of what ReLU gives is
            for to in range(len(out)):
                out[to] += value * weight_IO[at, to]


@compiled
def dense_layer(x: Float32Array, weight_IO: Float32Array, bias: Float32Array, relu: bool) -> Float32Array:
    """Gives x @ weight + bias, float32[O]; with relu what is above zero of it."""
    out = bias.copy()
    add_products(x, weight_IO, out)
    if relu:
        for at in range(len(out)):
            out[at] = max(out[at], np.float32(0.0))
    return out


class _Linear:
    """A linear layer as dense_layer() takes it."""

    def __init__(self, layer: nn.Linear, relu: bool = False) -> None:
        weight_OI: Float32Array = layer.weight.detach().numpy()
        self._weight_IO = np.ascontiguousarray(weight_OI.T)
        self._bias = (
            np.zeros(len(weight_OI), np.float32) if layer.bias is None else layer.bias.detach().numpy()
        )
        self._relu = relu

    def __call__(self, x: Float32Array) -> Float32Array:
        return dense_layer(x, self._weight_IO, self._bias, self._relu)


class OneUser:
    """A recall model's user side. Nothing in here ever changes."""

    def __init__(self, config: ModelConfig, model: RecallModel, tower: Tower) -> None:
        layers = [layer for layer in tower.layers if isinstance(layer, nn.Linear)]
        self._config = config
        self._layers = [_Linear(layer, relu=layer is not layers[-1]) for layer in layers]
        self._around = _Linear(tower.around)
        self._unit = model.towers.unit_length
        head = model.head
        self._popularity, self._own_popularity = (
            None if layer is None else _Linear(layer) for layer in (head.popularity, head.own_popularity)
        )
        if head.own is not None:
            self._own_similarity = np.float32(head.own_similarity.item())
            self._own = [layer for layer in head.own if isinstance(layer, nn.Linear)]

    @classmethod
    def of(cls, config: ModelConfig, model: RecallModel) -> OneUser | None:
        """None for a model whose tower is another."""
        towers = model.towers
        if not isinstance(towers, TwoTower | YoutubeDNN) or towers.user_tower.crossed is not None:
            return None
        return cls(config, model, towers.user_tower)

    def query(
        self, features: FeatureColumns, moments: Moments, rows_of: RowsOf, codes_of: CodesOf
    ) -> Queries:
        """As encode_queries(), of one moment."""
        config = self._config
        vectors, size = [], 0
        if config.use_history:
            pooled, size = self._pooled(moments, moments.history, config.history_length, rows_of)
        else:
            pooled = np.zeros(config.id_dim, np.float32)
        for name, kinds in config.histories.items():
            vectors.append(self._pooled(moments, moments.history_named(name), kinds.length, rows_of)[0])
        user = rows_of("user", key_array(moments.user_id))[0] if config.user_row else np.zeros_like(pooled)
        ids = np.concatenate([user, pooled, *vectors])
        side = self._side(features, moments, size, rows_of)
        x = np.concatenate([ids, side])
        for layer in self._layers:
            x = layer(x)
        u_D = x + self._around(ids)
        if self._unit:
            u_D /= max(math.sqrt(np.dot(u_D, u_D)), SHORTEST)
        else:
            u_D[-1] = 1.0
        return self._asked(u_D, side, moments, codes_of)

    def _asked(self, u_D: Float32Array, side: Float32Array, moments: Moments, codes_of: CodesOf) -> Queries:
        """What the head adds to the user's vector."""
        config = self._config
        if not (config.popularity or config.own_items):
            return Queries.plain(u_D[None, None])
        codes = codes_of(moments) if config.popularity else {}
        nothing = np.zeros(len(config.popularity), np.float32)
        weights = nothing if self._popularity is None else self._popularity(side)

        def beside(similarity: Float32Array, weights: Float32Array) -> Float32Array:
            joined = np.concatenate([similarity, self._spread(np.float32(config.tau) * weights, codes)])
            return joined[None, None]

        vectors = beside(u_D, weights)
        if not config.own_items:
            return Queries.plain(vectors)
        if self._own_popularity is not None:
            weights = weights + self._own_popularity(side)
        own, keys = own_of_moments(moments, config.own_items)
        hidden, last = self._own
        x = np.maximum(own_features(own) @ hidden.weight.numpy().T + hidden.bias.numpy(), 0.0)
        scores = np.float32(config.tau) * (x @ last.weight.numpy()[0] + last.bias.numpy())
        return Queries(vectors, beside(self._own_similarity * u_D, weights), own.offsets, keys, scores)

    def _pooled(
        self, moments: Moments, history: HistoryLists, length: int, rows_of: RowsOf
    ) -> tuple[Float32Array, int]:
        """The weighted mean of the newest items' rows, float32[E], and how many there are."""
        config = self._config
        end = int(history.offsets[1])
        begin = max(int(history.offsets[0]), end - length)
        n, pooled = end - begin, np.zeros(config.id_dim, np.float32)
        if not n:
            return pooled, 0
        keys = key_array(history.id).slice(begin, n)
        rows = rows_of("item" if config.shared_items else "history_item", keys)
        if config.history_half_life_days > 0:
            ages = ages_s(moments.ts_ms, history.ts_ms[None, begin:end])
            weights = history_bags(np.zeros((1, n), np.int32), ages, config.history_half_life_days)[2]
        else:
            weights = np.full(n, 1.0 / n, np.float32)
        add_products(weights, rows, pooled)
        return pooled, n

    def _side(self, features: FeatureColumns, moments: Moments, size: int, rows_of: RowsOf) -> Float32Array:
        """float32[S]: everything but the vectors of ID rows."""
        share = math.log1p(size) / math.log1p(self._config.history_length)
        side = [np.array([share], np.float32)]
        if features.categories or features.numbers:
            columns = columns_of_moments(moments)
            keys = features.keys(columns, moments.ts_ms)
            for feature, bag in zip(features.categories, keys, strict=True):
                side.append(rows_of(feature.table, bag.keys).mean(0))
            side.append(features.standardised(features.raw_numbers(columns, moments.ts_ms))[0])
        return np.concatenate(side)

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
