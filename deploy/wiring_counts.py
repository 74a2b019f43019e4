"""Counts of items in the store: of what is popular now, and, for blends, the pre-rank and exploration, of
what was taken and shown.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from deploy.addresses import resolved
from deploy.config import Config
from models.item_signals import HALF_LIVES_H, PARTS
from models.reject_events import REJECT
from serving.fusion_config import CANDIDATES
from stream.event import KINDS
from stream.popular_counts import PopularNowConfig
from stream.popular_store import PopularCounts, PopularReader

_KEEP, _TOP, _POLL_S = 5_000, 2_000, 0.5


def counted(config: Config) -> dict[str, PopularNowConfig]:
    """What is counted for blends, the pre-rank network and exploration, by models.item_signals.PARTS; empty
    when all are off.
    """
    if not (config.update.counts_items or config.serving.exploration.below_events):
        return {}
    taken = {kind for model in config.models.values() for kind in model.positives}
    kinds = {"taken": taken, "shown": {*KINDS} - taken - {REJECT}}
    return {
        part: PopularNowConfig.model_validate(
            {
                "kinds": sorted(kinds[part]),
                "half_lives_h": HALF_LIVES_H,
                "by": (),
                "segments": 0,
                "keep": _KEEP,
                "top": _TOP,
                "poll_interval_s": _POLL_S,
            }
        )
        for part in PARTS
    }


@contextlib.contextmanager
def item_counts(config: Config) -> Iterator[list[PopularCounts]]:
    """The writing ends of all that is counted. Raises Unreachable."""
    url, prefix = resolved(config).redis.url, config.profiles.prefix
    wanted = [(config.popular_now, prefix)] if config.popular_now.enabled else []
    wanted += [(one, _prefix(prefix, part)) for part, one in counted(config).items()]
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(contextlib.closing(PopularCounts(url, *one))) for one in wanted]


def popular_reader(config: Config) -> PopularReader | None:
    """The reading end of what is popular now, None when it is off."""
    if not config.popular_now.enabled:
        return None
    return PopularReader(resolved(config).redis.url, config.popular_now, config.profiles.prefix)


def count_readers(config: Config) -> dict[str, PopularReader]:
    """The reading ends of counted(), empty where the server reads none."""
    serving = config.serving
    by_stages = serving.prerank.model == CANDIDATES or serving.exploration.below_events
    if not (by_stages or config.update.blends_counts):
        return {}
    url = resolved(config).redis.url
    return {
        part: PopularReader(url, one, _prefix(config.profiles.prefix, part))
        for part, one in counted(config).items()
    }


def _prefix(prefix: str, part: str) -> str:
    return f"{prefix}:{part}"
