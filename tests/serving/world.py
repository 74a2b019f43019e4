"""A tiny recall model and a registry full of versions of it, for the tests of serving."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pyarrow as pa

from models.artifact import pack_keys, unpack_keys
from models.bundle import POPULARITY_FILE, BundleFields, model_file, neighbours_file
from models.delta import Delta, DeltaFields, PopularityList, TableRows
from models.index import IndexConfig, item_files
from models.pointer import Pointer, PointerStore
from models.query import Queries
from models.registry import Registry
from serving.config import ServingConfig
from serving.http import Api, build_app
from serving.metrics import ServingMetrics
from serving.swap import Served, Swapper

DIM = 8
HOUR = 3_600_000


def keys(*texts: str) -> pa.Array:
    return pa.array(texts, pa.string())


@dataclass(frozen=True, eq=False)
class FakeTower:
    """u = row of the user (row "" when unknown) + number of history items * bias + a number per context
    value.
    """

    rows: dict
    bias: np.ndarray
    config: SimpleNamespace = field(
        default_factory=lambda: SimpleNamespace(
            positives=("click",), read_length=3, histories={}, has_item_tower=True
        )
    )

    @classmethod
    def load(cls, bundle, name):
        tensors = bundle.tensors(model_file(name, "users"))
        names = unpack_keys(tensors, "keys.").to_pylist()
        return cls(dict(zip(names, tensors["rows"], strict=True)), tensors["bias"])

    together = 3

    def queries(self, moments):
        found = []
        for at in range(len(moments)):
            length = int(moments.history_offsets[at + 1] - moments.history_offsets[at])
            shift = sum(len(column[at].as_py()) for column in moments.context.values())
            found.append(
                self.rows.get(moments.user_id[at].as_py(), self.rows[""]) + self.bias * (length + shift)
            )
        return Queries.plain(np.array(found, np.float32).reshape(len(moments), 1, DIM))

    def item_vectors(self, keys, attributes):
        """The bias, longer for every character of the title."""
        titles = attributes["title"].to_pylist() if "title" in attributes else [""] * len(keys)
        made = [self.bias * (1 + len(title or "")) for title in titles]
        return np.array(made, np.float32).reshape(len(keys), DIM)

    def with_rows(self, rows, tombstones=None):
        merged = dict(self.rows)
        for key in (tombstones or {}).get("user", keys()).to_pylist():
            merged.pop(key, None)
        if "user" in rows:
            if rows["user"][1].shape[1] != DIM:
                raise ValueError(f"expected width {DIM}, got {rows['user'][1].shape[1]}")
            merged.update(zip(rows["user"][0].to_pylist(), rows["user"][1], strict=True))
        return replace(self, rows=merged)


class FakeProfiles:
    def __init__(self):
        self.held = {}
        self.error = None
        self.fetched = []

    def put(self, user, history=(), consumed=None, attributes=None, position="0:0:1:0", seen=()):
        self.held[user] = SimpleNamespace(
            history=[SimpleNamespace(item_id=i, kind=k, ts_ms=t, request_id="") for i, k, t in history],
            consumed=consumed or {},
            attributes=attributes or {},
            position=position,
            seen=seen,
        )

    async def fetch(self, user_id, consumed=True):
        self.fetched.append(user_id)
        if self.error:
            raise self.error
        if user_id not in self.held:
            self.put("?", position="")
            return self.held.pop("?")
        return self.held[user_id]


@dataclass
class World:
    """A registry with its pointer, and the parts of a server over it."""

    root: Path
    config: ServingConfig = field(
        default_factory=lambda: ServingConfig(clock="event", retry_interval_s=5, channel_timeout_ms=60_000)
    )
    index: IndexConfig = field(default_factory=IndexConfig)
    now_s: float = 0.0

    def __post_init__(self):
        self.registry = Registry(self.root)
        self.pointer = PointerStore(self.root)
        self.profiles = FakeProfiles()
        self.events = []
        self.swapper = Swapper(
            self.registry,
            self.pointer,
            Served(),
            self.config,
            FakeTower.load,
            ServingMetrics(),
            clock_s=lambda: self.now_s,
        )

    @property
    def snapshot(self):
        return self.swapper.served.snapshot

    def bundle(self, seed=0, items=60, users=10, watermark_ms=HOUR, models=("m",), channels=None, **more):
        rng = np.random.default_rng(seed)
        files, entries = {}, {}
        for name in models:
            names = keys("", *(f"u{n}" for n in range(users)))
            packed = pack_keys(names, "keys.")
            rows = rng.normal(size=(users + 1, DIM)).astype(np.float32)
            bias = rng.normal(size=DIM).astype(np.float32) / 4
            files[model_file(name, "users")] = {**packed, "rows": rows, "bias": bias}
            vectors = rng.normal(size=(items, DIM)).astype(np.float32)
            made, entry = item_files(name, keys(*(f"i{n}" for n in range(items))), vectors, self.index, rows)
            files |= made
            entries[name] = {"kind": "fake", "index": entry}
        popular = PopularityList(
            keys(*(f"i{n}" for n in range(20))), np.arange(20, 0, -1, dtype=np.float64) + seed
        )
        files[POPULARITY_FILE] = popular.tensors()
        held = {}
        for name, (config, rows) in (channels or {}).items():
            files[neighbours_file(name)] = rows.tensors()
            held[name] = {
                "kind": config.kind,
                "config": config.model_dump(mode="json"),
                "triggers": len(rows),
            }
        fields = BundleFields(
            watermark_ms=watermark_ms, models=entries, channels=held, schema_hash="s", **more
        )
        return self.registry.publish_bundle(files, fields)

    def delta(
        self,
        base,
        sequence,
        since=None,
        watermark_ms=None,
        seed=100,
        width=DIM,
        schema="s",
        items=True,
        channels=None,
    ):
        """Increment `sequence`; with `since`, the cumulative of since..sequence. Rows depend on the
        sequence.
        """
        tables = {"user": [], "item": []}
        gone = []
        users, changed = {}, {}
        for step in range(since or sequence, sequence + 1):
            rng = np.random.default_rng([seed, step])
            users[f"u{step % 7}"] = rng.normal(size=width)
            changed[f"i{step}"] = rng.normal(size=DIM)
            changed[f"new{step}"] = rng.normal(size=DIM)
            gone.append(f"i{step + 30}")
        as_rows = lambda of: np.array(list(of.values()), np.float32)  # noqa: E731
        tables = {"user": TableRows(keys(*users), as_rows(users))}
        if items:
            tables["item"] = TableRows(keys(*changed), as_rows(changed), as_rows(changed), keys(*gone))
        fields = DeltaFields(
            base=base,
            sequence=sequence,
            previous_sequence=0 if since else sequence - 1,
            watermark_ms=watermark_ms or HOUR + sequence * 1000,
            schema_hash=schema,
        )
        popular = PopularityList(keys(f"new{sequence}", "i0", "i1"), np.array([30.0 + sequence, 2.0, 1.0]))
        return self.registry.publish_delta(Delta(fields, {"m": tables}, popular, channels or {}))

    def point(self, bundle, delta=0, watermark_ms=None, force=False):
        self.pointer.set(
            Pointer(bundle=bundle, delta=delta, watermark_ms=watermark_ms or HOUR + delta * 1000), force
        )

    def serve(self, bundle, delta=0, **kwargs):
        self.point(bundle, delta, **kwargs)
        assert self.swapper.step()
        return self.snapshot

    def api(self, audit=None):
        return Api(self.config, self.swapper, self.profiles, self.events.extend, audit, now_ms=lambda: 777)

    def client(self, audit=None):
        transport = httpx.ASGITransport(app=build_app(self.api(audit)))
        return httpx.AsyncClient(transport=transport, base_url="http://test")

    def counted(self, name, **labels):
        return (
            self.swapper.metrics.registry.get_sample_value(f"freshrecall_{name}_total", labels or None) or 0.0
        )

    def damage(self, *path):
        file = self.root.joinpath(*path)
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
