"""Bounded room for lines: the newest are there, each once, whenever the writer dies."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.dead_letters import DeadLetters, dead_letter
from stream.two_files import before, cut_torn_line, lines_of, make_room

ROOM = 2_000


def letter(n: int, size: int = 20):
    return dead_letter("malformed", "", "events", 0, n, 0, b"x" * size)


def offsets(letters: DeadLetters) -> list[int]:
    return [one.offset for one in letters.read()]


@given(st.lists(st.integers(1, 1_500), max_size=40))
def test_the_newest_lines_stay_within_the_room(tmp_path_factory, sizes):
    root = tmp_path_factory.mktemp("lines")
    path, written = root / "a.jsonl", []
    for n, size in enumerate(sizes):
        line = f"{n:04d}".encode().ljust(size, b".")[: max(size, 4)] + b"\n"
        if make_room(path, path.stat().st_size if path.exists() else 0, len(line), ROOM):
            assert not path.exists()
        with path.open("ab") as file:
            file.write(line)
        written.append(line)
    kept = lines_of(path)
    assert kept == written[len(written) - len(kept) :]
    for file in root.iterdir():
        assert file.stat().st_size <= max(ROOM // 2, len(file.read_bytes().splitlines(True)[0]))
    if len(kept) < len(written):  # what went was one line too many for a file that was full
        assert sum(map(len, kept)) + len(written[-len(kept) - 1]) > ROOM // 2


@pytest.mark.parametrize(
    "content", [b"", b"torn", b"a\n", b"a\nb", b"a\n" * 50_000 + b"c" * 200_000, b"d" * 200_000]
)
def test_a_torn_line_is_cut(tmp_path, content):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    cut_torn_line(path)
    assert path.read_bytes() == content[: content.rfind(b"\n") + 1]
    cut_torn_line(tmp_path / "absent")


class Crash(BaseException):
    pass


def test_dead_letters_after_a_crash_at_any_step(tmp_path):
    """What add() returned for is there while its half of the room lasts; nothing is there twice but what was
    written and not acknowledged.
    """
    told = []
    calm = DeadLetters(tmp_path / "calm" / "dead.jsonl", limit_bytes=ROOM, step=told.append)
    for n in range(30):
        calm.add([letter(n)])
    assert "made room" in told
    expected = offsets(calm)
    assert expected == list(range(30 - len(expected), 30))
    assert len(expected) >= 5
    for number in range(1, len(told) + 1):
        path, count = tmp_path / f"{number}" / "dead.jsonl", [0]

        def step(name, count=count, number=number):
            count[0] += 1
            if count[0] == number:
                raise Crash(name)

        letters, acknowledged = DeadLetters(path, limit_bytes=ROOM, step=step), -1
        try:
            for n in range(30):
                letters.add([letter(n)])
                acknowledged = n
        except Crash:
            pass
        found = offsets(letters)
        newest = max(found, default=-1)
        assert newest in (acknowledged, acknowledged + 1)
        assert found == list(range(newest - len(found) + 1, newest + 1))
        again = DeadLetters(path, limit_bytes=ROOM)
        for n in range(newest + 1, 30):
            again.add([letter(n)])
        assert offsets(again)[-4:] == expected[-4:]
        assert sum(file.stat().st_size for file in path.parent.iterdir()) <= ROOM


def test_a_file_that_an_operator_deletes_is_begun_anew(tmp_path: Path):
    letters = DeadLetters(tmp_path / "dead.jsonl", limit_bytes=ROOM)
    letters.add([letter(1)])
    letters.path.unlink()
    letters.add([letter(2), letter(3)])
    assert offsets(letters) == [2, 3]
    assert not before(letters.path).exists()
    assert json.loads(letters.path.read_bytes().splitlines()[0])["offset"] == 2
