"""A ranker's parts that training and serving share: both sides, rows, counts, network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from models.architecture import ModelFiles, dense_weights, restore_weights
from models.arrays import Float32Array, Int32Array, Int64Array, Tensors
from models.feature_config import FeatureConfig
from models.features import Columns, category_keys, cross_keys
from models.frozen_rows import FrozenRows
from models.ranking.counts import COUNTED, Counts
from models.ranking.inputs import RankInputs, RankLayout
from models.ranking.losses import log_probabilities, ordering_score, watched_seconds
from models.ranking.networks import build_network
from models.ranking.rank_config import RankConfig
from models.ranking.row_space import PAIRS, RowSpace
from models.ranking.side import SCENE, RankSide, SideRows, with_scene

if TYPE_CHECKING:  # serving has frozen rows and must not load the library that trains the others
    from models.embedding import EmbeddingTable

_PARTS = ("request_numbers", "item_numbers", "counts", "dense")


def layout_of(config: RankConfig, request: RankSide, item: RankSide) -> RankLayout:
    """Where the fields of both sides, the request's first, stand in a network's inputs."""
    fields = len(request.fields)
    author = -1
    if config.author:
        author = fields + item.keyed.index(item.features.named(config.author).table)
    first_bin = len(request.keyed)
    binned = range(first_bin, len(request.fields))
    in_scene = [place for name in (PAIRS, SCENE) for place in request.number_places(name)]
    return RankLayout(
        fields=fields + len(item.fields),
        dim=config.dim if config.has_rows else 0,
        numbers=request.encoding.width + item.encoding.width,
        heads=config.heads,
        user=0,
        item=fields,
        author=author,
        domain_fields=(request.keyed.index(SCENE), *(binned[place] for place in in_scene if binned)),
        domain_numbers=tuple(int(request.encoding.starts[place]) for place in in_scene),
    )


class RankerParts:
    """Everything that a ranker scores with. Reading it never mutates."""

    def __init__(
        self,
        config: RankConfig,
        features: Sequence[FeatureConfig],
        rows: EmbeddingTable | FrozenRows | None,
    ) -> None:
        """rows: rows to train or to read, config.dim wide; None for a ranker without."""
        self.config = config
        self.features = with_scene(features)
        sources = ("user", "context", "time")
        self.request = RankSide(config, self.features, sources, "user", ("user", PAIRS, SCENE))
        self.item = RankSide(config, self.features, ("item",), "item", ("item",))
        self.space = RowSpace(
            config, (*self.request.keyed, *self.item.keyed), self.request.bin_rows + self.item.bin_rows, rows
        )
        self.request.first_bin = self.space.first_bin
        self.item.first_bin = self.space.first_bin + self.request.bin_rows
        self.counts = Counts(len(config.tasks), config.smoothing)
        self.layout = layout_of(config, self.request, self.item)
        self.network = build_network(config, self.layout)
        self.network.eval()
        starts = np.concatenate([self.request.starts[:-1], self.request.starts[-1] + self.item.starts[:-1]])
        self.field_starts = starts
        """int64[F]: first slot of every field, the request's fields first."""

    def describe(self) -> dict[str, Any]:
        """JSON-able entry of a manifest's `rankers[name]`: {"kind", "config", "features"}."""
        return {
            "kind": self.config.kind,
            "config": self.config.model_dump(mode="json"),
            "features": [feature.model_dump(mode="json") for feature in self.features],
        }

    def request_raw(self, entries: Int32Array, pairs: Int32Array, declared: Float32Array) -> Float32Array:
        """Raw numbers of requests: entries int32[N, ...], pairs int32[N] (user, scene), declared numbers."""
        scene = self.request.slot(SCENE)
        of = {"user": entries[:, 0], PAIRS: pairs, SCENE: entries[:, scene]}
        return self.request.raw(declared, self.counts, of.__getitem__)

    def item_raw(self, entries: Int32Array, declared: Float32Array) -> Float32Array:
        """Raw numbers of items: entries int32[N, ...], declared numbers float32[N, ...]."""
        return self.item.raw(declared, self.counts, lambda _: entries[:, 0])

    def request_rows(self, user_id: pa.Array, columns: Columns, ts_ms: Int64Array) -> SideRows:
        """Of N requests by users string[N] at ts_ms int64[N]; columns: user, context."""
        entries = self.request.entries(user_id, columns, ts_ms, self.space.lookup)
        declared = self.request.features.raw_numbers(columns, ts_ms)
        scene = columns.get(("context", "scene"))
        pairs = self.space.lookup(PAIRS, pair_keys(user_id, scene), ts_ms).astype(np.int32)
        return self.request.rows(self.space, entries, self.request_raw(entries, pairs, declared))

    def item_rows(self, item_id: pa.Array, columns: Columns) -> SideRows:
        """Of N items string[N]; columns: item."""
        times = np.zeros(len(item_id), np.int64)
        entries = self.item.entries(item_id, columns, times, self.space.lookup)
        declared = self.item.features.raw_numbers(columns, times)
        return self.item.rows(self.space, entries, self.item_raw(entries, declared))

    def embedded(self, side: SideRows, starts: Int64Array) -> tuple[Tensor, Tensor, Tensor]:
        """(rows [N, F, D], first order sums [N, H], numbers [N, M]) of one side, without gradient."""
        n, fields = len(side.rows), len(starts) - 1
        values, linear = torch.zeros(n, fields, 0), torch.zeros(n, self.config.heads)
        index, factors = torch.from_numpy(side.rows), torch.from_numpy(side.factors)
        if self.space.rows is not None:
            weights, single = self.space.rows.weights, side.rows.shape[1] == fields
            values = weights[index]
            if not single:
                values = values * factors[:, :, None]
                values = torch.segment_reduce(
                    values.transpose(0, 1).contiguous(), "sum", lengths=torch.from_numpy(np.diff(starts))
                ).transpose(0, 1)
        if self.space.first is not None:
            linear = (self.space.first.weights[index] * factors[:, :, None]).sum(1)
        return values, linear, torch.from_numpy(side.numbers)

    def inputs(self, request: SideRows, item: SideRows) -> RankInputs:
        """Of N pairs; a request of one row stands for every item."""
        u_rows, u_linear, u_numbers = self.embedded(request, self.request.starts)
        i_rows, i_linear, i_numbers = self.embedded(item, self.item.starts)
        n = len(i_rows)
        return RankInputs(
            torch.cat([u_rows.expand(n, -1, -1), i_rows], dim=1),
            u_linear + i_linear,
            torch.cat([u_numbers.expand(n, -1), i_numbers], dim=1),
        )

    def scores(self, inputs: RankInputs) -> dict[str, Float32Array]:
        """Task -> probability float32[N]; "watch_s" with a watch head; "score", what to order by."""
        with torch.no_grad():
            logits = self.network(inputs)
            p_BT = log_probabilities(self.config, logits).exp()
            seconds = watched_seconds(self.config, logits) if self.config.watch else None
            score = ordering_score(self.config, p_BT, seconds)
        found = {name: p_BT[:, place].numpy() for place, name in enumerate(self.config.names)}
        if seconds is not None:
            found["watch_s"] = seconds.numpy()
        return found | {"score": score.numpy()}

    def part_names(self) -> list[str]:
        """Names of the parts of state()."""
        return [*self.space.part_names(), *_PARTS]

    def state(self) -> dict[str, Tensors]:
        """Part -> tensors."""
        return self.space.state() | {
            "request_numbers": self.request.state(),
            "item_numbers": self.item.state(),
            "counts": self.counts.state(),
            "dense": dense_weights(self.network),
        }

    def expire(self, before_ms: int) -> None:
        """Forget keys last seen before `before_ms`, with what was counted of them."""
        for name, entries in self.space.expire(before_ms).items():
            if name in COUNTED:
                self.counts.forget(name, entries)

    def restore(self, parts: Mapping[str, Tensors]) -> None:
        """Take what state() described."""
        self.space.restore(parts)
        self.request.restore(parts["request_numbers"])
        self.item.restore(parts["item_numbers"])
        self.counts.restore(parts["counts"])
        restore_weights(self.network, parts["dense"])


def pair_keys(user_id: pa.Array, scene: pa.Array | None) -> pa.StringArray:
    """string[N] keys of PAIRS; "" where user or scene is unknown."""
    return cross_keys([category_keys(user_id, len(user_id)), category_keys(scene, len(user_id))])


def described(manifest: Mapping[str, Any], name: str) -> tuple[RankConfig, tuple[FeatureConfig, ...]]:
    """Configuration and features of a ranker in a manifest; KeyError names the rankers there are."""
    rankers = manifest.get("rankers", {})
    if name not in rankers:
        raise KeyError(f"manifest: no ranker {name!r}; it has {', '.join(sorted(rankers)) or 'none'}")
    entry = rankers[name]
    features = tuple(FeatureConfig.model_validate(feature) for feature in entry["features"])
    # A bundle from before linear_share has no logistic regression beside its network, whatever the kind, and
    # one from before pairwise goes on training without pairs.
    return RankConfig.model_validate({"linear_share": 0.0, "pairwise": 0.0, **entry["config"]}), features


def load_parts(files: ModelFiles, name: str, parts: Sequence[str]) -> dict[str, Tensors]:
    """Parts of the ranker `name`: files rankers/<name>/<part>.safetensors."""
    return {part: files.tensors(f"rankers/{name}/{part}.safetensors") for part in parts}
