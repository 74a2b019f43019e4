"""Why an answer is as it is, for requests that ask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from serving.answering import Chosen
from serving.asking import Asking
from serving.channels.contract import Ask
from serving.channels.moment import moment_of
from serving.fusion import Fused
from serving.schema import ExplainedItem, Explanation, FoundBy, RecalledItem
from serving.snapshot import Snapshot


def explained(
    asking: Asking, chosen: Chosen, fused: Sequence[Fused], items: Sequence[RecalledItem]
) -> Explanation:
    """How an answer of `items`, which were `fused`, came about."""
    counts: dict[str, int] = {}
    for item in items:
        counts[item.channel] = counts.get(item.channel, 0) + 1
    staged, caps = chosen.staged, chosen.caps
    counted = asking.counted([one.key for one in fused])
    told = [
        ExplainedItem(
            item.id,
            one.value,
            [FoundBy(by.channel, by.score, by.rank) for by in one.found],
            {stage: scores[one.key] for stage, scores in staged.scores.items() if one.key in scores},
            caps.crowded(one.key),
            {name: float(np.expm1(logs[at])) for name, logs in counted.items()},
        )
        for at, (item, one) in enumerate(zip(items, fused, strict=True))
    ]
    return Explanation(
        asking.ask.ts_ms,
        asking.cold,
        _history_length(asking.snapshot, asking.ask),
        len(asking.ask.excluded | chosen.held.keys),
        counts,
        "snake" if asking.fusion.method == "blend" and asking.blend is None else asking.fusion.method,
        {
            **{name: len(keys) for name, keys in {**asking.filters, **chosen.held.by_filter}.items()},
            **asking.items.filters,
        },
        {name: len(ranking) for name, ranking in chosen.rankings.items()},
        told,
        {name: away.total() for name, away in caps.turned_away.items()},
    )


def _history_length(snapshot: Snapshot, asked: Ask) -> int:
    """The longest history that a model or item-to-item channel reads of the user, 0 = nobody known."""
    longest = 0
    for name in snapshot.names:
        config = (snapshot.channels.get(name) or snapshot.neighbours[name]).config
        moment = moment_of(config, asked.user, asked.ts_ms, asked.profile.history, {}, {})
        longest = max(longest, len(moment.history_id))
    return longest
