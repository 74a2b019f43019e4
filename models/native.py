"""The one door to numba: compiled functions that release the GIL and keep their Python signature."""

from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """Compile `function` with numba (nopython, on-disk cache, GIL released) under its own type."""
    return cast(F, numba.njit(cache=True, nogil=True)(function))


def compiled_sums(function: F) -> F:
    """The same for sums of floats, whose terms it may add in another order: the same on every run of a machine,
    and several at a time.
    """
    return cast(F, numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})(function))
