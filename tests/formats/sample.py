"""Small bundles and deltas for the tests of the formats."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from models.artifact import pack_keys
from models.bundle import BundleFields, items_file, model_file
from models.delta import Delta, DeltaFields, PopularityList, TableRows

HOUR = 3_600_000


def keys(*texts: str) -> pa.Array:
    return pa.array(texts, pa.string())


def bundle_files(seed: int = 0, items: int = 5, dim: int = 4) -> dict[str, Mapping[str, Any] | bytes]:
    rng = np.random.default_rng(seed)
    names = keys(*(f"i{n}" for n in range(items)))
    packed = pack_keys(names, "keys.")
    return {
        items_file("m"): {**packed, "vectors": rng.normal(size=(items, dim)).astype(np.float32)},
        model_file("m", "dense"): {"w": rng.normal(size=(3, 2)).astype(np.float32)},
        "channels/note.bin": b"\x00blob",
    }


def bundle_fields(watermark_ms: int = HOUR, **more: Any) -> BundleFields:
    return BundleFields(watermark_ms=watermark_ms, models={"m": {"kind": "fake"}}, **more)


def delta(base: str, sequence: int, cumulative: bool = False, value: float = 0.0, **more: Any) -> Delta:
    """Row "u<sequence>" of table m/user, or those of every sequence up to it."""
    names = [f"u{n}" for n in (range(1, sequence + 1) if cumulative else [sequence])]
    fields = DeltaFields(
        base=base,
        sequence=sequence,
        previous_sequence=0 if cumulative else sequence - 1,
        watermark_ms=HOUR * (sequence + 1),
        **more,
    )
    rows = TableRows(keys(*names), np.full((len(names), 2), value, np.float32), None, keys("gone"))
    return Delta(fields, {"m": {"user": rows}}, PopularityList(keys("i1", "i0"), np.array([2.0, 1.0])))
