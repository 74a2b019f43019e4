"""Who still reads the archive: what retention may not take away from them.

Any bundle that is kept may become the base of the next training, should the newer ones turn out damaged; so
the oldest of them decides. A store that was emptied has everything to read until it is repaired.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from deploy.config import Config
from deploy.wiring import profiles, registry, seen_sets
from deploy.wiring_counts import item_counts
from stream.archive import Archive
from stream.joined_reader import JoinedReader
from stream.retention import ReadThrough, Retention, applied_through_ms
from stream.seals import Positions
from updater.request_signals import HORIZON_MS


@contextlib.contextmanager
def retention(config: Config, held: Archive) -> Iterator[Retention]:
    """What removes old events from `held`. Raises Unreachable."""
    with contextlib.ExitStack() as stack:
        # Connections of their own: the intake's remember what they read of the store, to notice its loss.
        counts, seen = stack.enter_context(item_counts(config)), stack.enter_context(seen_sets(config))
        online = stack.enter_context(contextlib.closing(profiles(config)))
        stores = {"profiles": online.positions}
        stores |= {f"counts {place}": one.positions for place, one in enumerate(counts)}
        stores |= {"seen sets": seen.positions} if seen else {}
        readers: dict[str, ReadThrough] = {name: _applied(held, read) for name, read in stores.items()}
        readers["training"] = lambda: trained_through_ms(config)
        if config.join.enabled:
            readers["join"] = JoinedReader(config.joined_dir).through_ms
        yield Retention(held, config.archive, readers)


def trained_through_ms(config: Config) -> int | None:
    """End of the last interval that no training will ask for again; None: no bundle has read anything."""
    marks = [int(manifest["watermark_ms"]) for manifest in registry(config).manifests()]
    return min(marks) - (HORIZON_MS if config.update.counts_items else 0) if marks else None


def _applied(held: Archive, positions: Callable[[], Positions]) -> ReadThrough:
    return lambda: applied_through_ms(held.seals(), positions())
