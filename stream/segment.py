"""A framed file: append-only, checksummed, fsynced; a torn tail is found and cut.

    file  = header frame*            header = b"FRLOG001"
    frame = magic(4) length(u32) crc32c(u32) payload        little endian

The checksum covers the frame's own place in the file, its length and its payload, so neither stale bytes nor
frames copied to another place pass for valid. Every append is fsynced before it returns: a crash can tear the
last frame only. A damaged frame with a valid one after it is therefore not a torn tail but corruption, and
raises.
"""

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from crc32c import crc32c

from stream.errors import CorruptLog

HEADER = b"FRLOG001"
_MAGIC = b"\xf5FrE"
_FRAME = struct.Struct("<4sII")
_PLACE = struct.Struct("<QI")
FRAME_LIMIT_BYTES = 2**31


def frame(payload: bytes | memoryview, place: int) -> bytes:
    """Head of a frame for `payload` that will stand at byte `place`."""
    checksum = crc32c(payload, crc32c(_PLACE.pack(place, len(payload))))
    return _FRAME.pack(_MAGIC, len(payload), checksum)


def frame_at(data: memoryview, place: int, begin: int = 0) -> memoryview | None:
    """The payload of the frame at byte `place` of `data`, or None if no whole valid frame stands there.

    begin: where in the file `data` begins.
    """
    if place + _FRAME.size > len(data):
        return None
    magic, length, checksum = _FRAME.unpack_from(data, place)
    payload = data[place + _FRAME.size : place + _FRAME.size + length]
    if magic != _MAGIC or len(payload) != length:
        return None
    expected = crc32c(payload, crc32c(_PLACE.pack(begin + place, length)))
    return payload if expected == checksum else None


def read_frames(data: bytes | memoryview) -> Iterator[tuple[int, memoryview]]:
    """(place of the next frame, payload) for each valid frame; stops at the first that is not."""
    view = memoryview(data)
    place = len(HEADER)
    if bytes(view[:place]) != HEADER:
        return
    while (payload := frame_at(view, place)) is not None:
        place += _FRAME.size + len(payload)
        yield place, payload


def read_frames_after(path: Path, place: int) -> Iterator[tuple[int, memoryview]]:
    """`read_frames` of what the file holds from byte `place` on, the end of a frame or 0; an absent file
    holds nothing. Neither time nor memory grows with what came before.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        if file.read(len(HEADER)) != HEADER:
            return
        begin = file.seek(max(place, len(HEADER)))
        data, at = memoryview(file.read()), 0
    while (payload := frame_at(data, at, begin)) is not None:
        at += _FRAME.size + len(payload)
        yield begin + at, payload


def valid_length(data: bytes | memoryview, path: Path) -> int:
    """Bytes of `data` that are whole frames; 0 if not even the header is whole.

    Raises CorruptLog if something valid follows the first invalid byte, or if the header is of another
    format.
    """
    view = memoryview(data)
    if not HEADER.startswith(bytes(view[: len(HEADER)])):
        raise CorruptLog(
            f"{path}: not a log of this format; expected {HEADER!r} at its start, got {bytes(view[:8])!r}; "
            "move the file away or restore it from a copy"
        )
    if len(view) < len(HEADER):
        return 0
    end = max((after for after, _ in read_frames(view)), default=len(HEADER))
    rest = bytes(view[end:])
    found = rest.find(_MAGIC, 1)
    while found >= 0:
        if frame_at(view, end + found) is not None:
            raise CorruptLog(
                f"{path}: the frame at byte {end} is damaged, yet a whole one follows at {end + found}; "
                "this is no torn tail: restore the file from a copy"
            )
        found = rest.find(_MAGIC, found + 1)
    return end


class FramedLog:
    """The writing end of a framed file. Opening cuts a torn tail; `append` returns after fsync."""

    def __init__(self, path: Path, step: Callable[[str], None] = lambda name: None) -> None:
        """Open or create `path`. `step` is told the name of each step just done, for crash tests."""
        self.path = path
        self._step = step
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._failed = False
        data = path.read_bytes()
        self.size = valid_length(data, path)
        self.cut_bytes = len(data) - self.size
        if self.size < len(data):
            os.ftruncate(self._file, self.size)
        if self.size == 0:
            os.pwrite(self._file, HEADER, 0)
            self.size = len(HEADER)
        os.fsync(self._file)
        sync_directory(path.parent)

    def append(self, payload: bytes | memoryview) -> None:
        """Add one frame, durably. After an error (disk full, I/O) the file is cut back or refuses writes."""
        if self._failed:
            raise OSError(f"{self.path}: an earlier write failed and could not be undone; reopen the log")
        if len(payload) >= FRAME_LIMIT_BYTES:
            raise ValueError(
                f"{self.path}: frame of {len(payload)} bytes; expected under {FRAME_LIMIT_BYTES}"
            )
        head = frame(payload, self.size)
        try:
            _write_all(self._file, head, self.size)
            self._step("head written")
            _write_all(self._file, payload, self.size + len(head))
            self._step("payload written")
            os.fsync(self._file)
        except OSError:
            self._undo()
            raise
        self.size += len(head) + len(payload)
        self._step("synced")

    def frames(self) -> list[memoryview]:
        """The payloads of all frames, read back from the file."""
        return [payload for _, payload in read_frames(self.path.read_bytes())]

    def close(self) -> None:
        """Close the file; everything appended is already durable."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _undo(self) -> None:
        # After a failed fsync the kernel may have dropped dirty pages, so what the file holds is unknown.
        self._failed = True
        os.ftruncate(self._file, self.size)
        os.fsync(self._file)
        self._failed = False


def write_log(path: Path, payloads: list[bytes | memoryview]) -> None:
    """Replace `path` by a log of these frames: written aside, fsynced, renamed, directory fsynced."""
    aside = path.with_name(path.name + ".tmp")
    with aside.open("wb") as file:
        file.write(HEADER)
        for payload in payloads:
            file.write(frame(payload, file.tell()))
            file.write(payload)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)
    sync_directory(path.parent)


def write_file(path: Path, content: bytes) -> None:
    """Replace `path` by `content`: written aside, fsynced, renamed, directory fsynced."""
    aside = path.with_name(path.name + ".tmp")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames and creations inside a directory durable."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _write_all(file: int, data: bytes | memoryview, place: int) -> None:
    view = memoryview(data)
    while len(view):
        written = os.pwrite(file, view, place)
        view, place = view[written:], place + written
