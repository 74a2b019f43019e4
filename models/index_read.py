"""A faiss index that works in the file it was written to, mapped: nothing is copied, and it goes at once.

What faiss allocates by itself lies in small pages: giving back 400 MB of them takes it a tenth of a second,
during which no other thread of Python runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss as _faiss

from models.mapped_file import map_file, touch

faiss: Any = _faiss  # its type stubs do not describe the Python layer


def read_index(path: Path) -> Any:
    """The index of a file that faiss wrote, to be searched only. Raises OSError, and RuntimeError where faiss
    cannot read it.
    """
    inside = map_file(path)
    touch(inside)
    index = faiss.read_index(faiss.ZeroCopyIOReader(faiss.swig_ptr(inside), len(inside)))
    index.referenced_objects = [inside]  # faiss's own place for what must live as long
    return index
