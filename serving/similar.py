"""Items near an item."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from serving.channels.contract import ranking_of
from serving.errors import NotFound
from serving.schema import RecalledItem, SimilarAnswer
from serving.snapshot import NeighbourChannel, Snapshot
from stream.keys import decode_id


def similar(snapshot: Snapshot, keys: Sequence[str], k: int, model: str = "") -> SimilarAnswer:
    """The k items nearest to the first of `keys` that exists, by the vectors of a recall model or by the
    neighbours of an item-to-item channel; `model` names either ("" = the first).

    Raises NotFound.
    """
    if not snapshot.names or (model and model not in snapshot.names):
        raise NotFound(f"model: expected one of {', '.join(snapshot.names)}, got {model!r}")
    name = model or snapshot.names[0]
    channel = snapshot.channels.get(name) or snapshot.neighbours[name]
    positions = channel.items.lookup(pa.array(keys, pa.string()))
    known = positions[positions >= 0][:1]
    if not len(known):
        raise NotFound(f"item: expected an item of {snapshot.bundle}/{snapshot.delta}, got {keys[0]!r}")
    if isinstance(channel, NeighbourChannel):
        scores, near = channel.items.similar(int(known[0]), k)
        found = ranking_of((scores[None], near[None]), channel.items)
    else:
        items = channel.items
        found = ranking_of(items.search(items.vectors_of(known), k, [known]), items)
    near_items = [RecalledItem(decode_id(key), score, name) for key, score in found]
    return SimilarAnswer(near_items, snapshot.bundle, snapshot.delta, snapshot.watermark_ms)
