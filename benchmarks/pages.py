"""Pages with parts that are written from results files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any


def filled(text: str, pattern: re.Pattern[str], parts: Mapping[str, Callable[..., str]], data: Any) -> str:
    """The page with its parts written anew.

    pattern: groups (opening marker, name of the part and ": " argument, closing marker); parts: name -> what
    writes it from `data` and the argument. Raises ValueError for a part of an unknown name.
    """

    def part(found: re.Match[str]) -> str:
        kind, _, argument = found[2].partition(": ")
        if kind not in parts:
            raise ValueError(f"{found[1].strip()}: expected one of {', '.join(parts)}, got {kind!r}")
        return f"{found[1]}\n{parts[kind](data, *([argument] if argument else []))}\n\n{found[3]}"

    return pattern.sub(part, text)
