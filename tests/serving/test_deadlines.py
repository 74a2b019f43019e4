"""Time limits by one timer end what is late, and nothing else."""

import asyncio

import pytest

from serving.deadlines import Deadlines, Within


class Waiting:
    def __init__(self):
        self.over, self.was_late = False, asyncio.Event()

    def late(self):
        self.over = True
        self.was_late.set()


def test_only_what_is_not_over_is_late():
    async def run():
        deadlines = Deadlines(0.005)
        waits = [Waiting() for _ in range(4)]
        for one in waits:
            deadlines.begin(one)
        waits[1].over = True
        await asyncio.wait_for(waits[3].was_late.wait(), 60)
        later = Waiting()  # the timer is set again
        deadlines.begin(later)
        await asyncio.wait_for(later.was_late.wait(), 60)
        return [one.was_late.is_set() for one in waits], len(deadlines._waits)

    assert asyncio.run(run()) == ([True, False, True, True], 0)


def test_what_is_over_is_let_go_by_the_next():
    async def run():
        deadlines = Deadlines(60.0)
        for _ in range(5):
            one = Waiting()
            deadlines.begin(one)
            one.over = True
        return len(deadlines._waits)

    assert asyncio.run(run()) == 1


def test_a_block_that_is_late_is_left():
    async def run():
        deadlines = Deadlines(0.001)
        with pytest.raises(TimeoutError), Within(deadlines):
            await asyncio.sleep(60)
        with Within(deadlines):
            pass
        await asyncio.sleep(0.01)  # its time is over, and nobody is cancelled
        task = asyncio.current_task()
        return task.cancelling()

    assert asyncio.run(run()) == 0


def test_who_is_cancelled_stays_cancelled():
    async def block(deadlines):
        with Within(deadlines):
            await asyncio.sleep(60)

    async def run():
        task = asyncio.ensure_future(block(Deadlines(60.0)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return task.cancelled()

    assert asyncio.run(run())


def test_errors_of_the_block_pass():
    async def run():
        with Within(Deadlines(60.0)):
            raise KeyError("mine")

    with pytest.raises(KeyError):
        asyncio.run(run())
