"""Channels that hang or fail cost an answer their candidates, and nothing else."""

import asyncio
import threading
from types import SimpleNamespace

from serving.gather import Joint, Lanes

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


class Number(Joint):
    """Gives its number; numbers of the same parity are alike."""

    most = 3

    def __init__(self, number, made, failing=()):
        self.number, self.made, self.failing, self.like = number, made, failing, number % 2

    def of_each(self, calls):
        self.made.append([one.number for one in calls])
        if any(one.number in self.failing for one in calls):
            raise ValueError(self.number)
        return [one.number for one in calls]


async def behind_a_hanging_call(works):
    """What `works` give, asked for while their lane is at work on another call."""
    lanes, hanging = Lanes(), Hanging()
    first = asyncio.ensure_future(lanes.gather({"good": hanging}, PATIENT))
    await asyncio.to_thread(hanging.began.wait, 60)
    asked = [asyncio.ensure_future(lanes.gather({"good": work}, PATIENT)) for work in works]
    await asyncio.sleep(0)
    hanging.let_go.set()
    await first
    return await asyncio.gather(*asked)


def test_what_waits_and_is_alike_is_made_together():
    made = []
    works = [Number(at, made) for at in range(9)]
    gathered = asyncio.run(behind_a_hanging_call([*works, fixed("x")]))
    assert [one.answers["good"] for one in gathered] == [*range(9), ["x"]]
    assert made == [[0, 2, 4], [1, 3, 5], [6, 8], [7]]


def test_one_that_fails_harms_none_that_was_made_with_it():
    made = []
    gathered = asyncio.run(behind_a_hanging_call([Number(at, made, {2}) for at in (0, 2, 4)]))
    assert [one.answers for one in gathered] == [{"good": 0}, {}, {"good": 4}]
    assert gathered[1].dropped == {"good": "ValueError: 2"}
    assert made == [[0, 2, 4], [0], [2], [4]]


def test_what_is_late_is_not_made_with_the_others():
    made = []

    async def run():
        lanes, hanging = Lanes(), Hanging()
        first = asyncio.ensure_future(lanes.gather({"good": hanging}, PATIENT))
        await asyncio.to_thread(hanging.began.wait, 60)
        patient = asyncio.ensure_future(lanes.gather({"good": Number(0, made)}, PATIENT))
        hurried = await lanes.gather({"good": Number(2, made)}, {"good": 0.5})
        hanging.let_go.set()
        return await first, await patient, hurried

    _, patient, hurried = asyncio.run(run())
    assert patient.answers == {"good": 0}
    assert hurried.dropped == {"good": "no answer within 500 ms"}
    assert made == [[0]]


def test_calls_that_take_long_are_not_made_together():
    """A quarter of the time limit is for all that are made together."""
    made = []

    async def run():
        lanes = Lanes()
        await lanes.gather({"good": fixed("x")}, PATIENT)
        lane = lanes._lanes["good"]
        mosts = []
        for each_s in (0.0, 0.08, 0.1, 1.0):
            lane._each_s = each_s
            mosts.append(lane._most(SimpleNamespace(work=Number(0, made), limit_s=1.0)))
        lanes.close()
        return mosts

    assert asyncio.run(run()) == [3, 3, 2, 1]
