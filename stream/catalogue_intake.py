"""From the catalogue topics into the catalogue, and user attributes into the profiles."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

import pyarrow as pa

from stream.catalogue import ITEMS, USERS, Catalogue, CatalogueWriter
from stream.change import Change, decode_changes, plain_text, to_batch
from stream.dead_letters import DeadLetters, dead_letter
from stream.errors import Unreachable
from stream.keys import encode_id
from stream.profiles import Profiles
from stream.reader import Chunk, Reader
from stream.topics import KafkaConfig

log = logging.getLogger(__name__)
RETRY_S = 0.5
CHECK_S = 5.0
"""How often to ask whether the store still holds the users' attributes."""


class CatalogueIntake:
    """One loop over the topics of items and of users."""

    def __init__(
        self,
        kafka: KafkaConfig,
        catalogue: CatalogueWriter,
        profiles: Profiles | None,
        dead_letters: DeadLetters,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Every archiver needs the whole catalogue, so it is never shared out within a group.
        group = {"assignment": "all", "group_id": f"{kafka.group_id}-catalogue"}
        self.kafka = kafka.model_copy(update=group)
        self._catalogue, self._profiles, self._dead_letters = catalogue, profiles, dead_letters
        self._clock = clock
        self._names = {kafka.items: ITEMS, kafka.users: USERS}
        self._check_at = clock()
        self.changes = 0
        """Changes taken in by this process."""

    def run(self, stop: threading.Event) -> None:
        """Take changes in until `stop` is set. Raises Unreachable if the broker is away at the start."""
        reader = Reader(self.kafka, [self.kafka.items, self.kafka.users], self._starts, self._clock)
        try:
            while not stop.is_set():
                chunks = reader.take(0.05)
                for chunk in chunks:
                    self._take_in(chunk, stop)
                if chunks and not stop.is_set():
                    reader.done(chunks)
                self._repair()
        finally:
            reader.close()

    def _take_in(self, chunk: Chunk, stop: threading.Event) -> None:
        changes: list[Change] = []
        letters = []
        for record in chunk.records:
            good, bad = decode_changes(record.value or b"")
            changes += good
            letters += [
                dead_letter(
                    b.reason, b.detail, chunk.topic, chunk.partition, record.offset, b.ordinal, b.content
                )
                for b in bad
            ]
        self._dead_letters.add(letters)
        name = self._names[chunk.topic]
        place = (self._catalogue.incarnation(chunk.topic_id), chunk.partition)
        batch: pa.RecordBatch = to_batch(changes)
        if name == USERS and self._profiles is not None:
            # Before the position moves: setting attributes twice does no harm, losing them would.
            while not self._applied(self._profiles, changes):
                if stop.wait(RETRY_S):
                    return
        self._catalogue.append(name, batch, {place: chunk.records[-1].offset + 1})
        self.changes += len(changes)

    def _repair(self) -> None:
        """Give a store that lost its memory the attributes of all users again."""
        if self._profiles is None or self._clock() < self._check_at:
            return
        self._check_at = self._clock() + CHECK_S
        try:
            if self._profiles.holds_attributes():
                return
            users = Catalogue(self._catalogue.root).users_table()
            for first in range(0, users.num_rows, 10_000):
                rows = users.slice(first, 10_000).to_pylist()
                self._profiles.set_attributes({row.pop("user_id"): _known(row) for row in rows})
            self._profiles.attributes_set()
        except Unreachable as error:
            log.warning("user attributes wait: %s", error)

    def _applied(self, profiles: Profiles, changes: Sequence[Change]) -> bool:
        try:
            profiles.set_attributes(_texts(changes))
        except Unreachable as error:
            log.warning("user attributes wait: %s", error)
            return False
        return True

    def _starts(self, topic: str, topic_id: str) -> dict[int, int]:
        incarnation = self._catalogue.incarnation(topic_id)
        held = self._catalogue.next_offsets(self._names[topic])
        return {p: offset for (i, p), offset in held.items() if i == incarnation}


def _texts(changes: Sequence[Change]) -> dict[str, dict[str, str] | None]:
    return {
        encode_id(c.id): None if c.deleted else {n: plain_text(v) for n, v in c.attributes.items()}
        for c in changes
    }


def _known(row: dict[str, str | int | float | None]) -> dict[str, str]:
    return {name: plain_text(value) for name, value in row.items() if value is not None}
