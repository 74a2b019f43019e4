"""Similar items under filters and caps: what every answer holds, by brute force."""

from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.item_to_item import ItemToItemConfig
from serving.config import ServingConfig
from serving.errors import NotFound
from serving.similar import similar
from stream.change import Change
from tests.serving.test_caps import ITEMS, OLD, READ, value
from tests.serving.test_channels import EVENTS, channel
from tests.serving.test_fresh import NOW, Shop
from tests.serving.test_http import ask


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    shop = Shop(tmp_path_factory.mktemp("w"), **READ)
    config = ItemToItemConfig(positives=("click",))
    neighbours = {"cf": (config, channel(config, EVENTS).neighbours())}
    shop.world.serve(shop.world.bundle(watermark_ms=NOW, channels=neighbours))
    shop.change(*(Change(id=item, ts_ms=OLD, attributes=of) for item, of in ITEMS.items()))
    shop.change(Change(id="i4", ts_ms=OLD + 1, deleted=True))
    return shop


def everything(snapshot, item, model):
    """All items near to one, best first, by the unfiltered channel."""
    named = snapshot.channels.get(model) or snapshot.neighbours[model]
    place = named.items.lookup(pa.array([item]))
    if model == "cf":
        scores, near = named.items.similar(int(place[0]), 1000)
        return list(zip(named.items.keys_of(near), scores.tolist(), strict=True))
    vector = named.items.vectors_of(place)[0]
    keys = [key for key in (f"i{n}" for n in range(60)) if key not in (item, "i4")]
    vectors = named.items.vectors_of(named.items.lookup(pa.array(keys)))
    scores = dict(zip(keys, (vectors @ vector).tolist(), strict=True))
    return sorted(scores.items(), key=lambda pair: -pair[1])


@settings(max_examples=200, deadline=None)
@given(
    model=st.sampled_from(["m", "cf"]),
    item=st.integers(0, 9),
    k=st.integers(1, 70),
    caps=st.fixed_dictionaries({}, optional={"author_id": st.integers(0, 3), "category": st.integers(0, 5)}),
    blocked=st.lists(st.integers(0, 6), unique=True, max_size=4),
    items=st.lists(st.integers(0, 59).map(lambda n: f"i{n}"), max_size=9),
    require=st.booleans(),
    scene=st.sampled_from(["", "tab", "unknown"]),
)
def test_it_is_the_greedy_choice_among_what_may_be_answered(
    shop, model, item, k, caps, blocked, items, require, scene
):
    filters = {"blocked": {"author_id": blocked}, "blocked_items": items}
    if require:
        filters["require"] = {"available": [True]}
    tab = {"filters": {"blocked": {"category": ["a"]}}, "caps": {"author_id": 1}}
    config = ServingConfig.model_validate({"filters": filters, "caps": caps, "scenes": {"tab": tab}})
    most = {**caps, **({"author_id": 1} if scene == "tab" else {})}
    item = f"i{item}"
    try:
        found = similar(shop.world.snapshot, [item], k, model, config, scene).items
    except NotFound:
        assert item == "i4" or (model == "cf" and shop.world.snapshot.neighbours["cf"].items.lookup(
            pa.array([item]))[0] < 0)  # fmt: skip
        return

    def allowed(key):
        if key in items or key == "i4" or value(key, "author_id") in blocked:
            return False
        if scene == "tab" and value(key, "category") == "a":
            return False
        return not require or value(key, "available") in (True, None)

    expected, held = [], Counter()
    for key, score in everything(shop.world.snapshot, item, model):
        of = [(name, value(key, name)) for name, n in most.items() if n and value(key, name) is not None]
        if allowed(key) and len(expected) < k and all(held[one] < most[one[0]] for one in of):
            held.update(of)
            expected.append((key, score))
    assert [one.id for one in found] == [key for key, _ in expected]
    assert [one.score for one in found] == pytest.approx([score for _, score in expected], rel=1e-4, abs=1e-5)
    assert {one.channel for one in found} <= {model}


def test_a_deleted_item_is_not_found_though_neighbours_know_it(tmp_path):
    shop = Shop(tmp_path)
    config = ItemToItemConfig(positives=("click",))
    rows = channel(config, EVENTS).neighbours()
    trigger = rows.triggers[0].as_py()
    shop.world.serve(shop.world.bundle(watermark_ms=NOW, channels={"cf": (config, rows)}))
    assert similar(shop.world.snapshot, [trigger], 5, "cf").items
    shop.change(Change(id=trigger, ts_ms=OLD, deleted=True))
    with pytest.raises(NotFound):
        similar(shop.world.snapshot, [trigger], 5, "cf")


def test_over_http_by_scene(tmp_path):
    scenes = {"tab": {"filters": {"blocked": {"author_id": [1, 2]}}}}
    shop = Shop(tmp_path, caps={"author_id": 2}, scenes=scenes)
    shop.world.serve(shop.world.bundle(watermark_ms=NOW))
    shop.change(*(Change(id=item, ts_ms=OLD, attributes=of) for item, of in ITEMS.items()))
    plain = ask(shop.world, "GET", "/v1/items/i1/similar?k=20").json()["items"]
    tab = ask(shop.world, "GET", "/v1/items/i1/similar?k=20&scene=tab").json()["items"]
    for items, authors in ((plain, {1, 2}), (tab, set())):
        counts = Counter(value(one["id"], "author_id") for one in items)
        assert counts.pop(None) > 0
        assert max(counts.values()) <= 2
        assert {1, 2} & set(counts) == authors
