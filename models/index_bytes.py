"""A faiss index as a file, mapped and searched where it lies: nothing is copied, and it goes at once.

What faiss allocates by itself lies in small pages: giving back 400 MB of them takes it a tenth of a second,
during which no other thread of Python runs. The vectors of a graph come last. So zeros lead the file, as
many as make its length a multiple of 64, and its vectors are aligned; without them it is as faiss writes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss as _faiss
import numpy as np

from models.arrays import UInt8Array
from models.mapped_file import map_file
from models.pages import touch

faiss: Any = _faiss  # its type stubs do not describe the Python layer
_ALIGN = 64


def index_bytes(index: Any) -> UInt8Array:
    """uint8[...], what read_index() reads."""
    writer = faiss.VectorIOWriter()
    faiss.copy_array_to_vector(np.zeros(_ALIGN, np.uint8), writer.data)
    faiss.write_index(index, writer)
    written: UInt8Array = faiss.vector_to_array(writer.data)
    return written[len(written) % _ALIGN :]


def of_file(content: UInt8Array) -> UInt8Array:
    """What faiss wrote, of a file's bytes uint8[...]."""
    return content[np.argmax(content[: _ALIGN + 1] != 0) :]  # it begins with a letter


def mapped_bytes(path: Path) -> UInt8Array:
    """What faiss wrote, where it lies in a file of index_bytes(). Raises OSError."""
    content = map_file(path)
    touch(content)
    return of_file(content)


def read_index(path: Path) -> Any:
    """The index of a file, to be searched only. Raises OSError, and RuntimeError where faiss cannot read
    it.
    """
    inside = mapped_bytes(path)
    index = faiss.read_index(faiss.ZeroCopyIOReader(faiss.swig_ptr(inside), len(inside)))
    index.referenced_objects = [inside]  # faiss's own place for what must live as long
    return index
