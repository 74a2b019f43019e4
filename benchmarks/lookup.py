"""ID lookup: key texts to rows, against a Python dict."""

import numpy as np
import pyarrow as pa

from benchmarks import data
from benchmarks.measure import Result, rates, sha256
from models.id_table import IdTable


def lookups(keys: int, asked: int) -> list[Result]:
    """Zipf-distributed lookups of known keys; the peer looks the same list of strings up in a dict."""
    texts = data.key_texts(np.arange(keys))
    table = IdTable()
    table.observe(texts, np.zeros(keys, np.int64))
    places = data.zipf(data.generator(), asked, keys)
    wanted = texts.take(pa.array(places))
    rows = {text: row for row, text in enumerate(texts.to_pylist())}

    def with_dict() -> np.ndarray:
        # From the same Arrow column to an int64 array, as the trainer needs it.
        return np.fromiter((rows.get(text, -1) for text in wanted.to_pylist()), np.int64, asked)

    ours, peer = rates(asked, lambda: table.lookup(wanted), with_dict)
    return [Result("ids.lookup", ours, "keys/s", "Python dict", peer, data_sha256=sha256(places))]
