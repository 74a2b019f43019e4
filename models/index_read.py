"""A faiss index read into one block of memory, in which it stays: nothing is copied, and it goes at once.

What faiss allocates by itself lies in small pages: giving back 400 MB of them takes it a tenth of a second,
during which no other thread of Python runs. NumPy's large arrays lie in huge ones: that takes a millisecond.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss as _faiss
import numpy as np

from models.tensor_file import filled

faiss: Any = _faiss  # its type stubs do not describe the Python layer
_ALIGN = 64


def read_index(path: Path) -> Any:
    """The index of a file that faiss wrote. Raises TensorFileError where the file is shorter than it was."""
    size = path.stat().st_size
    block = np.empty(size + _ALIGN, np.uint8)
    # So that it ends at a multiple: the vectors come last in the file of a graph.
    start = -(block.ctypes.data + size) % _ALIGN
    inside = block[start : start + size]
    with path.open("rb", buffering=0) as file:
        filled(path, file, inside)
    index = faiss.read_index(faiss.ZeroCopyIOReader(faiss.swig_ptr(inside), size))
    index.referenced_objects = [block]  # faiss's own place for what must live as long
    return index
