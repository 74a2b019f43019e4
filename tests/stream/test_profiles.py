import asyncio
import random

import pyarrow as pa
import pytest

from deploy.embedded import EmbeddedStore
from stream.archive import Archive
from stream.errors import StoreForgot, Unreachable
from stream.profiles import AsyncProfiles, Profile, ProfileConfig, Profiles
from tests.stream.samples import T0, batch, event


@pytest.fixture
def config(topics):
    return ProfileConfig(
        prefix=topics("profiles"), history_kinds=("click", "purchase"), consumed_kinds=("purchase", "view"),
        history_length=5, consumed_length=4,
    )  # fmt: skip


@pytest.fixture
def profiles(store, config):
    writer = Profiles(store, config)
    yield writer
    writer.close()


def fetch(store, config, user_id, **options):
    async def once():
        reader = AsyncProfiles(store, config)
        try:
            return await reader.fetch(user_id, **options)
        finally:
            await reader.close()

    return asyncio.run(once())


def test_unknown_user_is_empty_and_reading_changes_nothing(store, config, profiles):
    assert fetch(store, config, "nobody") == Profile("nobody")
    assert list(profiles._store.scan_iter(f"{config.prefix}*")) == []


def test_history_consumed_counters(store, config, profiles):
    events = [
        event(0, user_id="u", item_id="a", kind="impression", request_id="r"),
        event(1, user_id="u", item_id="a", kind="click", request_id="r"),
        event(2, user_id="u", item_id="a", kind="purchase", request_id="r"),  # another kind
        event(2, user_id="u", item_id="a", kind="purchase", request_id="r"),  # the same again: once
        event(3, user_id="u", item_id=7, kind="click", request_id=""),
        event(4, user_id="u", item_id=7, kind="click", request_id=""),  # no request: a moment of its own
        event(5, user_id="u", item_id="b", kind="view"),
        event(6, user_id="u", kind="search", item_id=None),
        event(7, user_id=5, item_id="z"),
    ]
    profiles.apply(batch(events))
    seen = fetch(store, config, "u")
    assert [(h.item_id, h.kind, h.ts_ms, h.request_id) for h in seen.history] == [
        ("a", "click", T0 + 1000, "r"), ("a", "purchase", T0 + 2000, "r"),
        ("#7", "click", T0 + 3000, ""), ("#7", "click", T0 + 4000, ""),
    ]  # fmt: skip
    assert seen.consumed == {"a": T0 + 2000, "b": T0 + 5000}
    assert seen.counters == {"impression": 1, "click": 3, "purchase": 2, "view": 1, "search": 1}
    assert seen.position == "0:0:7:0"
    assert fetch(store, config, "#5").history[0].item_id == "z"
    assert fetch(store, config, "5") == Profile("5")
    assert fetch(store, config, "u", consumed=False).consumed == {}


def test_equal_times_keep_their_order_and_late_events_their_place(store, config, profiles):
    basket = [
        event(n, ts_ms=T0 + 500, user_id="u", item_id=f"i{9 - n}", request_id=f"b{n}") for n in range(3)
    ]
    profiles.apply(batch(basket))
    profiles.apply(batch([event(8, ts_ms=T0 + 1, user_id="u", item_id="late", request_id="l")], offsets=[8]))
    assert [h.item_id for h in fetch(store, config, "u").history] == ["late", "i9", "i8", "i7"]


def test_lengths_are_kept(store, config, profiles):
    events = [event(n, user_id="u", item_id=f"i{n}", kind="purchase") for n in range(20)]
    profiles.apply(batch(events))
    seen = fetch(store, config, "u")
    assert [h.item_id for h in seen.history] == [f"i{n}" for n in range(15, 20)]
    assert sorted(seen.consumed) == [f"i{n}" for n in range(16, 20)]
    assert profiles._store.hlen(f"{config.prefix}:{{u:u}}:r") == 5


def test_replays_in_any_pieces_count_once(store, config, profiles):
    rng = random.Random(5)
    events = [
        event(n, user_id=f"u{n % 3}", kind=rng.choice(["click", "purchase", "view"])) for n in range(60)
    ]
    whole = batch(events, offsets=[n // 4 for n in range(60)], ordinals=[n % 4 for n in range(60)])
    once = config.model_copy(update={"prefix": config.prefix + "-once"})
    Profiles(store, once).apply(whole)
    cut = 0
    while cut < 60:
        again = rng.randint(0, cut)
        cut += rng.randint(1, 9)
        profiles.apply(whole.slice(again, cut - again))
    for user in ("u0", "u1", "u2"):
        assert fetch(store, config, user) == fetch(store, once, user)


def test_another_incarnation_is_not_a_replay(store, config, profiles):
    profiles.apply(batch([event(0, user_id="u")]))
    profiles.apply(batch([event(1, user_id="u")], incarnation=1))
    assert fetch(store, config, "u").counters == {"click": 2}


def test_repair_applies_what_was_only_archived(store, config, profiles, tmp_path):
    with Archive(tmp_path, interval_ms=10_000) as archive:
        first = batch([event(n, user_id="u") for n in range(3)])
        archive.append(first)
        profiles.apply(first, {(0, 0): 3})
        archive.append(
            batch([event(n, user_id="u") for n in range(3, 30)], offsets=range(3, 30)), {(0, 0): 40}
        )
        archive.seal_through(T0 + 20_000)
        assert profiles.repair(archive) == 27
        assert profiles.positions() == archive.next_offsets() == {(0, 0): 40}
        assert profiles.repair(archive) == 0
    assert fetch(store, config, "u").counters == {"click": 30}


def test_attributes(store, config, profiles):
    profiles.set_attributes({"u": {"age": "30"}, "#5": {"age": "7"}})
    assert fetch(store, config, "u").attributes == {"age": "30"}
    profiles.set_attributes({"u": None})
    assert fetch(store, config, "u").attributes == {}


@pytest.mark.parametrize("user_id", ["}", "{}", "a}b", "ü" * 128, "a\nb"])
def test_any_key_text(store, config, profiles, user_id):
    profiles.apply(batch([event(0, user_id=user_id)]))
    assert len(fetch(store, config, user_id).history) == 1


def test_absent_store_is_one_clear_error():
    with pytest.raises(Unreachable, match=r"redis\.url.*127\.0\.0\.1:1"):
        Profiles("redis://127.0.0.1:1")


def test_reading_from_an_absent_store_is_one_clear_error(config):
    with pytest.raises(Unreachable, match=r"redis\.url"):
        fetch("redis://127.0.0.1:1", config, "u")


def test_tables_work_too(store, config, profiles):
    profiles.apply(pa.Table.from_batches([batch([event(0, user_id="u")])]))
    assert fetch(store, config, "u").counters == {"click": 1}


def test_a_store_that_was_emptied_is_noticed_and_repaired(store, config, profiles, tmp_path):
    with Archive(tmp_path) as archive:
        for part in range(2):
            events = batch([event(part, user_id="u")], offsets=[part])
            archive.append(events)
            if part == 0:
                profiles.apply(events, {(0, 0): 1})
                profiles._store.delete(*profiles._store.scan_iter(f"{config.prefix}:*"))
            else:
                with pytest.raises(StoreForgot, match="has lost what was applied"):
                    profiles.apply(events, {(0, 0): 2})
        profiles.repair(archive)
        assert fetch(store, config, "u").counters == {"click": 2}
        more = batch([event(2, user_id="u")], offsets=[2])
        archive.append(more)
        profiles.apply(more, {(0, 0): 3})
        assert profiles.positions() == {(0, 0): 3}


def test_a_store_that_refuses_commands_counts_as_absent(config, tmp_path):
    with EmbeddedStore(tmp_path) as service:
        writer = Profiles(service.url, config)
        writer._store.config_set("maxmemory", "1")
        for act in (
            lambda: writer.apply(batch([event(0, user_id="u")]), {(0, 0): 1}),
            lambda: writer.set_attributes({"u": {"age": "3"}}),
        ):
            with pytest.raises(Unreachable, match="OutOfMemory"):
                act()
        writer.close()
