"""One script for many callers: everybody gets their own answer, whatever becomes of the others."""

import asyncio

import pytest
import redis

from stream.script_calls import ScriptCalls

SCRIPT = """
if KEYS[1] == 'bad' then return redis.error_reply('ERR wanted') end
if KEYS[1] == 'wrong' then return redis.call('INCR', KEYS[1], ARGV[1]) end
if KEYS[1] == 'broken' then return KEYS[1] .. nil end
if KEYS[1] == 'nothing' then return nil end
if KEYS[1] == 'slow' then for _ = 1, 2000000 do end end
return {KEYS[1], ARGV[1], redis.call('GET', KEYS[1])}
"""


def run(store, asked):
    """What `asked` gives for calls of SCRIPT."""

    async def all_of_it():
        calls = ScriptCalls(store, SCRIPT)
        try:
            return await asked(calls)
        finally:
            await calls.close()

    return asyncio.run(all_of_it())


def test_everybody_gets_their_own(store):
    async def asked(calls):
        return await asyncio.gather(*(calls([f"k{at}"], [at]) for at in range(200)))

    assert run(store, asked) == [[b"k%d" % at, b"%d" % at, None] for at in range(200)]


def test_an_error_is_of_its_caller_only(store):
    async def asked(calls):
        return await asyncio.gather(*(calls([key], [1]) for key in ("a", "bad", "b")), return_exceptions=True)

    first, error, last = run(store, asked)
    assert (first[0], last[0]) == (b"a", b"b")
    assert isinstance(error, redis.ResponseError)
    assert "wanted" in str(error)


def test_every_kind_of_error_is_of_its_caller_only(store):
    async def asked(calls):
        keys = ("a", "wrong", "nothing", "broken", "b")
        return await asyncio.gather(*(calls([key], [1]) for key in keys), return_exceptions=True)

    first, wrong, nothing, broken, last = run(store, asked)
    assert (first[0], nothing, last[0]) == (b"a", None, b"b")
    assert isinstance(wrong, redis.ResponseError)
    assert isinstance(broken, redis.ResponseError)
    assert "nil" in str(broken)


def test_everybody_has_keys_and_words_of_their_own(store):
    async def asked(calls):
        return await asyncio.gather(
            calls(["a", "b"], [1]), calls(["c"], [2, 3, 4]), calls(["d"], [5]), calls(["ü"], ["€"])
        )

    expected = [[b"a", b"1"], [b"c", b"2"], [b"d", b"5"], ["ü".encode(), "€".encode()]]
    assert [one[:2] for one in run(store, asked)] == expected


def test_who_gives_up_leaves_the_answers_of_the_others(store):
    async def asked(calls):
        await calls(["a"], [0])
        slow = asyncio.ensure_future(calls(["slow"], [1]))
        others = [asyncio.ensure_future(calls([f"k{at}"], [at])) for at in range(3)]
        await asyncio.sleep(0)
        others[1].cancel()
        return await asyncio.gather(slow, *others, return_exceptions=True)

    slow, first, given_up, last = run(store, asked)
    assert isinstance(given_up, asyncio.CancelledError)
    assert [one[:2] for one in (slow, first, last)] == [[b"slow", b"1"], [b"k0", b"0"], [b"k2", b"2"]]


def test_a_lost_connection_and_a_forgotten_script_are_got_over(store):
    with redis.Redis.from_url(store) as other:

        async def asked(calls):
            answers = [await calls(["a"], [1])]
            other.script_flush()
            answers.append(await calls(["a"], [2]))
            other.client_kill_filter(_type="normal", skipme=True)
            answers.append(await calls(["a"], [3]))
            return answers

        assert [answer[1] for answer in run(store, asked)] == [b"1", b"2", b"3"]


def test_the_database_of_the_url_is_read(store):
    address = store.rpartition("/")[0] if store.count("/") > 2 else store
    with redis.Redis.from_url(f"{address}/3") as other:
        other.set("there", "three")

        async def asked(calls):
            return await calls(["there"], [1])

        assert run(f"{address}/3", asked)[2] == b"three"
        assert run(f"{address}/0", asked)[2] is None


def test_a_store_that_is_not_there_is_told(store):
    async def asked(calls):
        return await calls(["a"], [1])

    with pytest.raises((redis.ConnectionError, OSError), match="1"):
        run("redis://127.0.0.1:1/0", asked)
    with pytest.raises(redis.RedisError):
        run(store.replace("redis://", "redis://nobody:secret@"), asked)


def test_what_everybody_gave_up_is_asked_no_longer(store):
    async def asked(calls):
        slow = [asyncio.ensure_future(calls(["slow"], [at])) for at in range(2)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for one in slow:
            one.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
        answer = await calls(["a"], [1])
        for _ in range(3):
            await asyncio.sleep(0)
        return answer, len(calls._asking)

    answer, asking = run(store, asked)
    assert answer[1] == b"1"
    assert asking == 0
