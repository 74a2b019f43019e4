"""Lines that are appended for ever in bounded room: the present file, and the one before it.

A file that would grow beyond half of the room becomes `<name>.1`, in the place of the one before. That is one
rename: whenever the process dies, the newest half is there, and no line is there twice.
"""

import os
from pathlib import Path

_BLOCK_BYTES = 65_536


def make_room(path: Path, held_bytes: int, more_bytes: int, limit_bytes: int) -> bool:
    """Before so many more bytes are appended to `path`, which holds so many: whether it made way for a new
    file, because both files together would otherwise pass the limit. Who has it open opens it again.

    Lines that are longer than half of the room stand alone in a file.
    """
    if not held_bytes or held_bytes + more_bytes <= limit_bytes // 2:
        return False
    if path.exists():  # not where an earlier attempt got no further
        path.rename(before(path))
    return True


def before(path: Path) -> Path:
    """Where the file before `path` is kept."""
    return path.with_name(f"{path.name}.1")


def lines_of(path: Path) -> list[bytes]:
    """The whole lines of both files, oldest first."""
    files = [file for file in (before(path), path) if file.exists()]
    return [line for file in files for line in file.read_bytes().splitlines(True) if line.endswith(b"\n")]


def cut_torn_line(path: Path) -> None:
    """Cut what stands behind the last whole line, which a crash left there."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        begin = size = file.seek(0, os.SEEK_END)
        whole = 0
        while begin and not whole:
            end, begin = begin, max(0, begin - _BLOCK_BYTES)
            file.seek(begin)
            place = file.read(end - begin).rfind(b"\n")
            whole = begin + place + 1 if place >= 0 else 0
        if whole < size:
            file.truncate(whole)
