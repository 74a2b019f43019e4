"""From a request, a profile and one snapshot to an answer. Pure: no clock, no I/O, no state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from models.arrays import Float32Array, Int64Array
from models.moments import Moments, one_moment
from models.retrieve import retrieve
from serving.errors import NotFound
from serving.merge import snake_merge
from serving.profile import HistoryEntry, Profile
from serving.schema import Explanation, RecallAnswer, RecalledItem, RecallRequest, SimilarAnswer
from serving.snapshot import Channel, NeighbourChannel, Snapshot, TowerConfig
from serving.validation import key_text
from stream.keys import decode_id

POPULARITY = "popularity"
Ranking = list[tuple[str, float]]


def recall(
    snapshot: Snapshot,
    request: RecallRequest,
    profile: Profile,
    ts_ms: int,
    request_id: str,
    degraded: Sequence[str] = (),
) -> RecallAnswer:
    """Answer one request from one snapshot.

    The models and item-to-item channels take turns. A user without history gets the towers' items (from the
    user's row and the context) in turn with what is popular. ts_ms: moment of the request.
    Raises BadRequest for an ID that is none.
    """
    user = key_text(request.user_id, "$.user_id")
    excluded = {key_text(item, f"$.exclude[{at}]") for at, item in enumerate(request.exclude)}
    if request.exclude_seen:
        excluded.update(profile.consumed)
    excluded_keys = pa.array(list(excluded), pa.string()) if excluded else None
    names: list[str] = []
    rankings: list[Ranking] = []
    history = 0
    for name in snapshot.names:
        channel = snapshot.channels.get(name) or snapshot.neighbours[name]
        moment = moment_of(channel.config, user, ts_ms, profile.history, request.context, profile.attributes)
        history = max(history, len(moment.history_id))
        names.append(name)
        rankings.append(_from_channel(channel, moment, request.k, excluded_keys))
    cold = history == 0
    if cold:
        names, rankings = [POPULARITY, *names], [_popular(snapshot, request.k, excluded), *rankings]
    items = [
        RecalledItem(decode_id(rankings[at][place][0]), rankings[at][place][1], names[at])
        for at, place in snake_merge(rankings, request.k)
    ]
    if not cold and len(items) < request.k:
        items += _fill(items, _popular(snapshot, request.k + len(items), excluded), request.k)
    explain = None
    if request.explain:
        counts: dict[str, int] = {}
        for item in items:
            counts[item.channel] = counts.get(item.channel, 0) + 1
        explain = Explanation(ts_ms, cold, history, len(excluded), counts)
    return RecallAnswer(
        items,
        snapshot.bundle,
        snapshot.delta,
        snapshot.watermark_ms,
        snapshot.catalogue,
        profile.position,
        request_id,
        list(degraded),
        explain,
    )


def moment_of(
    config: TowerConfig,
    user: str,
    ts_ms: int,
    history: Sequence[HistoryEntry],
    context: Mapping[str, str],
    attributes: Mapping[str, str],
) -> Moments:
    """The input of a model or channel: of the live history, the newest entries of each of its histories.

    What happened after the moment is not yet history.
    """
    return one_moment(
        user,
        ts_ms,
        _newest(history, config.positives, config.read_length, ts_ms),
        context,
        attributes,
        {name: _newest(history, of.kinds, of.length, ts_ms) for name, of in config.histories.items()},
    )


def _newest(
    history: Sequence[HistoryEntry], kinds: Sequence[str], length: int, ts_ms: int
) -> list[tuple[str, int]]:
    """(item key, ts_ms) of the newest entries of some kinds, oldest first.

    An item counts once per request, at its first such kind, as in training.
    """
    entries: dict[tuple[object, str], int] = {}
    for place, entry in enumerate(history):
        if entry.kind in kinds and entry.item_id and entry.ts_ms <= ts_ms:
            entries.setdefault((entry.request_id or place, entry.item_id), entry.ts_ms)
    return [(item, at) for (_, item), at in entries.items()][-length:]


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
        found = _ranked((scores[None], near[None]), channel)
    else:
        items = channel.items
        found = _ranked(items.search(items.vectors_of(known), k, [known]), channel)
    answer = [RecalledItem(decode_id(key), score, name) for key, score in found]
    return SimilarAnswer(answer, snapshot.bundle, snapshot.delta, snapshot.watermark_ms)


def _from_channel(
    channel: Channel | NeighbourChannel, moment: Moments, k: int, excluded_keys: pa.Array | None
) -> Ranking:
    excluded = None if excluded_keys is None else [channel.items.lookup(excluded_keys)]
    if isinstance(channel, NeighbourChannel):
        return _ranked(channel.items.search(moment, k, excluded), channel)
    return _ranked(retrieve(channel.tower.queries(moment), channel.items, k, excluded), channel)


def _ranked(found: tuple[Float32Array, Int64Array], channel: Channel | NeighbourChannel) -> Ranking:
    scores, positions = found[0][0], found[1][0]
    if len(positions) and positions[-1] < 0:
        scores, positions = scores[positions >= 0], positions[positions >= 0]
    return list(zip(channel.items.keys_of(positions), scores.tolist(), strict=True))


def _popular(snapshot: Snapshot, k: int, excluded: set[str]) -> Ranking:
    found: Ranking = []
    for key, score in zip(snapshot.popular_keys, snapshot.popular_scores, strict=True):
        if key not in excluded:
            found.append((key, score))
            if len(found) == k:
                break
    return found


def _fill(items: list[RecalledItem], popular: Ranking, k: int) -> list[RecalledItem]:
    """Popular items for the places that the towers left empty."""
    taken = {(type(item.id), item.id) for item in items}
    rest = [RecalledItem(decode_id(key), score, POPULARITY) for key, score in popular]
    return [item for item in rest if (type(item.id), item.id) not in taken][: k - len(items)]
