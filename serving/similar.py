"""Items near an item: those that answers may hold, under the filters and caps of a scene."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from models.arrays import Int64Array
from serving.caps import Caps
from serving.channels.contract import Ranking, ranking_of
from serving.config import ServingConfig
from serving.eligible import eligible
from serving.errors import NotFound
from serving.schema import RecalledItem, SimilarAnswer
from serving.snapshot import NeighbourChannel, Snapshot
from stream.keys import decode_id

_CONFIG = ServingConfig()


def similar(
    snapshot: Snapshot,
    keys: Sequence[str],
    k: int,
    model: str = "",
    config: ServingConfig = _CONFIG,
    scene: str = "",
) -> SimilarAnswer:
    """The k items nearest to the first of `keys` that exists, by the vectors of a recall model or by the
    neighbours of an item-to-item channel; `model` names either ("" = the first).

    Fewer only where nothing is left that may join. The item itself may be one that answers leave out, but not
    a deleted one. Raises NotFound.
    """
    if not snapshot.names or (model and model not in snapshot.names):
        raise NotFound(f"model: expected one of {', '.join(snapshot.names)}, got {model!r}")
    name = model or snapshot.names[0]
    channel = snapshot.channels.get(name) or snapshot.neighbours[name]
    there = pa.array([key for key in keys if key not in snapshot.fresh.gone], pa.string())
    positions = channel.items.lookup(there)
    known = positions[positions >= 0][:1]
    if not len(known):
        raise NotFound(f"item: expected an item of {snapshot.bundle}/{snapshot.delta}, got {keys[0]!r}")
    caps = Caps(config.caps_in(scene), snapshot.attributes)
    allowed, rounds, found = eligible(snapshot, config.rules(scene)), 0, dict[str, float]()
    while len(found) < k:
        more = (k - len(found)) << bool(caps.most) << rounds
        had = channel.items.lookup(pa.array(list(found), pa.string()))
        ranking = dict(_near(allowed.snapshot, name, known, more, np.append(known, had)))
        found |= {key: ranking[key] for key in caps.admit(ranking, k - len(found))}
        if len(ranking) < more:
            break
        allowed, rounds = allowed.without(caps.closed()), rounds + 1
    near_items = [RecalledItem(decode_id(key), score, name) for key, score in found.items()]
    return SimilarAnswer(near_items, snapshot.bundle, snapshot.delta, snapshot.watermark_ms)


def _near(snapshot: Snapshot, name: str, item: Int64Array, k: int, excluded: Int64Array) -> Ranking:
    """The k items of a channel nearest to the one at position `item` int64[1], none of `excluded`."""
    channel = snapshot.channels.get(name) or snapshot.neighbours[name]
    if isinstance(channel, NeighbourChannel):
        scores, near = channel.items.similar(int(item[0]), k, excluded)
        return ranking_of((scores[None], near[None]), channel.items)
    return ranking_of(channel.items.search(channel.items.vectors_of(item), k, [excluded]), channel.items)
