"""Channels that hang or fail cost an answer their candidates, and nothing else."""

import asyncio
import threading

from serving.channels.contract import Ask
from serving.gather import Lanes
from serving.profile import NO_PROFILE

ASK = Ask("u", 1, {}, NO_PROFILE, frozenset())
PATIENT = {"good": 60.0, "other": 60.0, "bad": 60.0, "slow": 60.0}


class Fixed:
    def __init__(self, *keys):
        self.keys = keys

    def candidates(self, ask, k):
        return [(key, 1.0) for key in self.keys[:k]]


class Failing:
    def candidates(self, ask, k):
        raise KeyError("broken")


class Hanging:
    """Answers when it is let go."""

    def __init__(self):
        self.let_go, self.began, self.calls = threading.Event(), threading.Event(), 0

    def candidates(self, ask, k):
        self.calls += 1
        self.began.set()
        assert self.let_go.wait(60)
        return [("late", 1.0)]


def test_all_answer_in_the_order_asked():
    async def run():
        lanes = Lanes()
        sources = {"other": Fixed("x"), "good": Fixed("a", "b", "c")}
        gathered = await lanes.gather(sources, PATIENT, ASK, 2)
        lanes.close()
        return gathered

    gathered = asyncio.run(run())
    assert list(gathered.rankings.items()) == [("other", [("x", 1.0)]), ("good", [("a", 1.0), ("b", 1.0)])]
    assert gathered.dropped == {}


def test_a_failing_channel_is_named():
    async def run():
        return await Lanes().gather({"bad": Failing(), "good": Fixed("a")}, PATIENT, ASK, 5)

    gathered = asyncio.run(run())
    assert list(gathered.rankings) == ["good"]
    assert gathered.dropped == {"bad": "KeyError: 'broken'"}


def test_a_hanging_channel_is_dropped_skipped_and_comes_back():
    hanging = Hanging()
    hurried = {**PATIENT, "slow": 0.001}

    async def run():
        lanes = Lanes()
        while not hanging.began.is_set():  # a call whose time was over before it began never begins
            first = await lanes.gather({"slow": hanging, "good": Fixed("a")}, hurried, ASK, 5)
        while True:  # until its call has been running for longer than its limit
            skipped = await lanes.gather({"slow": hanging, "good": Fixed("a")}, hurried, ASK, 5)
            if "skipped" in skipped.dropped["slow"]:
                break
        hanging.let_go.set()
        while lanes.running("slow"):
            await asyncio.sleep(0)
        back = await lanes.gather({"slow": hanging}, PATIENT, ASK, 5)
        lanes.close()
        return first, skipped, back

    first, skipped, back = asyncio.run(run())
    assert first.rankings == skipped.rankings == {"good": [("a", 1.0)]}
    assert first.dropped == {"slow": "no answer within 1 ms"}
    assert back.rankings == {"slow": [("late", 1.0)]}
    # What was asked while it hung was never begun: its answers had gone out.
    assert hanging.calls == 2


def test_threads_are_prepared_once_each():
    prepared = []

    async def run():
        lanes = Lanes(lambda: prepared.append(threading.current_thread().name))
        for _ in range(3):
            await lanes.gather({"good": Fixed("a"), "other": Fixed("b")}, PATIENT, ASK, 1)

    asyncio.run(run())
    assert sorted(prepared) == ["channel-good", "channel-other"]
