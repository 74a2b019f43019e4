"""How many items of one author or category an answer may hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from models.arrays import BoolArray
from serving.attributes import ItemAttributes


class Caps:
    """The places that one answer has left for items of every value. An item without a value is under no cap.

    turned_away: by attribute, code of a value -> candidates that found no place left.
    """

    def __init__(self, most: Mapping[str, int], attributes: ItemAttributes) -> None:
        """most: attribute -> most items with the same value."""
        self.most = {name: n for name, n in most.items() if n and name in attributes.columns}
        self.turned_away: dict[str, Counter[int]] = {name: Counter() for name in self.most}
        self._attributes = attributes
        self._taken: dict[str, Counter[int]] = {name: Counter() for name in self.most}
        self._codes: dict[str, dict[str, int]] = {}

    def trial(self) -> Caps:
        """The places that are left, to try something with."""
        made = Caps(self.most, self._attributes)
        made._codes, made._taken = self._codes, {name: taken.copy() for name, taken in self._taken.items()}
        return made

    def admit(self, keys: Iterable[str], k: int) -> list[str]:
        """The first k items, in their order, that still have a place; they take it."""
        keys = list(keys)
        if not self.most:
            return keys[:k]
        self._read(keys)
        admitted: list[str] = []
        for key in keys:
            if len(admitted) >= k:
                break
            codes = self._codes[key]
            full = [name for name, code in codes.items() if self._taken[name].get(code, 0) >= self.most[name]]
            for name in full:
                self.turned_away[name][codes[name]] += 1
            if not full:
                for name, code in codes.items():
                    self._taken[name][code] += 1
                admitted.append(key)
        return admitted

    def closed(self) -> BoolArray:
        """Items whose value has no place left, bool[entries of the attributes]."""
        closed = np.zeros(len(self._attributes), bool)
        for name, taken in self._taken.items():
            full = [code for code, n in taken.items() if n >= self.most[name]]
            closed |= self._attributes.columns[name].coded(full)
        return closed

    def crowded(self, key: str) -> dict[str, int]:
        """By attribute, how many candidates with the value of an item found no place left."""
        if not self.most:
            return {}
        self._read([key])
        counts = {name: self.turned_away[name][code] for name, code in self._codes[key].items()}
        return {name: n for name, n in counts.items() if n}

    def _read(self, keys: Sequence[str]) -> None:
        """Look up the values of items that were not looked up yet."""
        new = [key for key in keys if key not in self._codes]
        entries = self._attributes.entries(new)
        of_name = {name: self._attributes.codes(name, entries).tolist() for name in self.most}
        for at, key in enumerate(new):
            self._codes[key] = {name: codes[at] for name, codes in of_name.items() if codes[at] >= 0}
