"""Items that editors chose, per scene: a JSON file {"scene": [ids, …], "": [ids for all others]}."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from models.arrays import Float32Array
from serving.channels.contract import Ask, Ranking
from serving.errors import EditorialRefused
from stream.event import Identifier
from stream.keys import encode_id

_LOG = logging.getLogger(__name__)
Lists = Mapping[str, Sequence[str]]


def read_editorial(path: Path) -> Lists:
    """Scene -> item key texts in the editors' order. Raises EditorialRefused."""
    try:
        lists = msgspec.json.decode(path.read_bytes(), type=dict[str, list[Identifier]])
        return {scene: list(dict.fromkeys(encode_id(item) for item in ids)) for scene, ids in lists.items()}
    except (OSError, ValueError) as error:
        raise EditorialRefused(
            f'serving.editorial_file: {path}: expected {{"scene": [item ids, ...], "": [...]}}, '
            f"got: {error}; the lists read before stay"
        ) from error


class EditorialFile:
    """The lists of a file, read again when it was replaced; one that cannot be used changes nothing."""

    def __init__(self, path: Path | None) -> None:
        """Raises EditorialRefused."""
        self._path = path
        self._seen = self._stamp()
        self._lists: Lists = {} if path is None else read_editorial(path)

    def lists(self) -> Lists:
        """The lists as of now."""
        if self._path is not None and (stamp := self._stamp()) != self._seen:
            self._seen = stamp
            try:
                self._lists = read_editorial(self._path)
            except EditorialRefused as error:
                _LOG.error("%s", error)
        return self._lists

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat() if self._path else None
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_size, found.st_ino) if found else None


@dataclass(frozen=True)
class EditorialSource:
    """The lists as last read."""

    lists: Lists

    def candidates(self, ask: Ask, k: int) -> Ranking:
        """The list of the request's scene, else that of all others; score: 1 / place."""
        allowed = [key for key in self._chosen(ask) if ask.allows(key)][:k]
        return [(key, 1.0 / place) for place, key in enumerate(allowed, 1)]

    def scores(self, ask: Ask, keys: Sequence[str]) -> Float32Array:
        """1 / place; 0 for what is not on the list."""
        worth = {key: 1.0 / place for place, key in enumerate(self._chosen(ask), 1)}
        return np.array([worth.get(key, 0.0) for key in keys], np.float32)

    def _chosen(self, ask: Ask) -> Sequence[str]:
        return self.lists.get(ask.context.get("scene", ""), self.lists.get("", ()))
