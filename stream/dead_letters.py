"""Dead letters: what could not be taken in, with reason and position, in two files and in a topic.

The newest are kept, in bounded room (stream/two_files.py): a producer that sends nothing but nonsense fills
no disk. The file is written and fsynced before the position moves on, so a bad message is recorded at least
once. The topic is a copy for consumers elsewhere; a broker that refuses it is logged, and stops nothing.
"""

import base64
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from stream.segment import sync_directory
from stream.two_files import cut_torn_line, lines_of, make_room

log = logging.getLogger(__name__)
CONTENT_LIMIT_BYTES = 1024
DEAD_LETTER_BYTES = 268_435_456


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
    """The files `dead.jsonl` and `dead.jsonl.1`, one JSON object per line, and optionally the topic."""

    def __init__(
        self,
        path: Path,
        publish: Callable[[bytes], None] | None = None,
        limit_bytes: int = DEAD_LETTER_BYTES,
        step: Callable[[str], None] = lambda name: None,
    ) -> None:
        """Append to `path`; `publish` sends one JSON record to the topic. limit_bytes: of both files, beyond
        which the older goes. `step` is told each step just done, for crash tests.
        """
        self.path, self._limit_bytes, self._step = path, limit_bytes, step
        self.counts: Counter[str] = Counter()
        """Dead letters of this process by reason."""
        self._publish = publish
        self._mutex = threading.Lock()  # events and catalogue changes are taken in by two threads
        path.parent.mkdir(parents=True, exist_ok=True)
        cut_torn_line(path)

    def add(self, letters: Sequence[DeadLetter]) -> None:
        """Record them durably."""
        if not letters:
            return
        lines = [msgspec.json.encode(letter) for letter in letters]
        with self._mutex:
            self._append(b"\n".join(lines) + b"\n")
            self.counts.update(letter.reason for letter in letters)
            if self._publish is not None:
                try:
                    for line in lines:
                        self._publish(line)
                except Exception:
                    log.exception("dead letters are in %s but could not be published", self.path)

    def read(self) -> list[DeadLetter]:
        """All letters that are kept, oldest first."""
        return [msgspec.json.decode(line, type=DeadLetter) for line in lines_of(self.path)]

    def _append(self, lines: bytes) -> None:
        held_bytes = self.path.stat().st_size if self.path.exists() else 0
        if make_room(self.path, held_bytes, len(lines), self._limit_bytes):
            self._step("made room")
        with self.path.open("ab") as file:
            begun = not file.tell()
            file.write(lines)
            file.flush()
            self._step("written")
            os.fsync(file.fileno())
        if begun:
            sync_directory(self.path.parent)
        self._step("synced")
