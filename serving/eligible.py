"""What of a snapshot may be answered under a scene's attribute rules: the same snapshot, without the rest.

Rules are worked out once for a snapshot and a scene, beside the requests: items that they leave out are
masked out of every index, like deleted ones, so that a request pays nothing for them and is not left short.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from models.arrays import BoolArray
from models.item_index import ItemIndex
from models.neighbours import Neighbours
from serving.attributes import Ids, ItemAttributes
from serving.filters import AttributeRules, AttributeValue, FilterConfig
from stream.change import plain_text
from stream.keys import encode_id

if TYPE_CHECKING:
    from serving.snapshot import Snapshot

_NO_ENTRIES = np.zeros(0, bool)


class Barred(Container[str]):
    """The key texts of items that nobody may get: deleted ones, and entries of the attributes under a mask.

    It takes no time to make, however many there are; keys are looked up when they are first asked for.
    """

    def __init__(self, deleted: Container[str], attributes: ItemAttributes, out: BoolArray) -> None:
        """out: bool[entries]."""
        self._deleted, self._attributes, self._out = deleted, attributes, out
        self._known: dict[str, bool] = {}

    def read(self, keys: Iterable[str]) -> None:
        """Look up many keys at once: a tenth of what one by one takes."""
        new = [key for key in keys if key not in self._known]
        entries = self._attributes.entries(new) if new else ()
        for key, entry in zip(new, entries, strict=True):
            self._known[key] = key in self._deleted or bool(entry >= 0 and self._out[entry])

    def __contains__(self, key: object) -> bool:
        """Whether the item may not be answered."""
        if not isinstance(key, str):
            return False
        if key not in self._known:
            self.read([key])
        return self._known[key]


@dataclass(frozen=True, eq=False)
class Eligible:
    """A snapshot whose channels find only what may be answered.

    gone: what lists must leave out; out: bool[entries of the attributes], what the rules leave out; filters:
    how many items of the catalogue each rule leaves out. plans: what was worked out for requests and is
    needed again (serving/asking.py), with what it was worked out from.
    """

    snapshot: Snapshot
    gone: Container[str]
    out: BoolArray = field(default_factory=lambda: _NO_ENTRIES)
    filters: Mapping[str, int] = field(default_factory=dict)
    plans: dict[tuple[str, bool], tuple[tuple[object, ...], Any]] = field(
        default_factory=dict, init=False, repr=False
    )

    def without(self, closed: BoolArray) -> Eligible:
        """The same without the items under another mask bool[entries of the attributes]."""
        return _masked(self.snapshot, self.out | closed if len(self.out) else closed, self.filters)


def eligible(snapshot: Snapshot, rules: Sequence[AttributeRules]) -> Eligible:
    """What may be answered from a snapshot under rules that all hold; made once, then remembered.

    Whoever serves asks for it before the first request does (Swapper).
    """
    name = tuple(id(one) for one in rules)
    remembered = snapshot.eligible
    held = remembered.get(name)
    if held is None:
        _read_ahead(snapshot)
        masks: dict[str, BoolArray] = {}
        blocked: frozenset[str] = frozenset()
        for one in rules:
            for filter_name, mask in _masks(one, snapshot.attributes):
                masks[filter_name] = masks[filter_name] | mask if filter_name in masks else mask
            if isinstance(one, FilterConfig):
                blocked |= {encode_id(item) for item in one.blocked_items}
        out = np.logical_or.reduce(list(masks.values())) if masks else _NO_ENTRIES
        filters = {name: int(mask.sum()) for name, mask in masks.items()}
        if blocked:
            filters["blocked"] = len(blocked)
            fresh = snapshot.fresh
            snapshot = replace(snapshot, fresh=replace(fresh, gone=fresh.gone | blocked))
        held = (rules, _masked(snapshot, out, filters))
        remembered[name] = held
    return held[1]


def forget(snapshot: Snapshot) -> None:
    """Let go of what was remembered, which refers back to the snapshot: the memory of a version must not wait
    for the collector of cycles. Who still reads it works things out anew.
    """
    for _, items in snapshot.eligible.values():
        items.plans.clear()
    snapshot.eligible.clear()


def _read_ahead(snapshot: Snapshot) -> None:
    """Find the entry of every item of an index now: a request whose caps mask some must not wait for it."""
    if snapshot.attributes.columns:
        items = [one.items for one in snapshot.channels.values()]
        tables: list[Ids] = [table for one in items for table in (one.base_lookup, one.overlay_lookup)]
        tables += [one.items.ids for one in snapshot.neighbours.values()]
        for table in tables:
            snapshot.attributes.entries_of(table)


def _masks(rules: AttributeRules, attributes: ItemAttributes) -> list[tuple[str, BoolArray]]:
    masks = []
    for name, values in rules.blocked.items():
        if name in attributes.columns:
            masks.append((f"blocked {name}", attributes.columns[name].among(_texts(values))))
    for name, values in rules.require.items():
        if name in attributes.columns:
            column = attributes.columns[name]
            lacking = ~column.among(_texts(values))
            if rules.missing == "allow":
                lacking &= column.codes >= 0
            masks.append((f"require {name}", lacking))
    return masks


def _texts(values: Sequence[AttributeValue]) -> list[str]:
    return [plain_text(value) for value in values]


def _masked(snapshot: Snapshot, out: BoolArray, filters: Mapping[str, int]) -> Eligible:
    """A snapshot without what is gone and without entries under `out`. An index of items lacks deleted ones
    already; neighbours of a deleted item are still there, and it is theirs.
    """
    deleted, attributes = snapshot.fresh.gone, snapshot.attributes
    if not deleted and not out.any():
        return Eligible(snapshot, deleted, out, filters)
    hidden = np.append(out, False)  # the last: what the catalogue does not know

    keys = pa.array(list(deleted), pa.string())

    def allowed(items: ItemIndex | Neighbours, *tables: Ids) -> BoolArray:
        """Of the positions of an index, which are the entries of these tables one after another."""
        found = np.ones(sum(table.entry_capacity for table in tables), bool)
        if len(out):
            found = ~hidden[np.concatenate([attributes.entries_of(table) for table in tables])]
        places = items.lookup(keys)
        found[places[places >= 0]] = False
        return found

    def searched(items: ItemIndex) -> ItemIndex:
        return items.only(allowed(items, items.base_lookup, items.overlay_lookup))

    def neighbouring(items: Neighbours) -> Neighbours:
        return items.only(allowed(items, items.ids))

    channels = {name: replace(one, items=searched(one.items)) for name, one in snapshot.channels.items()}
    neighbours = {
        name: replace(one, items=neighbouring(one.items)) for name, one in snapshot.neighbours.items()
    }
    fresh = snapshot.fresh
    if len(out):
        young = ~hidden[attributes.ids.lookup(fresh.keys)]
        fresh = replace(fresh, keys=fresh.keys.filter(pa.array(young)), born_ms=fresh.born_ms[young])
    masked = replace(snapshot, channels=channels, neighbours=neighbours, fresh=fresh)
    if not len(out):
        return Eligible(masked, deleted, out, filters)
    barred = Barred(deleted, attributes, out)
    barred.read(snapshot.popular_keys)  # read by every request that falls short
    return Eligible(masked, barred, out, filters)
