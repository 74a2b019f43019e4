import threading

import pytest

from deploy.threads import run_together


def test_all_loops_end_when_stop_is_set() -> None:
    stop = threading.Event()
    ended: list[str] = []

    def first(stop: threading.Event) -> None:
        stop.set()
        ended.append("first")

    def second(stop: threading.Event) -> None:
        assert stop.wait(10)
        ended.append("second")

    run_together(stop, {"first": first, "second": second})
    assert sorted(ended) == ["first", "second"]


def test_the_first_error_ends_the_others_and_is_raised() -> None:
    ended = threading.Event()

    def lasting(stop: threading.Event) -> None:
        assert stop.wait(10)
        ended.set()

    def failing(stop: threading.Event) -> None:
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        run_together(threading.Event(), {"lasting": lasting, "failing": failing})
    assert ended.is_set()
