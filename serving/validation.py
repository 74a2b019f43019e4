"""From request bytes to a typed request, or to an error that names the field, the expected and the found
value.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from serving.errors import BadRequest
from serving.schema import PostedEvent
from stream.event import KINDS_WITHOUT_ITEM
from stream.keys import ID_LIMIT_BYTES, encode_id

T = TypeVar("T")
_MESSAGE = re.compile(r"^(?P<what>.*?)(?: - at `(?P<where>[^`]*)`)?$", re.S)
_EXPECTED = re.compile(r"^Expected (?P<expected>.*?)(?:, got (?P<got>.*))?$", re.S)


def decode(decoder: Callable[[bytes], T], body: bytes) -> T:
    """Decode a JSON body. Raises BadRequest."""
    try:
        return decoder(body)
    except msgspec.ValidationError as error:
        raise _explained(str(error), body) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest("the body is not JSON", "$", "a JSON object", f"{error}") from error


def key_text(identifier: int | str, where: str) -> str:
    """Key text of an ID of a request. Raises BadRequest for one over 256 bytes."""
    try:
        return encode_id(identifier)
    except ValueError as error:
        raise BadRequest(
            "not an ID", where, "int64 or a UTF-8 string of 1 to 256 bytes", str(error)
        ) from error


def check_event(event: PostedEvent, where: str) -> None:
    """What the stream would only find out later, when the client is gone. Raises BadRequest."""
    key_text(event.user_id, f"{where}.user_id")
    if event.item_id is not None:
        key_text(event.item_id, f"{where}.item_id")
    elif event.kind not in KINDS_WITHOUT_ITEM:
        raise BadRequest("missing field", f"{where}.item_id", f"the item of a {event.kind}", "nothing")
    for name in ("event_id", "scene", "request_id"):
        size = len(getattr(event, name).encode())
        if size > ID_LIMIT_BYTES:
            raise BadRequest(
                "invalid value", f"{where}.{name}", f"at most {ID_LIMIT_BYTES} bytes", f"{size} bytes"
            )


def whole_number(text: str, where: str, low: int, high: int) -> int:
    """A number of a query string. Raises BadRequest."""
    if not re.fullmatch(r"-?\d{1,18}", text) or not low <= int(text) <= high:
        raise BadRequest("invalid value", where, f"a whole number from {low} to {high}", repr(text[:100]))
    return int(text)


def _explained(message: str, body: bytes) -> BadRequest:
    parts = _MESSAGE.match(message)
    what, where = (parts["what"], parts["where"] or "$") if parts else (message, "$")
    expected = _EXPECTED.match(what)
    if expected:
        found = expected["got"] or _shown(_value_at(body, where))
        return BadRequest(
            "invalid value", where, expected["expected"].replace("`", ""), found.replace("`", "")
        )
    field = re.search(r"`([^`]*)`", what)
    name = field[1] if field else ""
    if "unknown field" in what:
        return BadRequest("unknown field", f"{where}.{name}", "only fields of the schema", repr(name))
    if "missing required field" in what:
        return BadRequest("missing field", f"{where}.{name}", "a value", "nothing")
    return BadRequest(what, where, "a value of the schema", _shown(_value_at(body, where)))


def _value_at(body: bytes, where: str) -> Any:
    """The value at a path such as `$.exclude[3]`; the whole body when it cannot be followed."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body[:100].decode(errors="replace")  # wrong further on, too
    for name, index in re.findall(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]", where):
        try:
            value = value[name] if name else value[int(index)]
        except (KeyError, IndexError, TypeError, ValueError):
            break
    return value


def _shown(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 100 else text[:100] + "…"
