"""Channels that hang or fail cost an answer their candidates, and nothing else."""

import asyncio
import threading

from serving.gather import Lanes

PATIENT = {"good": 60.0, "other": 60.0, "bad": 60.0, "slow": 60.0}


def fixed(*keys):
    return lambda: [*keys]


def failing():
    raise KeyError("broken")


class Hanging:
    """Answers when it is let go."""

    def __init__(self):
        self.let_go, self.began, self.calls = threading.Event(), threading.Event(), 0

    def __call__(self):
        self.calls += 1
        self.began.set()
        assert self.let_go.wait(60)
        return ["late"]


def test_all_answer_in_the_order_asked():
    async def run():
        lanes = Lanes()
        sources = {"other": fixed("x"), "good": fixed("a", "b")}
        gathered = await lanes.gather(sources, PATIENT)
        lanes.close()
        return gathered

    gathered = asyncio.run(run())
    assert list(gathered.answers.items()) == [("other", ["x"]), ("good", ["a", "b"])]
    assert gathered.dropped == {}


def test_a_failing_channel_is_named():
    async def run():
        return await Lanes().gather({"bad": failing, "good": fixed("a")}, PATIENT)

    gathered = asyncio.run(run())
    assert list(gathered.answers) == ["good"]
    assert gathered.dropped == {"bad": "KeyError: 'broken'"}


def test_a_hanging_channel_is_dropped_skipped_and_comes_back():
    hanging = Hanging()
    hurried = {**PATIENT, "slow": 0.001}

    async def run():
        lanes = Lanes()
        while not hanging.began.is_set():  # a call whose time was over before it began never begins
            first = await lanes.gather({"slow": hanging, "good": fixed("a")}, hurried)
        while True:  # until its call has been running for longer than its limit
            skipped = await lanes.gather({"slow": hanging, "good": fixed("a")}, hurried)
            if "skipped" in skipped.dropped["slow"]:
                break
        hanging.let_go.set()
        while lanes.running("slow"):
            await asyncio.sleep(0)
        back = await lanes.gather({"slow": hanging}, PATIENT)
        lanes.close()
        return first, skipped, back

    first, skipped, back = asyncio.run(run())
    assert first.answers == skipped.answers == {"good": ["a"]}
    assert first.dropped == {"slow": "no answer within 1 ms"}
    assert back.answers == {"slow": ["late"]}
    # What was asked while it hung was never begun: its answers had gone out.
    assert hanging.calls == 2


def test_threads_are_prepared_once_each():
    prepared = []

    async def run():
        lanes = Lanes(lambda: prepared.append(threading.current_thread().name))
        for _ in range(3):
            await lanes.gather({"good": fixed("a"), "other": fixed("b")}, PATIENT)

    asyncio.run(run())
    assert sorted(prepared) == ["channel-good", "channel-other"]
