import threading

import pytest

from models.pacing import paced, rest


class Clocks:
    """A thread's processor time and the time that passes."""

    def __init__(self) -> None:
        self.worked_s = self.now_s = 0.0
        self.slept_s: list[float] = []

    def work(self, worked_s: float, waited_s: float = 0.0) -> None:
        self.worked_s += worked_s
        self.now_s += worked_s + waited_s

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds

    def pace(self, share: float):
        return paced(share, lambda: self.worked_s, lambda: self.now_s, self.sleep)


@pytest.mark.parametrize("share", [0.1, 0.25, 1.0])
def test_a_thread_works_for_its_share_of_the_time(share):
    clocks = Clocks()
    with clocks.pace(share):
        for _ in range(100):
            clocks.work(0.002)
            rest()
    assert clocks.worked_s / clocks.now_s == pytest.approx(share)


def test_what_it_waited_for_others_counts_as_rest():
    clocks = Clocks()
    with clocks.pace(0.25):
        clocks.work(0.002, waited_s=0.005)
        rest()
        clocks.work(0.002, waited_s=0.007)  # longer than it has to, which is not made up for later
        rest()
        clocks.work(0.002)
        rest()
    assert clocks.slept_s == pytest.approx([0.001, 0.006])


def test_the_pace_is_that_of_one_thread_and_ends_with_its_block():
    clocks, other = Clocks(), []

    def elsewhere() -> None:
        clocks.work(1.0)
        rest()
        other.append(list(clocks.slept_s))

    with clocks.pace(0.5):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        with clocks.pace(0.1):
            clocks.work(1.0)
            rest()
        clocks.work(1.0)
        rest()
    rest()
    assert other == [[]]
    assert clocks.slept_s == pytest.approx([9.0])  # the outer one has rested meanwhile
