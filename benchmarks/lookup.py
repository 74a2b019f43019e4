"""ID lookup: key texts to rows, against a Python dict."""

import numpy as np
import pyarrow as pa

from benchmarks.measure import Result, rates
from models.id_table import IdTable


def run() -> list[Result]:
    """Zipf-distributed lookups of 1 M known keys; the peer looks the same list of strings up in a dict."""
    rng = np.random.default_rng(7)
    keys, asked = 1_000_000, 500_000
    texts = pa.array([f"#{n}" for n in range(keys)])
    table = IdTable()
    table.observe(texts, np.zeros(keys, np.int64))
    wanted = texts.take(pa.array(np.minimum(rng.zipf(1.2, asked) - 1, keys - 1)))
    rows = {text: row for row, text in enumerate(texts.to_pylist())}

    def with_dict() -> np.ndarray:
        # From the same Arrow column to an int64 array, as the trainer needs it.
        return np.fromiter((rows.get(text, -1) for text in wanted.to_pylist()), np.int64, asked)

    ours, peer = rates(asked, lambda: table.lookup(wanted), with_dict)
    return [Result("ids.lookup", ours, "keys/s", "Python dict", peer, {"keys": keys, "asked": asked})]
