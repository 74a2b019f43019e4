"""Memory that was freed goes back to the system."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any


@cache
def _trim() -> Any:
    """malloc_trim of the C library, None where it has none (only glibc does)."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_back() -> None:
    """Hand back what was freed and is kept for later by malloc: after a version of a gigabyte some 70 MB.

    Takes some milliseconds, without the interpreter lock.
    """
    trim = _trim()
    if trim is not None:
        trim(0)
