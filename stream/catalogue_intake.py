"""From the catalogue topics into the catalogue, and user attributes into the profiles."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

import msgspec
import pyarrow as pa

from stream.catalogue import ITEMS, USERS, CatalogueWriter
from stream.change import Change, decode_changes, to_batch
from stream.dead_letters import DeadLetters, dead_letter
from stream.errors import Unreachable
from stream.keys import encode_id
from stream.profiles import Profiles
from stream.reader import Chunk, Reader
from stream.topics import KafkaConfig

log = logging.getLogger(__name__)
RETRY_S = 0.5


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
        encode_id(c.id): None
        if c.deleted
        else {
            n: v if isinstance(v, str) else msgspec.json.encode(v).decode() for n, v in c.attributes.items()
        }
        for c in changes
    }
