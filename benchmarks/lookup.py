"""ID lookup: key texts to rows, against a Python dict."""

import numpy as np
import pyarrow as pa

from benchmarks import data
from benchmarks.measure import Result, rates, sha256
from models.id_table import IdTable


def lookups(keys: int, asked: int) -> list[Result]:
    """Zipf-distributed lookups of known keys, against a dict that begins where they do, at an Arrow column,
    and against one that is given Python strings, which carry their hashes once they were looked up.
    """
    texts = data.key_texts(np.arange(keys))
    table = IdTable()
    table.observe(texts, np.zeros(keys, np.int64))
    places = data.zipf(data.generator(), asked, keys)
    wanted = texts.take(pa.array(places))
    rows = {text: row for row, text in enumerate(texts.to_pylist())}

    def with_dict() -> np.ndarray:
        # From the same Arrow column to an int64 array, as the trainer needs it.
        return np.fromiter((rows.get(text, -1) for text in wanted.to_pylist()), np.int64, asked)

    strings = wanted.to_pylist()

    def with_dict_of_strings() -> np.ndarray:
        return np.fromiter((rows.get(text, -1) for text in strings), np.int64, asked)

    ours, *peers = rates(asked, lambda: table.lookup(wanted), with_dict, with_dict_of_strings)
    digest = sha256(places)
    of = {"ids.lookup": "Python dict", "ids.lookup.strings": "Python dict, given strings"}
    return [
        Result(name, ours, "keys/s", peer, taken, data_sha256=digest)
        for (name, peer), taken in zip(of.items(), peers, strict=True)
    ]
