"""The catalogue: attributes of items and users, as of any moment of event time.

    root/items.log, users.log   every version: frames (stream/segment.py) of Arrow IPC, CHANGE_SCHEMA;
                                the schema metadata "next" holds the positions
         incarnations.json      topic ids in order of first sight

One writer, any number of readers in other processes; the files are only ever appended to.
"""

import json
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stream.change import CHANGE_SCHEMA
from stream.seals import Positions, column, from_text, to_text
from stream.segment import FramedLog, read_frames_after, write_file

ITEMS, USERS = "items", "users"


class Catalogue:
    """The reading end. Every call sees what has been written by then."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._logs = {name: _Versions(self.root / f"{name}.log", key) for name, key in _KEYS.items()}
        self._mutex = threading.Lock()

    def items_table(self, as_of_ms: int | None = None) -> pa.Table:
        """Items as of an event time (default: the newest state), one row per item that exists.

        `item_id` is the key text; every attribute is a column: int64 or float64 if all its values are
        numbers, else string. Null where an item lacks it. The same table object while nothing in it changes.
        """
        return self._table(ITEMS, as_of_ms)

    def users_table(self, as_of_ms: int | None = None) -> pa.Table:
        """Users as of an event time, like `items_table` with `user_id`."""
        return self._table(USERS, as_of_ms)

    def item_changes(self, after: int) -> tuple[pa.Table, int]:
        """Last versions of the items that changed after the first `after` changes of items, in the form of
        items_table with the columns ts_ms, born_ms (event time of the item's first change) and deleted; and
        how many changes of items there are by now.
        """
        with self._mutex:
            versions = self._logs[ITEMS].refreshed()
            changed = _newest(versions.slice(after))
            wide = _wide(changed, _KEYS[ITEMS])
            for name in ("ts_ms", "deleted"):
                wide = wide.append_column(name, changed[name])
            return wide.append_column("born_ms", _born_ms(versions, changed["id"])), versions.num_rows

    def sequence(self) -> int:
        """Number of changes taken in so far, of items and users."""
        with self._mutex:
            return sum(log.refreshed().num_rows for log in self._logs.values())

    def _table(self, name: str, as_of_ms: int | None) -> pa.Table:
        with self._mutex:
            return self._logs[name].as_of(as_of_ms)


class CatalogueWriter:
    """The writing end; one process."""

    def __init__(self, root: Path) -> None:
        """Open or create; a torn tail is cut. Raises CorruptLog."""
        self.root = Path(root)
        self.root.mkdir(parents=True, exist_ok=True)
        path = self.root / "incarnations.json"
        self._incarnations: list[str] = json.loads(path.read_text()) if path.exists() else []
        self._logs = {name: FramedLog(self.root / f"{name}.log") for name in _KEYS}
        self._next: dict[str, Positions] = {name: {} for name in _KEYS}
        for name, log in self._logs.items():
            for payload in log.frames():
                batch = _from_ipc(payload)
                self._next[name].update(from_text(json.loads(batch.schema.metadata[b"next"])))

    def incarnation(self, topic_id: str) -> int:
        """Number of a topic incarnation; registered durably at first sight."""
        if topic_id not in self._incarnations:
            known = json.dumps([*self._incarnations, topic_id])
            write_file(self.root / "incarnations.json", known.encode())
            self._incarnations.append(topic_id)
        return self._incarnations.index(topic_id)

    def next_offsets(self, name: str) -> Positions:
        """(incarnation, partition) -> next offset to read, of "items" or "users"."""
        return dict(self._next[name])

    def append(self, name: str, batch: pa.RecordBatch, following: Mapping[tuple[int, int], int]) -> None:
        """Take in changes of CHANGE_SCHEMA to "items" or "users", durably, with the next offsets to read."""
        sink = pa.BufferOutputStream()
        metadata = {"next": json.dumps(to_text(dict(following)))}
        with pa.ipc.new_stream(sink, CHANGE_SCHEMA.with_metadata(metadata)) as writer:
            writer.write_batch(batch.replace_schema_metadata(metadata))
        self._logs[name].append(memoryview(sink.getvalue()))
        self._next[name].update(following)

    def close(self) -> None:
        """Close; everything is already durable."""
        for log in self._logs.values():
            log.close()


_KEYS = {ITEMS: "item_id", USERS: "user_id"}


class _Versions:
    """All versions in one log, in order of arrival, and the last table made of them."""

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        self._place, self._size = 0, -1
        self._all = CHANGE_SCHEMA.empty_table()
        self._times = column(self._all, "ts_ms")
        self._made: tuple[int, int] | None = None
        self._table = _wide(self._all, key)

    def refreshed(self) -> pa.Table:
        size = self._path.stat().st_size if self._path.exists() else 0
        if size != self._size:
            found = []
            for after, payload in read_frames_after(self._path, self._place):
                found.append(_from_ipc(payload).replace_schema_metadata(None))
                self._place = after
            self._all = pa.concat_tables([self._all, pa.Table.from_batches(found, CHANGE_SCHEMA)])
            self._times = column(self._all, "ts_ms")
            self._size = size
        return self._all

    def as_of(self, as_of_ms: int | None) -> pa.Table:
        versions = self.refreshed()
        visible = versions.num_rows if as_of_ms is None else int((self._times <= as_of_ms).sum())
        # The visible versions are a set that only grows with time and with arrivals, so two counts name it.
        made = (versions.num_rows, visible)
        if made != self._made:
            if visible < versions.num_rows:
                versions = versions.filter(pa.array(self._times <= as_of_ms))
            self._table, self._made = _wide(_latest(versions), self._key), made
        return self._table


def _latest(versions: pa.Table) -> pa.Table:
    """The last version of each ID that still exists; of equal times the later arrival counts."""
    newest = _newest(versions)
    return newest.filter(pc.invert(newest["deleted"]))


def _newest(versions: pa.Table) -> pa.Table:
    """The last version of each ID, deletions too."""
    ids = versions["id"].combine_chunks().dictionary_encode()
    ids = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    codes = ids.indices.to_numpy(zero_copy_only=False)
    order = np.lexsort([np.arange(len(codes)), column(versions, "ts_ms"), codes])
    last = np.ones(len(order), bool)
    last[:-1] = codes[order][1:] != codes[order][:-1]
    return versions.take(pa.array(np.sort(order[last])))


def _born_ms(versions: pa.Table, ids: pa.ChunkedArray) -> pa.Array:
    """Event time of the first version of every ID."""
    if not len(ids):
        return pa.array([], pa.int64())
    theirs = versions.filter(pc.is_in(versions["id"], ids))
    first = theirs.group_by("id").aggregate([("ts_ms", "min")])
    return first["ts_ms_min"].take(pc.index_in(ids, first["id"])).combine_chunks()


def _wide(versions: pa.Table, key: str) -> pa.Table:
    """One column per attribute, in the order of names."""
    maps = versions["attributes"].combine_chunks()
    maps = maps.combine_chunks() if isinstance(maps, pa.ChunkedArray) else maps
    sizes = np.diff(maps.offsets.to_numpy())
    rows = np.repeat(np.arange(len(maps)), sizes)
    first, last = maps.offsets[0].as_py() if len(maps.offsets) else 0, int(sizes.sum())
    names = maps.keys.slice(first, last).dictionary_encode()
    values, codes = maps.items.slice(first, last), names.indices.to_numpy(zero_copy_only=False)
    columns = {key: versions["id"]}
    for name in sorted(names.dictionary.to_pylist()):
        mask = codes == names.dictionary.index(name).as_py()
        columns[name] = _scattered(values.filter(pa.array(mask)), rows[mask], versions.num_rows)
    return pa.table(columns)


def _scattered(typed: pa.Array, rows: np.ndarray, size: int) -> pa.Array:
    kinds = set(pc.unique(pc.utf8_slice_codeunits(typed, 0, 1)).to_pylist())
    values = pc.utf8_slice_codeunits(typed, 1)
    if kinds <= {"i"}:
        values = values.cast(pa.int64())
    elif kinds <= {"i", "f"}:
        values = values.cast(pa.float64())
    places = np.full(size, -1, np.int64)
    places[rows] = np.arange(len(rows))
    return values.take(pa.array(places, mask=places < 0))


def _from_ipc(payload: memoryview) -> pa.RecordBatch:
    batch: pa.RecordBatch = pa.ipc.open_stream(pa.py_buffer(payload)).read_next_batch()
    return batch
