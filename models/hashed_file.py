"""sha256 of files: of what lies there, and of what is being written, in a thread beside the writing."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np

_BLOCK_BYTES = 1 << 24


class HashedFile:
    """Writes to an unbuffered binary file. Neither side holds the interpreter lock: on two cores both take
    the time of the slower one.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.size = 0
        self._file, self._digest = file, hashlib.sha256()
        self._thread = ThreadPoolExecutor(1, "sha256")
        self._hashing: Future[None] | None = None

    def __enter__(self) -> HashedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the thread; the file stays open."""
        self._thread.shutdown()

    def write(self, part: bytes | memoryview) -> None:
        """Write all of it, bytes one after another. It is still read until the next call."""
        self._wait()
        self._hashing = self._thread.submit(self._digest.update, part)
        left = memoryview(part)
        self.size += len(left)
        while len(left):  # the kernel writes 2 GiB at most
            left = left[self._file.write(left) :]

    def hexdigest(self) -> str:
        """sha256 of what was written."""
        self._wait()
        return self._digest.hexdigest()

    def _wait(self) -> None:
        if self._hashing is not None:
            self._hashing.result()
            self._hashing = None


def sha256_of(path: Path) -> str:
    """Hex of what a file holds. Raises OSError.

    In few calls: where other threads work, each waits for the interpreter lock, and makes them wait after it.
    """
    digest, block = hashlib.sha256(), np.empty(_BLOCK_BYTES, np.uint8).data  # not filled with zeros before
    with path.open("rb", buffering=0) as file:
        while read := file.readinto(block):
            digest.update(block[:read])
    return digest.hexdigest()
