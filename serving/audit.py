"""Audit mode: answers with everything that went into them, and the same answers computed again from the
files.

A line of the audit file holds the request, the part of the profile that was read, and the answer.
`recompute` opens the bundle and the deltas that the answer names, on its own, merges them without the
serving index, and compares.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import IO

import msgspec
import numpy as np
import pyarrow as pa

from models.arrays import Float32Array
from models.bundle import POPULARITY_FILE, neighbours_file
from models.delta import PopularityList
from models.index import load_items
from models.item_to_item import ItemToItemConfig
from models.moments import Moments
from models.neighbour_rows import NeighbourRows
from models.registry import Registry
from serving.channels.moment import moment_of
from serving.channels.names import EDITORIAL, EXPLORE, FRESH, OWN_ITEMS, POPULAR_NOW, POPULARITY, SAME
from serving.profile import Profile
from serving.schema import RecallAnswer, RecallRequest
from serving.snapshot import ITEM_TABLE
from serving.tower_contract import LoadTower, UserTower
from stream.keys import encode_id
from stream.two_files import cut_torn_line, lines_of, make_room

RELATIVE_TOLERANCE = 1e-5
AUDIT_BYTES = 4_294_967_296
_LOG = logging.getLogger(__name__)


class AuditedEntry(msgspec.Struct, frozen=True, array_like=True):
    """One entry of the history that was read."""

    item_id: str
    kind: str
    ts_ms: int
    request_id: str


class AuditRecord(msgspec.Struct, frozen=True):
    """One answer with its inputs. fresh: key texts of its items that the catalogue had lately brought: until
    the version has them, their vectors are in no file.
    """

    request: RecallRequest
    ts_ms: int
    history: list[AuditedEntry]
    attributes: dict[str, str]
    answer: RecallAnswer
    fresh: list[str] = []


class AuditLog:
    """Appends records to a JSON lines file, in bounded room (stream/two_files.py): the newest are kept. A
    disk that takes none costs records, never an answer.
    """

    def __init__(self, path: Path, limit_bytes: int = AUDIT_BYTES) -> None:
        """limit_bytes: of the file and the one before it, `<name>.1`, together."""
        path.parent.mkdir(parents=True, exist_ok=True)
        cut_torn_line(path)
        self.lost = 0
        """Records that could not be written."""
        self._path, self._limit_bytes, self._failing = path, limit_bytes, False
        self._file: IO[bytes] = path.open("ab")
        self._encoder = msgspec.json.Encoder()
        self._lock = threading.Lock()

    def write(
        self,
        request: RecallRequest,
        ts_ms: int,
        profile: Profile,
        answer: RecallAnswer,
        new_items: Set[str] = frozenset(),
    ) -> None:
        """Append one answer. new_items: key texts of the snapshot's pool of new items."""
        history = [AuditedEntry(e.item_id, e.kind, e.ts_ms, e.request_id) for e in profile.history]
        fresh = (
            [key for item in answer.items if (key := encode_id(item.id)) in new_items] if new_items else []
        )
        record = AuditRecord(request, ts_ms, history, dict(profile.attributes), answer, fresh)
        line = self._encoder.encode(record) + b"\n"
        with self._lock:
            if not self._done(lambda: self._append(line)):
                self.lost += 1

    def flush(self) -> None:
        """Make what was written visible to readers."""
        with self._lock:
            self._done(self._file.flush)

    def close(self) -> None:
        """Flush and close."""
        with self._lock:
            self._done(self._file.close)

    def _append(self, line: bytes) -> None:
        if make_room(self._path, self._file.tell(), len(line), self._limit_bytes):
            full, self._file = self._file, self._path.open("ab")
            full.close()
        self._file.write(line)

    def _done(self, act: Callable[[], object]) -> bool:
        """Whether the disk took it; said once when it begins to fail."""
        try:
            act()
        except OSError as error:
            if not self._failing:
                _LOG.error("%s: audited answers are lost while it cannot be written: %s", self._path, error)
            self._failing = True
            return False
        self._failing = False
        return True


def read_audit(path: Path) -> list[AuditRecord]:
    """Every whole record of an audit file and of the one before it, oldest first."""
    decoder = msgspec.json.Decoder(AuditRecord)
    return [decoder.decode(line) for line in lines_of(path)]


class Recomputed(msgspec.Struct, frozen=True):
    """The comparison of one answer with its recomputation.

    mixed: what differs beyond the tolerance, "" = nothing. error: largest difference relative to the size of
    the terms, |u||v| for a dot product.
    """

    mixed: str
    error: float
    items: int


class AuditCheck:
    """Recomputes audited answers; keeps the last versions it opened."""

    def __init__(self, registry: Registry, load_tower: LoadTower, keep: int = 2) -> None:
        self.registry, self.load_tower, self.keep = registry, load_tower, keep
        self._versions: dict[tuple[str, int], _Version] = {}

    def recompute(self, record: AuditRecord) -> Recomputed:
        """Compute every score of an answer again. Raises ArtifactError or MissingDelta when files are
        gone.
        """
        answer = record.answer
        version = self._version(answer.bundle, answer.delta)
        if version.watermark_ms != answer.watermark_ms:
            return Recomputed(
                f"watermark_ms: expected {version.watermark_ms}, got {answer.watermark_ms}", 0.0, 0
            )
        asked: dict[str, _Asked] = {}
        worst, mixed = 0.0, ""
        for item in answer.items:
            if item.channel in (OWN_ITEMS, EDITORIAL, FRESH, POPULAR_NOW, EXPLORE) or item.channel.startswith(
                SAME
            ):
                continue  # they read no file of a version: profile, editors' lists, catalogue, store
            key = encode_id(item.id)
            if item.channel == POPULARITY:
                expected, scale = version.popular.get(key), abs(item.score)
            else:
                if item.channel not in asked:
                    asked[item.channel] = version.asked(item.channel, record)
                expected, scale = asked[item.channel](key)
            if expected is None and key in record.fresh:
                continue
            if expected is None:
                mixed = mixed or f"{item.channel}/{item.id!r}: expected no such item, got score {item.score}"
                continue
            error = abs(expected - item.score) / max(scale, 1e-12)
            worst = max(worst, error)
            if error > RELATIVE_TOLERANCE:
                mixed = mixed or f"{item.channel}/{item.id!r}: expected score {expected}, got {item.score}"
        return Recomputed(mixed, worst, len(answer.items))

    def _version(self, bundle: str, delta: int) -> _Version:
        if (bundle, delta) not in self._versions:
            while len(self._versions) >= self.keep:
                self._versions.pop(next(iter(self._versions)))
            self._versions[bundle, delta] = _Version(self.registry, self.load_tower, bundle, delta)
        return self._versions[bundle, delta]


def recompute(record: AuditRecord, registry: Registry, load_tower: LoadTower) -> Recomputed:
    """Compute the scores of one answer again from the files it names (AuditCheck keeps files open for
    many).
    """
    return AuditCheck(registry, load_tower).recompute(record)


_Asked = Callable[[str], tuple[float | None, float]]
"""Of one channel for one request: item key -> (its score, None = no such item, and the size of its terms)."""


class _Version:
    """Bundle and deltas merged plainly: dictionaries instead of the serving index."""

    def __init__(self, registry: Registry, load_tower: LoadTower, bundle: str, delta: int) -> None:
        opened = registry.open_bundle(bundle)
        self.watermark_ms: int = opened.manifest["watermark_ms"]
        self.towers: dict[str, UserTower] = {}
        self.vectors: dict[str, dict[str, Float32Array]] = {}
        popularity = PopularityList()
        if opened.has(POPULARITY_FILE):
            popularity = PopularityList.from_tensors(opened.tensors(POPULARITY_FILE))
        for name in opened.manifest["models"]:
            items = load_items(opened, name)
            self.towers[name] = load_tower(opened, name)
            published = np.asarray(items.base.vectors, np.float32)
            self.vectors[name] = dict(zip(items.keys.to_pylist(), published, strict=True))
        self.item_to_item: dict[str, ItemToItemConfig] = {}
        self.neighbours: dict[str, dict[str, dict[str, float]]] = {}
        for name, entry in opened.manifest.get("channels", {}).items():
            self.item_to_item[name] = ItemToItemConfig.model_validate(entry["config"])
            neighbours = NeighbourRows.from_tensors(opened.tensors(neighbours_file(name)))
            self.neighbours[name] = _by_trigger(neighbours)
        for ref in registry.chain(bundle, 0, delta):
            change = registry.open_delta(ref)
            self.watermark_ms = change.fields.watermark_ms
            popularity = change.popularity or popularity
            for name, changed in change.channels.items():
                self.neighbours[name] |= _by_trigger(changed)
            for name, tables in change.tables.items():
                rows: dict[str, tuple[pa.Array, Float32Array]] = {
                    t: (r.keys, r.rows) for t, r in tables.items()
                }
                gone: Mapping[str, pa.Array] = {t: r.tombstones for t, r in tables.items()}
                self.towers[name] = self.towers[name].with_rows(rows, gone)
                if ITEM_TABLE in tables:
                    for key in tables[ITEM_TABLE].tombstones.to_pylist():
                        self.vectors[name].pop(key, None)
                    vectors = tables[ITEM_TABLE].vectors
                    if vectors is not None:
                        self.vectors[name].update(
                            zip(tables[ITEM_TABLE].keys.to_pylist(), vectors, strict=True)
                        )
        self.popular = dict(zip(popularity.keys.to_pylist(), popularity.scores.tolist(), strict=True))

    def asked(self, channel: str, record: AuditRecord) -> _Asked:
        """How `channel` scores items for the request of `record`."""
        known = channel in self.item_to_item
        config = self.item_to_item[channel] if known else self.towers[channel].config
        moment = moment_of(
            config,
            encode_id(record.request.user_id),
            record.ts_ms,
            record.history,
            record.request.context,
            record.attributes,
        )
        return self._from_neighbours(channel, moment) if known else self._from_tower(channel, moment)

    def _from_tower(self, name: str, moment: Moments) -> _Asked:
        queries, vectors = self.towers[name].queries(moment), self.vectors[name]
        u_VW, own_VW = queries.vectors[0].astype(np.float64), queries.own_vectors[0].astype(np.float64)
        own = dict(zip(queries.own_id.to_pylist(), queries.own_score.tolist(), strict=True))

        def score(key: str) -> tuple[float | None, float]:
            vector, added = vectors.get(key), own.get(key, 0.0)
            if vector is None:
                return None, 0.0
            asking_VW = own_VW if key in own else u_VW
            size = np.linalg.norm(asking_VW, axis=1).max() * np.linalg.norm(vector)
            return float((asking_VW @ vector).max()) + added, float(size) + abs(added)

        return score

    def _from_neighbours(self, name: str, moment: Moments) -> _Asked:
        half_life_ms = self.item_to_item[name].recency_half_life_h * 3_600_000
        newest = int(moment.history_ts_ms.max(initial=0))
        sums: dict[str, float] = {}
        for trigger, ts in zip(moment.history_id.to_pylist(), moment.history_ts_ms.tolist(), strict=True):
            weight = 2.0 ** ((ts - newest) / half_life_ms) if half_life_ms else 1.0
            for key, similarity in self.neighbours[name].get(trigger, {}).items():
                sums[key] = sums.get(key, 0.0) + weight * similarity
        return lambda key: (sums.get(key), sums.get(key, 0.0))


def _by_trigger(rows: NeighbourRows) -> dict[str, dict[str, float]]:
    """Trigger key -> neighbour key -> similarity."""
    names, offsets = rows.items.take(pa.array(rows.neighbours)).to_pylist(), rows.offsets.tolist()
    scores = rows.scores.tolist()
    return {
        trigger: dict(zip(names[begin:end], scores[begin:end], strict=True))
        for trigger, begin, end in zip(rows.triggers.to_pylist(), offsets[:-1], offsets[1:], strict=True)
    }
