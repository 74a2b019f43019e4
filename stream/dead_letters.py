"""Dead letters: what could not be taken in, with reason and position, in a file and in a topic.

The file is written and fsynced before the position moves on, so a bad message is recorded at least once. The
topic is a copy for consumers elsewhere; a broker that refuses it is logged, and stops nothing.
"""

import base64
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

log = logging.getLogger(__name__)
CONTENT_LIMIT_BYTES = 1024


class DeadLetter(msgspec.Struct, frozen=True):
    """One refused event. `content` is base64 of its first 1024 bytes, `content_bytes` its whole length."""

    reason: str
    detail: str
    topic: str
    partition: int
    offset: int
    ordinal: int
    content: str
    content_bytes: int


def dead_letter(
    reason: str, detail: str, topic: str, partition: int, offset: int, ordinal: int, content: bytes
) -> DeadLetter:
    """A dead letter of these bytes."""
    head = base64.b64encode(content[:CONTENT_LIMIT_BYTES]).decode()
    return DeadLetter(reason, detail[:500], topic, partition, offset, ordinal, head, len(content))


class DeadLetters:
    """The file `dead.jsonl`, one JSON object per line, and optionally the topic."""

    def __init__(self, path: Path, publish: Callable[[bytes], None] | None = None) -> None:
        """Append to `path`; `publish` sends one JSON record to the topic."""
        self.path = path
        self.counts: Counter[str] = Counter()
        """Dead letters of this process by reason."""
        self._publish = publish
        self._mutex = threading.Lock()  # events and catalogue changes are taken in by two threads
        path.parent.mkdir(parents=True, exist_ok=True)
        self._cut_torn_line()

    def add(self, letters: Sequence[DeadLetter]) -> None:
        """Record them durably."""
        if not letters:
            return
        lines = [msgspec.json.encode(letter) for letter in letters]
        with self._mutex:
            with self.path.open("ab") as file:
                file.write(b"\n".join(lines) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            self.counts.update(letter.reason for letter in letters)
            if self._publish is not None:
                try:
                    for line in lines:
                        self._publish(line)
                except Exception:
                    log.exception("dead letters are in %s but could not be published", self.path)

    def read(self) -> list[DeadLetter]:
        """All letters in the file."""
        if not self.path.exists():
            return []
        return [msgspec.json.decode(line, type=DeadLetter) for line in self.path.read_bytes().splitlines()]

    def _cut_torn_line(self) -> None:
        if self.path.exists():
            data = self.path.read_bytes()
            whole = data.rfind(b"\n") + 1
            if whole < len(data):
                os.truncate(self.path, whole)
