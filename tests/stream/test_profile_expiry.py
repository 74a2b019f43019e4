"""Profiles of users that stay away expire, and what is applied again afterwards still counts once."""

import asyncio
import random

import pytest

from deploy.embedded import EmbeddedStore
from stream.profiles import AsyncProfiles, Profile, ProfileConfig, Profiles, user_keys
from tests.stream.samples import batch, event

DAY_MS = 86_400_000
DAYS = 10


@pytest.fixture
def config(topics):
    return ProfileConfig(
        prefix=topics("profiles"), history_kinds=("click",), consumed_kinds=("click", "view"),
        history_length=5, expire_after_days=DAYS,
    )  # fmt: skip


@pytest.fixture
def profiles(store, config):
    writer = Profiles(store, config)
    yield writer
    writer.close()


def fetch(profiles: Profiles, user_id: str = "u") -> Profile:
    async def once():
        reader = AsyncProfiles(profiles._url, profiles.config)
        try:
            return await reader.fetch(user_id)
        finally:
            await reader.close()

    return asyncio.run(once())


def now_ms(profiles: Profiles) -> int:
    seconds, micros = profiles._store.time()
    return seconds * 1000 + micros // 1000


def expiries(profiles: Profiles) -> dict[str, int]:
    """By the key's ending: wall time at which it goes, -1 = never, -2 = it is not there."""
    return {
        key[len(user_keys(profiles.config.prefix, "u")[0]) :]: profiles._store.pexpiretime(key)
        for key in user_keys(profiles.config.prefix, "u")
    }


def let_expire(profiles: Profiles) -> None:
    """What the store does by itself at the keys' time: all that have the same one go."""
    due = {key: profiles._store.pexpiretime(key) for key in user_keys(profiles.config.prefix, "u")}
    times = {at for at in due.values() if at > 0}
    assert len(times) == 1
    for key, at in due.items():
        if at > 0:
            profiles._store.pexpireat(key, 1)


def clicks(first: int, last: int):
    return batch([event(n, user_id="u") for n in range(first, last)], offsets=range(first, last))


def test_all_keys_go_in_the_same_millisecond(profiles):
    before = now_ms(profiles)
    profiles.apply(batch([event(0, user_id="u", kind="impression")]))
    at = expiries(profiles)
    assert at[":h"] == at[":c"] == at[":r"] == -2
    assert before + DAYS * DAY_MS <= at[""] <= now_ms(profiles) + DAYS * DAY_MS * 17 // 16
    profiles._store.pexpireat(user_keys(profiles.config.prefix, "u")[0], at[""] - 1000)
    profiles.apply(clicks(1, 2))  # keys that are new are given their time together with the others
    later = expiries(profiles)
    assert len(set(later.values())) == 1
    assert later[""] >= at[""]
    profiles.apply(clicks(2, 3))
    assert expiries(profiles) == later  # not renewed for every event
    for key in user_keys(profiles.config.prefix, "u"):
        profiles._store.pexpireat(key, now_ms(profiles) + DAYS * DAY_MS - 1)
    profiles.apply(clicks(2, 3))
    assert expiries(profiles)[""] < later[""]  # what was applied before is no sign of life
    profiles.apply(clicks(3, 4))
    assert len(set(expiries(profiles).values())) == 1
    assert expiries(profiles)[""] >= later[""]


def test_every_key_has_a_time_whenever_it_begins(profiles):
    """A viewer who clicks later, with and without attributes, requests or not."""
    for number, attributes in enumerate([None, {"age": "3"}] * 2):
        profiles.set_attributes({"u": attributes})
        for place, (kind, request) in enumerate(
            [("impression", ""), ("view", ""), ("click", ""), ("click", "r"), ("view", "q")]
        ):
            profiles.apply(
                batch([event(0, user_id="u", kind=kind, request_id=request)], offsets=[10 * number + place])
            )
            at = expiries(profiles)
            there = {name: when for name, when in at.items() if when != -2}
            assert there.pop("") == -1 if attributes else True
            assert len(set(there.values())) <= 1
            assert min(there.values(), default=1) > 0
    profiles.set_attributes({"u": None})
    assert len(set(expiries(profiles).values())) == 1  # a position never goes before its history
    let_expire(profiles)
    assert list(profiles._store.scan_iter(f"{profiles.config.prefix}*")) == []


def test_zero_is_for_ever(store, config):
    profiles = Profiles(store, config.model_copy(update={"expire_after_days": 0.0}))
    profiles.apply(clicks(0, 2))
    profiles.set_attributes({"u": {"age": "3"}})
    profiles.set_attributes({"u": None})
    assert set(expiries(profiles).values()) == {-1}
    profiles.close()


def test_attributes_stay(profiles):
    profiles.apply(clicks(0, 3))
    profiles.set_attributes({"u": {"age": "30"}})
    assert expiries(profiles)[""] == -1
    profiles.apply(clicks(3, 4))
    assert expiries(profiles)[""] == -1
    let_expire(profiles)
    left = fetch(profiles)
    assert (left.attributes, left.history, left.consumed) == ({"age": "30"}, [], {})
    profiles.set_attributes({"u": None})
    assert expiries(profiles)[""] > now_ms(profiles)
    let_expire(profiles)
    assert fetch(profiles) == Profile("u")
    profiles.set_attributes({"u": {}, "nobody": None})
    assert list(profiles._store.scan_iter(f"{profiles.config.prefix}*")) == []


@pytest.mark.parametrize("attributes", [False, True])
def test_what_is_applied_again_after_an_expiry_counts_once(store, config, profiles, attributes):
    """Oracle: without attributes the user begins anew with whatever is applied afterwards; with them the
    position stays, so what was applied before it is forgotten for good.
    """
    rng = random.Random(6)
    for number in range(15):
        name = {"prefix": f"{config.prefix}-{number}-{attributes}"}
        writer = Profiles(store, config.model_copy(update=name))
        plain = Profiles(store, config.model_copy(update={"prefix": name["prefix"] + "-plain"}))
        events = [
            event(n, user_id="u", item_id=rng.randrange(6), request_id=f"r{n // 3}",
                  kind=rng.choice(["click", "view", "impression"])) for n in range(40)
        ]  # fmt: skip
        whole = batch(events)
        cut = rng.randint(1, 30)
        if attributes:
            writer.set_attributes({"u": {"age": "3"}})
        writer.apply(whole.slice(0, cut))
        let_expire(writer)
        again = rng.randint(0, cut)
        first, place = (cut if attributes else again), again
        while place < 40:
            step = rng.randint(1, 9)
            back = rng.randint(first, max(first, place))
            begin = min(back, place) if place > first else place
            writer.apply(whole.slice(begin, place + step - begin))
            place += step
        plain.apply(whole.slice(first))
        got, expected = fetch(writer), fetch(plain)
        assert got.history == expected.history
        assert got.consumed == expected.consumed
        once = f"{writer.config.prefix}:{{u:u}}:r"
        assert writer._store.hgetall(once) == writer._store.hgetall(once.replace(":{", "-plain:{", 1))
        kinds = [one.kind for one in (events if attributes else events[first:])]
        assert got.counters == {kind: kinds.count(kind) for kind in set(kinds)}
        writer.close()
        plain.close()


def test_a_store_that_drops_keys_when_full_is_named(tmp_path, caplog):
    with EmbeddedStore(tmp_path) as service:
        calm = Profiles(service.url)
        assert not caplog.text
        calm._store.config_set("maxmemory-policy", "volatile-lru")
        Profiles(service.url).close()
        calm.close()
    assert "expected maxmemory-policy noeviction, got volatile-lru" in caplog.text
