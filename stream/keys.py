"""Key text: the one string form of an ID that tables, files and the archive share.

IDs are int64 or UTF-8 strings of at most 256 bytes, and 5 differs from "5". A string stays itself, an int n
becomes "#n",
and a string that begins with "#" gets one more, so the mapping is injective. "" stands for "no item".
"""

import contextlib
from collections.abc import Sequence

ID_LIMIT_BYTES = 256
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1


def encode_id(identifier: int | str) -> str:
    """Key text of an ID.

    Raises TypeError for anything but int and str, ValueError for an int outside int64 or a string over 256
    bytes.
    """
    if isinstance(identifier, str):
        size = len(identifier.encode())
        if size > ID_LIMIT_BYTES:
            raise ValueError(f"ID of {size} bytes; expected at most {ID_LIMIT_BYTES}: {identifier[:40]!r}...")
        return "#" + identifier if identifier[:1] == "#" else identifier
    if isinstance(identifier, bool) or not isinstance(identifier, int):
        raise TypeError(f"an ID is an int or a str, got {type(identifier).__name__}: {identifier!r}")
    if not INT64_MIN <= identifier <= INT64_MAX:
        raise ValueError(f"integer ID {identifier} is outside int64")
    return f"#{identifier}"


def decode_id(key: str) -> int | str:
    """The ID behind a key text (inverse of `encode_id`). Raises ValueError for any other text."""
    if key[:1] != "#":
        return key
    if key[1:2] == "#":
        return key[1:]
    number = int(key[1:])
    if f"#{number}" != key:
        raise ValueError(f"not a key text: {key!r}; expected '#' and a plain decimal int64")
    return number


def decode_ids(keys: Sequence[str]) -> list[int | str]:
    """The IDs behind key texts that `encode_id` made: what `decode_id` gives, without its check."""
    numbers = ("\0" + "\0".join(keys)).split("\0#")
    if len(numbers) == len(keys) + 1 and not numbers[0]:  # it seems that all are integers
        with contextlib.suppress(ValueError):
            return list(map(int, numbers[1:]))
    return [key if key[:1] != "#" else key[1:] if key[1] == "#" else int(key[1:]) for key in keys]
