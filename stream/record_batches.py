"""Records of fetched batches, a batch at a time and nothing of a record but what is used: offset and value.

kafka-python makes two objects of thirteen fields of every record, read by a function call per number; that
is most of what a message alone in its record costs. `read_batches` gives one consumer a reader of its own
for batches of the present format (magic 2, KIP-98); checksums, compression, positions and whatever else
there is about fetching stay the library's. Keys, headers and times of records are not read: no
contract of these topics has any use for them.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError

_MAGIC = 2


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record: its offset in the partition, and its value (None: a tombstone)."""

    offset: int
    value: bytes | None


def read_batches(consumer: KafkaConsumer) -> None:
    """Have `consumer` (kafka-python 3.0, isolation read_uncommitted) poll Records."""
    consumer._fetcher.PartitionRecords = PartitionBatches


def records_of(buffer: bytes, at: int, count: int, base_offset: int) -> list[Record]:
    """`count` records that lie in `buffer` (uncompressed) from `at` to its end.

    Raises ValueError where they do not fit.
    """
    records = []
    try:
        for _ in range(count):
            # A number is in zigzag code, seven bits a byte, nearly always of one byte: written out, for the
            # call of a function costs as much as the rest.
            length = buffer[at]
            at += 1
            if length > 127:
                length, at = _longer(buffer, length, at)
            end = at + (length >> 1)
            at += 1  # attributes, of which there are none yet
            while buffer[at] > 127:  # time since the batch's first, not read
                at += 1
            delta = buffer[at + 1]
            at += 2
            if delta > 127:
                delta, at = _longer(buffer, delta, at)
            key = buffer[at]
            at += 1
            if key > 127:
                key, at = _longer(buffer, key, at)
            if not key & 1:
                at += key >> 1
            size = buffer[at]
            at += 1
            if size > 127:
                size, at = _longer(buffer, size, at)
            behind = at if size & 1 else at + (size >> 1)
            if not behind < end <= len(buffer) or (length | delta) & 1:  # a number of headers follows
                raise ValueError(f"a record that ends at {end} of {len(buffer)} bytes, its value at {behind}")
            records.append(Record(base_offset + (delta >> 1), None if size & 1 else buffer[at:behind]))
            at = end
    except IndexError:
        raise ValueError(f"a record goes on behind the end, at {len(buffer)} bytes") from None
    if at != len(buffer):
        raise ValueError(f"{len(buffer) - at} bytes behind the last record")
    return records


def _longer(buffer: bytes, first: int, at: int) -> tuple[int, int]:
    """(the whole of a number whose first byte was not its last, still in zigzag code; where it ends)."""
    value, shift = first & 127, 7
    while buffer[at] > 127:
        value |= (buffer[at] & 127) << shift
        shift += 7
        at += 1
    return value | buffer[at] << shift, at + 1


class PartitionBatches(Fetcher.PartitionRecords):  # type: ignore[misc]
    """What was fetched of one partition."""

    def _unpack_records(self, tp: TopicPartition, records: Any, *deserializers: Any) -> Iterator[Any]:
        batch = records.next_batch()
        while batch is not None:
            where = f"{tp.topic} partition {tp.partition}, batch at offset {batch.base_offset}"
            if self.check_crcs and not batch.validate_crc():
                raise CorruptRecordError(f"{where}: its checksum is wrong")
            if batch.magic != _MAGIC:
                raise CorruptRecordError(
                    f"{where}: expected record format {_MAGIC} (Kafka 0.11 or newer), got {batch.magic}"
                )
            self.leader_epoch = batch.leader_epoch
            if not batch.is_control_batch:
                batch._maybe_uncompress()
                content = bytes(batch._buffer)
                try:
                    for record in records_of(content, batch._pos, batch.records_count, batch.base_offset):
                        self.next_fetch_offset = record.offset + 1
                        yield record
                except ValueError as error:
                    raise CorruptRecordError(f"{where}: {error}") from error
                self.records_read += batch.records_count
                self.bytes_read += len(content)
            self.next_fetch_offset = batch.next_offset  # compaction may have taken the last records
            batch = records.next_batch()
        self.drain()
