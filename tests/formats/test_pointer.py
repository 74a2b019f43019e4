import contextlib
import os
import threading
import time

import pytest

from models import pointer as pointer_module
from models.pointer import Pointer, PointerStore, StalePointer

A = Pointer(bundle="a", delta=0, watermark_ms=10)
B = Pointer(bundle="a", delta=1, watermark_ms=20)
ABSENT = "redis://127.0.0.1:1"


def place(pointer):
    return pointer and (pointer.bundle, pointer.delta, pointer.watermark_ms)


@pytest.fixture(params=["file", "absent", "redis"])
def store(request, tmp_path, redis_url):
    url = {"file": None, "absent": ABSENT, "redis": redis_url}[request.param]
    with_store = PointerStore(tmp_path, url, name=f"pointer-{tmp_path}")
    yield with_store
    with_store.close()


def test_set_and_get_and_never_back(store):
    assert store.get() is None
    assert store.set(A).revision == 1
    assert store.set(B).revision == 2
    assert place(store.get()) == place(B)
    with pytest.raises(StalePointer, match=r"at least 20 \(of a/1\), got 10"):
        store.set(A)
    assert place(store.get()) == place(B)
    assert store.set(B).revision == 2
    assert store.set(A, force=True).revision == 3
    assert place(store.get()) == place(A)


def test_absent_redis_is_counted(tmp_path):
    store = PointerStore(tmp_path, ABSENT)
    store.set(A)
    assert place(store.get()) == place(A)
    assert store.redis_failures >= 2


def test_other_machine_reads_redis_and_old_news_lose(tmp_path, redis_url):
    name = f"pointer-{tmp_path}"
    here, there = tmp_path / "here", tmp_path / "there"
    PointerStore(here, redis_url, name).set(A)
    assert place(PointerStore(there, redis_url, name).get()) == place(A)
    # Redis was away during the second move: the file knows better, and the next writer repairs Redis.
    PointerStore(here, ABSENT, name).set(B)
    both = PointerStore(here, redis_url, name)
    assert place(both.get()) == place(B)
    both.set(B)
    assert place(PointerStore(there, redis_url, name).get()) == place(B)
    # A late writer with an older revision does not overwrite.
    PointerStore(there, None).set(A)
    PointerStore(there, redis_url, name)._tell(Pointer(bundle="a", delta=0, watermark_ms=10, revision=1))
    assert place(both.get()) == place(B)


def test_notice_wakes_the_listener(tmp_path, redis_url):
    store = PointerStore(tmp_path, redis_url, f"pointer-{tmp_path}")
    woken, stop = threading.Event(), threading.Event()

    def listen():
        with store.notices() as notices:
            while not stop.is_set():
                if notices.wait(30, stop):
                    woken.set()
                    return

    thread = threading.Thread(target=listen)
    thread.start()
    deadline, n = time.monotonic() + 20, 0
    while not woken.is_set() and time.monotonic() < deadline:
        n += 1
        store.set(Pointer(bundle="a", delta=n, watermark_ms=n))
        woken.wait(0.05)
    stop.set()
    thread.join(10)
    assert woken.is_set()


@pytest.mark.parametrize("url", [None, ABSENT])
def test_waiting_without_redis_ends_in_time_and_at_stop(tmp_path, url):
    notices = PointerStore(tmp_path, url).notices()
    assert notices.wait(0.05, threading.Event()) is False
    stopped = threading.Event()
    stopped.set()
    began = time.monotonic()
    assert notices.wait(60, stopped) is False
    assert time.monotonic() - began < 10


def test_broken_file_says_so(tmp_path):
    (tmp_path / "pointer.json").write_text("{")
    with pytest.raises(ValueError, match=r"pointer.json: expected a pointer record"):
        PointerStore(tmp_path).get()


def test_crash_while_setting_leaves_the_old_or_the_new(tmp_path, monkeypatch):
    for step in ("fsync", "rename"):
        root = tmp_path / step
        store = PointerStore(root)
        store.set(A)

        def die(*args):
            raise KeyboardInterrupt

        monkeypatch.setattr(pointer_module.os, step, die)
        with pytest.raises(KeyboardInterrupt):
            store.set(B)
        monkeypatch.undo()
        assert place(store.get()) == place(A)
        store.set(B)
        assert place(store.get()) == place(B)
    assert os.listdir(tmp_path / "fsync").count("pointer.json") == 1


def test_concurrent_setters_never_lose_a_move(tmp_path):
    moves = [Pointer(bundle="a", delta=n, watermark_ms=n) for n in range(40)]

    def mover(part):
        store = PointerStore(tmp_path)
        for move in part:
            with contextlib.suppress(StalePointer):
                store.set(move)

    threads = [threading.Thread(target=mover, args=(moves[n::4],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert PointerStore(tmp_path).get().watermark_ms == 39
