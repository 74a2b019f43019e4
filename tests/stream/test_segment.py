import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.errors import CorruptLog
from stream.segment import FramedLog, read_frames, read_frames_after, write_log


def contents(path):
    log = FramedLog(path)
    try:
        return [bytes(f) for f in log.frames()]
    finally:
        log.close()


def test_torn_tail_cut_at_every_byte(tmp_path):
    path = tmp_path / "log"
    log = FramedLog(path)
    ends = []
    for payload in (b"one", b"", b"three three"):
        log.append(payload)
        ends.append(log.size)
    log.close()
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        kept = [b"one", b"", b"three three"][: sum(end <= cut for end in ends)]
        assert contents(path) == kept
        log = FramedLog(path)  # and it goes on from there
        log.append(b"next")
        log.close()
        assert contents(path) == [*kept, b"next"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=50), max_size=5), st.binary(max_size=60), st.data())
def test_garbage_after_the_last_frame_is_cut(tmp_path_factory, payloads, garbage, data):
    path = tmp_path_factory.mktemp("log") / "log"
    write_log(path, payloads)
    path.write_bytes(path.read_bytes() + garbage)
    assert contents(path) == payloads


def test_a_frame_copied_elsewhere_is_not_valid(tmp_path):
    path = tmp_path / "log"
    write_log(path, [b"aaaa"])
    whole = path.read_bytes()
    path.write_bytes(whole + whole[8:])
    assert contents(path) == [b"aaaa"]


def test_damage_before_a_valid_frame_is_refused(tmp_path):
    path = tmp_path / "log"
    write_log(path, [b"first", b"second"])
    damaged = bytearray(path.read_bytes())
    damaged[22] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(CorruptLog, match="damaged"):
        FramedLog(path)
    assert path.read_bytes() == bytes(damaged)


def test_another_format_is_refused(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"FRLOG999 and more")
    with pytest.raises(CorruptLog, match="FRLOG001"):
        FramedLog(path)


def test_a_failed_write_leaves_no_half_frame(tmp_path, monkeypatch):
    log = FramedLog(tmp_path / "log")
    log.append(b"one")

    def full(name):
        if name == "head written":
            raise OSError(28, "No space left on device")

    log._step = full
    with pytest.raises(OSError, match="space"):
        log.append(b"two")
    log._step = lambda name: None
    log.append(b"three")
    log.close()
    assert contents(tmp_path / "log") == [b"one", b"three"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=50), max_size=6), st.binary(max_size=20), st.data())
def test_reading_what_is_new_is_reading_all(tmp_path_factory, payloads, garbage, data):
    path = tmp_path_factory.mktemp("log") / "log"
    assert list(read_frames_after(path, 0)) == []
    write_log(path, payloads)
    path.write_bytes(path.read_bytes() + garbage)
    whole = list(read_frames(path.read_bytes()))
    assert list(read_frames_after(path, 0)) == whole
    place = data.draw(st.sampled_from([0, *(after for after, _ in whole)]))
    assert list(read_frames_after(path, place)) == [one for one in whole if one[0] > place]
