"""Against kafka-python's own reading of the same bytes."""

import struct

import crc32c
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from kafka.record.memory_records import MemoryRecords

from stream.record_batches import PartitionBatches, Record, records_of

PLACE = TopicPartition("events", 3)
NONE, GZIP = DefaultRecordBatch.CODEC_NONE, DefaultRecordBatch.CODEC_GZIP
HEADERS = [("trace", b"1"), ("empty", None)]
PART = st.one_of(st.none(), st.binary(max_size=300))
RECORD = st.tuples(
    st.integers(0, 70_000), st.integers(0, 1 << 41), PART, PART, st.sampled_from([[], HEADERS])
)


def batch_of(records, base=0, compression=NONE, control=False):
    """The bytes of one batch of (offset, ts_ms, key, value, headers)."""
    builder = DefaultRecordBatchBuilder(2, compression, 0, -1, -1, -1, 1 << 24)
    for offset, ts_ms, key, value, headers in records:
        builder.append(offset, ts_ms, key, value, headers)
    content = bytearray(builder.build())
    struct.pack_into(">q", content, 0, base)
    if control:
        content[22] |= DefaultRecordBatch.CONTROL_MASK
        struct.pack_into(">I", content, 17, crc32c.crc32c(bytes(content[21:])))
    return bytes(content)


def partition(kind, content, fetch_offset=0):
    drained = []
    records = MemoryRecords(content)
    return kind(fetch_offset, PLACE, records, on_drain=drained.append), drained


def everything(kind, content, fetch_offset=0, n=None):
    """(offset, value) of all records, and the positions after every piece of n."""
    part, drained = partition(kind, content, fetch_offset)
    found, positions = [], []
    while part:
        found += [(record.offset, record.value) for record in part.take(n)]
        positions.append(part.next_fetch_offset)
    assert drained == [part]
    return found, positions


@settings(max_examples=200, deadline=None)
@given(st.lists(RECORD, min_size=1, max_size=20), st.integers(0, 1 << 40))
def test_records_are_those_that_the_library_reads(given_records, base):
    in_order = sorted(given_records, key=lambda record: record[0])
    # Offsets within a batch are differences to its first; compaction leaves gaps.
    placed = [(offset - in_order[0][0], *rest) for offset, *rest in in_order]
    content = batch_of(placed, base)
    expected = [(record.offset, record.value) for record in DefaultRecordBatch(content)]
    batch = DefaultRecordBatch(content)
    found = records_of(content, batch._pos, batch.records_count, base)
    assert [(record.offset, record.value) for record in found] == expected


def stream(compression=NONE):
    """Three batches, the middle one a control batch."""
    first = [(at, 1_000 + at, b"key", b"a%d" % at, []) for at in range(5)]
    last = [(at, 9_000 + at, None, None if at == 1 else b"b%d" % at, HEADERS) for at in range(4)]
    return (
        batch_of(first, 10, compression)
        + batch_of([(0, 2_000, b"\0\0\0\1", b"\0\0\0\0\0\0", [])], 15, control=True)
        + batch_of(last, 16, compression)
    )


@pytest.mark.parametrize("compression", [NONE, GZIP])
@pytest.mark.parametrize("n", [None, 1, 3])
@pytest.mark.parametrize("fetch_offset", [10, 13, 17])
def test_a_partition_is_read_as_the_library_does_piece_by_piece(compression, n, fetch_offset):
    content = stream(compression)
    assert everything(PartitionBatches, content, fetch_offset, n) == everything(
        Fetcher.PartitionRecords, content, fetch_offset, n
    )


def test_a_wrong_checksum_is_told_with_its_place():
    content = bytearray(stream())
    content[70] ^= 1
    with pytest.raises(CorruptRecordError, match="events partition 3, batch at offset 10: its checksum"):
        everything(PartitionBatches, bytes(content), 10)


def test_what_came_before_a_broken_batch_is_handed_out_first():
    whole, broken = batch_of([(0, 1, None, b"a", [])], 0), bytearray(batch_of([(0, 1, None, b"b", [])], 1))
    broken[-1] ^= 1
    part, _ = partition(PartitionBatches, whole + bytes(broken))
    assert part.take() == [Record(0, b"a")]
    assert part.next_fetch_offset == 1
    with pytest.raises(CorruptRecordError):
        part.take()


def test_another_record_format_is_refused():
    content = bytearray(stream())
    content[16] = 3
    with pytest.raises(CorruptRecordError, match="expected record format 2"):
        everything(PartitionBatches, bytes(content), 10)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_broken_records_are_an_error_of_that_kind_or_records(data):
    content = bytearray(batch_of([(at, 5_000 * at, b"k", b"v" * 90, HEADERS) for at in range(6)]))
    start = DefaultRecordBatch(bytes(content))._pos
    cut = data.draw(st.integers(start, len(content)))
    at = data.draw(st.integers(start, len(content) - 1))
    content[at] = data.draw(st.integers(0, 255))
    try:
        found = records_of(bytes(content[:cut]), start, 6, 0)
    except ValueError:
        return
    assert len(found) == 6


@pytest.mark.parametrize("count", [1, 3])
def test_another_number_of_records_than_announced_is_an_error(count):
    content = batch_of([(at, at, None, b"v", []) for at in range(2)])
    with pytest.raises(ValueError, match="behind the"):
        records_of(content, DefaultRecordBatch(content)._pos, count, 0)
