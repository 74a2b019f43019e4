"""The item-to-item channels of a training state: taken along with every interval, published beside the
models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from models.arrays import Tensors
from models.bundle import channel_state_file, neighbours_file
from models.item_to_item import DAY_MS, ItemToItem, ItemToItemConfig
from models.neighbour_rows import NeighbourRows

COLUMNS = ("user_id", "item_id", "kind", "ts_ms")
"""What channels read of events."""
Rows = dict[str, NeighbourRows]
"""channel -> rows of triggers."""


class ChannelFiles(Protocol):
    """What channels are loaded from: an opened bundle, or a state kept in memory."""

    @property
    def manifest(self) -> Mapping[str, Any]:
        """May have `channels: {name: {"kind", "config"}}`."""
        ...

    def tensors(self, name: str) -> Tensors:
        """Arrays of one file."""
        ...


@dataclass
class ItemChannels:
    """Channels by name. new: those that have seen nothing of what the version they start from had seen."""

    held: dict[str, ItemToItem] = field(default_factory=dict)
    new: tuple[str, ...] = ()

    @classmethod
    def fresh(cls, configs: Mapping[str, ItemToItemConfig]) -> ItemChannels:
        """Channels that have seen nothing, and nothing was to be seen."""
        return cls({name: ItemToItem(config) for name, config in sorted(configs.items())})

    @classmethod
    def load(cls, bundle: ChannelFiles) -> ItemChannels:
        """As they were written, configured as they were then; a bundle without channels has none."""
        entries = bundle.manifest.get("channels", {})
        configs = {name: ItemToItemConfig.model_validate(entry["config"]) for name, entry in entries.items()}
        return cls.warm(bundle, configs)

    @classmethod
    def warm(cls, bundle: ChannelFiles, configs: Mapping[str, ItemToItemConfig]) -> ItemChannels:
        """Those of a bundle, to go on as `configs` says; a change of any setting but `positives` takes hold
        at once. One that the bundle lacks, or that has other positives there, is new.
        """
        entries = bundle.manifest.get("channels", {})
        held, new = {}, []
        for name, config in sorted(configs.items()):
            before = ItemToItemConfig.model_validate(entries[name]["config"]) if name in entries else None
            if before is not None and before.positives == config.positives:
                held[name] = ItemToItem.from_state(config, bundle.tensors(channel_state_file(name)))
            else:
                held[name] = ItemToItem(config)
                new.append(name)
        return cls(held, tuple(new))

    def catch_up(self, events: pa.Table) -> None:
        """Show the new ones what came before: all events up to the version they start from."""
        for name in self.new:
            _observe(self.held[name], events)
        self.new = ()

    def observe(self, events: pa.Table) -> None:
        """Take in events in canonical order (COLUMNS of EVENT_SCHEMA)."""
        for channel in self.held.values():
            _observe(channel, events)

    def expire(self, now_ms: int) -> None:
        """Forget what is older than `expire_after_days`."""
        for channel in self.held.values():
            channel.expire(now_ms - int(channel.config.expire_after_days * DAY_MS))

    def take_changes(self) -> Rows:
        """Rows of the triggers that changed since the last call, settle() or loading."""
        changes = {name: channel.changed() for name, channel in self.held.items()}
        self.settle()
        return changes

    def settle(self) -> None:
        """Count changes anew from here: everything is published whole."""
        for channel in self.held.values():
            channel.settle()

    def neighbours(self) -> Rows:
        """Rows of all triggers."""
        return {name: channel.neighbours() for name, channel in self.held.items()}

    def describe(self) -> dict[str, dict[str, Any]]:
        """JSON-able entries of the manifest's `channels`."""
        return {
            name: {"kind": channel.config.kind, "config": channel.config.model_dump(mode="json")}
            for name, channel in self.held.items()
        }

    def files(self) -> dict[str, Tensors]:
        """What load() needs: file name in the bundle -> tensors."""
        return {channel_state_file(name): channel.state() for name, channel in self.held.items()}

    def published(self) -> tuple[dict[str, Tensors], dict[str, dict[str, Any]]]:
        """What a bundle holds for serving: the files of all neighbours, and the manifest's `channels`."""
        rows = self.neighbours()
        entries = {name: {**entry, "triggers": len(rows[name])} for name, entry in self.describe().items()}
        return {neighbours_file(name): rows[name].tensors() for name in rows}, entries


def merged_rows(older: Rows, newer: Rows) -> Rows:
    """Rows that do in one step what `older` and then `newer` do."""
    both = {name: older[name].followed_by(rows) for name, rows in newer.items() if name in older}
    return {**older, **newer, **both}


def _observe(channel: ItemToItem, events: pa.Table) -> None:
    positive = events.filter(pc.is_in(events["kind"], pa.array(channel.config.positives, pa.string())))
    channel.observe(positive["user_id"], positive["item_id"], positive["ts_ms"].to_numpy())
