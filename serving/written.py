"""Answers whose items are written already (models/items_json.py)."""

import msgspec

from serving.schema import RecallAnswer, RecalledItem

_ENCODE = msgspec.json.Encoder().encode
_ITEMS = msgspec.json.Decoder(list[RecalledItem]).decode
_BEFORE_ITEMS = len(b'{"items":[')


def answer_json(answer: RecallAnswer, items: bytes = b"") -> bytes:
    """An answer as JSON; items: those of an answer that holds none, as items_json() gives them."""
    content = _ENCODE(answer)
    return content[:_BEFORE_ITEMS] + items + content[_BEFORE_ITEMS:] if items else content


def with_items(answer: RecallAnswer, items: bytes) -> RecallAnswer:
    """The answer that such JSON says."""
    return msgspec.structs.replace(answer, items=_ITEMS(b"[" + items + b"]")) if items else answer
