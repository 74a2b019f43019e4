"""Seen sets in a real store against their definition: nothing forgotten within the horizon, whatever is
applied again, and as many false positives as were allowed for.
"""

import asyncio
import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.embedded import EmbeddedStore
from stream.archive import Archive
from stream.bloom import BloomShape, held_by
from stream.errors import StoreForgot, Unreachable
from stream.profiles import AsyncProfiles, ProfileConfig
from stream.seen_config import SeenConfig
from stream.seen_store import SeenSets
from tests.stream.samples import T0, batch, event

HOUR = 3_600_000
SETS = {
    "shown": SeenConfig(
        kinds=("impression",), horizon_h=24, store="bloom", items=400, false_positive_rate=0.02, always=True
    ),
    "bought": SeenConfig(kinds=("purchase", "play"), horizon_h=50, items=30),
    "hated": SeenConfig(kinds=("hate",), items=20, always=True),
}


@pytest.fixture
def config(topics):
    return ProfileConfig(prefix=topics("seen"))


@pytest.fixture
def writer(store, config):
    sets = SeenSets(store, SETS, config.prefix)
    yield sets
    sets.close()


def fetch(store, config, user, consumed=True, sets=SETS):
    async def once():
        reader = AsyncProfiles(store, config, sets)
        try:
            return await reader.fetch(user, consumed)
        finally:
            await reader.close()

    return {one.name: one for one in asyncio.run(once()).seen}


def stream(n, seed=0, users=4, span_ms=120 * HOUR, items=300):
    """Events out of order: some hours or days late."""
    rng = np.random.default_rng(seed)
    return [
        event(
            at,
            ts_ms=T0 + at * span_ms // n - int(rng.choice([0, 0, HOUR, 30 * HOUR])),
            user_id=f"u{rng.integers(users)}",
            item_id=int(item) if (item := rng.integers(items)) % 3 else f"i{item}",
            kind=str(rng.choice(["impression", "impression", "purchase", "play", "hate", "click"])),
        )
        for at in range(n)
    ]


def met(events, user, config):
    """Item -> last time, by the definition."""
    last = {}
    for one in events:
        if one.user_id == user and one.kind in config.kinds:
            key = one.item_id if isinstance(one.item_id, str) else f"#{one.item_id}"
            last[key] = max(one.ts_ms, last.get(key, 0))
    return last


def assert_remembered(store, config, events):
    now_ms = max(one.ts_ms for one in events)
    every = sorted({item for n in range(300) for item in (f"i{n}", f"#{n}")})
    for user in sorted({one.user_id for one in events}):
        held = fetch(store, config, user)
        assert list(held) == ["bought", "hated", "shown"]
        for name, one in SETS.items():
            last = met(events, user, one)
            newest = sorted(last.items(), key=lambda pair: (pair[1], pair[0]))[-one.items :]
            seen = {key for key, ts in newest if not one.horizon_ms or ts >= now_ms - one.horizon_ms}
            if one.store == "exact":
                assert held[name].listed(now_ms) == seen
                continue
            found = set(np.array(every)[held[name].holds(every, now_ms)])
            assert seen <= found
            forgotten_ms = now_ms - one.horizon_ms - one.slice_ms
            strangers = [key for key in every if last.get(key, 0) < forgotten_ms]
            assert len(found & set(strangers)) <= 0.06 * len(strangers)


def test_nothing_is_forgotten_within_the_horizon(store, config, writer):
    events = stream(3_000)
    for first in range(0, 3_000, 700):
        writer.apply(batch(events[first : first + 700]))
    assert_remembered(store, config, events)
    assert writer.dropped > 0  # more were bought than are kept


@pytest.mark.parametrize("seed", range(4))
def test_batches_in_any_order_and_again(store, config, writer, topics, seed):
    rng = random.Random(seed)
    events = stream(900, seed)
    once = config.model_copy(update={"prefix": topics("once")})
    other = SeenSets(store, SETS, once.prefix)
    other.apply(batch(events))
    parts = [events[first : first + 60] for first in range(0, 900, 60)]
    again = parts + rng.sample(parts, 7)
    rng.shuffle(again)
    for part in again:
        writer.apply(batch(part))
    assert_remembered(store, config, events)
    now_ms = max(one.ts_ms for one in events)
    for user in ("u0", "u1", "u2", "u3"):
        mine, theirs = fetch(store, config, user), fetch(store, once, user)
        assert mine["shown"].generations == theirs["shown"].generations
        for name in ("bought", "hated"):
            assert mine[name].listed(now_ms) == theirs[name].listed(now_ms)
    other.close()


def test_memory_is_bounded_whatever_the_stream_spans(store, config, writer):
    for day in range(40):
        shown = [event(n, ts_ms=T0 + day * 24 * HOUR + n, user_id="u", item_id=n, kind="impression")
                 for n in range(5)]  # fmt: skip
        writer.apply(batch(shown))
    keys = list(writer._store.scan_iter(f"{config.prefix}:*"))
    assert len(keys) <= SETS["shown"].slots
    for key in keys:
        assert 24 * HOUR < writer._store.pttl(key) <= SETS["shown"].expire_ms
    held = fetch(store, config, "u")["shown"]
    assert held.holds(["#0", "#4"], T0 + 39 * 24 * HOUR + 5).all()
    assert not held.holds(["#0", "#4"], T0 + 50 * 24 * HOUR).any()


def test_a_request_reads_only_what_it_needs(store, config, writer):
    writer.apply(batch([event(0, user_id="u", kind="hate"), event(1, user_id="u", kind="purchase")]))
    assert list(fetch(store, config, "u", consumed=False)) == ["hated", "shown"]
    assert fetch(store, config, "nobody")["shown"].generations == {}
    assert fetch(store, config, "nobody")["bought"].listed(T0) == set()
    assert fetch(store, config, "u", sets={}) == {}


def test_repair_and_a_store_that_was_emptied(store, config, writer, tmp_path):
    events = stream(600)
    with Archive(tmp_path, interval_ms=HOUR) as archive:
        for partition in range(2):
            mine = batch(events[partition::2], partition=partition)
            archive.append(mine.slice(0, 200))
            writer.apply(mine.slice(0, 200), {(0, partition): 200})
            archive.append(mine.slice(200), {(0, partition): 305})
        archive.seal_through(T0 + 100 * HOUR)
        assert writer.repair(archive) == 200
        assert writer.positions() == archive.next_offsets()
        assert_remembered(store, config, events)
        writer._store.delete(*writer._store.scan_iter(f"{config.prefix}:*"))
        with pytest.raises(StoreForgot, match="has lost what was applied"):
            writer.apply(batch([]), {(0, 0): 306})
        writer.repair(archive)
        assert_remembered(store, config, events)
        changed = {**SETS, "shown": SETS["shown"].model_copy(update={"items": 900})}
        other = SeenSets(store, changed, config.prefix)
        assert other.positions() == {}
        other.close()


def test_a_store_that_is_away_or_refuses_is_one_clear_error(config, tmp_path):
    with pytest.raises(Unreachable, match=r"redis\.url.*127\.0\.0\.1:1"):
        SeenSets("redis://127.0.0.1:1", SETS, config.prefix)
    with EmbeddedStore(tmp_path) as service:
        sets = SeenSets(service.url, SETS, config.prefix)
        sets._store.config_set("maxmemory", "1")
        with pytest.raises(Unreachable, match="OutOfMemory"):
            sets.apply(batch([event(0, user_id="u", kind="hate")]), {(0, 0): 1})
        sets.close()


KEYS = st.lists(st.text(max_size=20) | st.integers(0, 10**12).map(lambda n: f"#{n}"), max_size=60)


@settings(max_examples=100, deadline=None)
@given(keys=KEYS, cut=st.integers(0, 60), rate=st.floats(0.001, 0.5))
def test_no_filter_forgets_and_places_depend_on_the_key_alone(keys, cut, rate):
    shape = BloomShape.of(max(len(keys), 1), rate)
    places = shape.places(pa.array(keys, pa.string()))
    assert places.shape == (len(keys), shape.hashes)
    bits = np.zeros(shape.bits, np.uint8)
    bits[places.ravel()] = 1
    content = np.packbits(bits).tobytes().rstrip(b"\0")  # as a store that never set the last ones
    assert held_by([content], places).all()
    assert not held_by([b""], places).any()
    np.testing.assert_array_equal(shape.places(pa.array(["x", *keys], pa.string())[1:][:cut]), places[:cut])


def test_the_size_and_the_rate_are_those_of_the_formulas():
    assert BloomShape.of(1_000, 0.01) == BloomShape(9_586, 7)
    shape = BloomShape.of(2_000, 0.01)
    keys = pa.array([f"item-{n}" for n in range(102_000)])
    places = shape.places(keys)
    bits = np.zeros(shape.bits, np.uint8)
    bits[places[:2_000].ravel()] = 1
    assert bits.mean() == pytest.approx(1 - np.exp(-shape.hashes * 2_000 / shape.bits), rel=0.01)
    held = held_by([np.packbits(bits).tobytes()], places)
    assert held[:2_000].all()
    assert held[2_000:].mean() == pytest.approx(0.01, rel=0.15)


def test_places_do_not_change_from_version_to_version():
    """What is in a store was placed by an older one."""
    places = BloomShape(1_000_003, 3).places(pa.array(["", "a", "#5", "eight ch", "a longer key text ü"]))
    assert places.tolist() == GOLDEN


GOLDEN = [
    [4995, 172729, 340463],
    [727476, 864279, 1079],
    [367347, 874814, 732965],
    [688658, 643020, 948069],
    [955558, 758132, 560706],
]


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ({"kinds": ("hate",), "store": "bloom"}, "horizon_h: expected one"),
        ({"kinds": ()}, "at least 1"),
        ({"kinds": ("hate",), "horizon_h": 0}, "greater than 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(given, wrong):
    with pytest.raises(ValueError, match=wrong):
        SeenConfig(**given)
