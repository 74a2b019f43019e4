"""The door to numba of this package, as models/native.py is that of the models: neither imports the other.

Only what takes events in by the thousand comes through it (stream/event_kernels.py); a producer that uses
this package never loads a compiler.
"""

from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """Compile `function` with numba (nopython, on-disk cache, GIL released) under its own type."""
    return cast(F, numba.njit(cache=True, nogil=True)(function))


def compiled_into(function: F) -> F:
    """The same for parts of compiled functions: no call is left of it."""
    return cast(F, numba.njit(cache=True, nogil=True, forceinline=True)(function))
