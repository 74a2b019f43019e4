import asyncio
from pathlib import Path

import msgspec
import pytest

from serving.audit import RELATIVE_TOLERANCE, AuditCheck, AuditLog, read_audit, recompute
from serving.config import ServingConfig
from tests.serving.world import HOUR, FakeTower, World


@pytest.fixture
def audited(tmp_path):
    """Answers over three versions, with and without history, and their audit records."""
    world = World(tmp_path, ServingConfig(clock="event"))
    log = AuditLog(tmp_path / "audit" / "a.jsonl")
    base = world.bundle(models=("m", "n"))
    for sequence in range(1, 5):
        world.delta(base, sequence)
    world.profiles.put("u1", [("i5", "click", 100), ("i6", "view", 200)], attributes={"age": "30"})

    async def ask():
        async with world.client(log) as client:
            for user in ("u1", "stranger"):
                body = {"user_id": user, "k": 20, "context": {"scene": "ab"}, "exclude": ["i1"]}
                assert (await client.post("/v1/recall", json=body)).status_code == 200

    for sequence in (0, 2, 4):
        world.serve(base, sequence)
        asyncio.run(ask())
    log.flush()
    yield world, read_audit(tmp_path / "audit" / "a.jsonl")
    log.close()


def test_served_scores_come_again_from_the_files(audited):
    world, records = audited
    assert len(records) == 6
    assert [r.answer.delta for r in records] == [0, 0, 2, 2, 4, 4]
    check = AuditCheck(world.registry, FakeTower.load)
    for record in records:
        result = check.recompute(record)
        assert result.mixed == ""
        assert result.error <= RELATIVE_TOLERANCE
        assert result.items == 20
    assert {item.channel for r in records for item in r.answer.items} == {"m", "n", "popularity"}


def change(record, **fields):
    return msgspec.structs.replace(record, answer=msgspec.structs.replace(record.answer, **fields))


def test_any_mixture_is_found(audited):
    world, records = audited
    old, new, cold = records[0], records[4], records[5]

    def mixed(record):
        return recompute(record, world.registry, FakeTower.load).mixed

    assert "expected" in mixed(change(new, delta=2, watermark_ms=HOUR + 2000))
    assert "watermark_ms: expected" in mixed(change(new, delta=2))
    assert "expected" in mixed(change(old, items=new.answer.items))
    item = old.answer.items[3]
    off = [msgspec.structs.replace(item, score=item.score + 1e-3)]
    assert "expected score" in mixed(change(old, items=off))
    assert "expected score" in mixed(msgspec.structs.replace(new, history=[]))
    assert "expected score" in mixed(
        change(cold, items=[msgspec.structs.replace(cold.answer.items[0], score=1.0)])
    )
    gone = [msgspec.structs.replace(item, id="absent")]
    assert "expected no such item" in mixed(change(old, items=gone))


def test_share_and_torn_tail(tmp_path):
    world = World(tmp_path, ServingConfig(clock="event", audit_share=0.5))
    world.serve(world.bundle())
    log = AuditLog(tmp_path / "a.jsonl")

    async def ask():
        async with world.client(log) as client:
            for _ in range(40):
                await client.post("/v1/recall", json={"user_id": 1, "k": 1})

    asyncio.run(ask())
    log.close()
    written = read_audit(tmp_path / "a.jsonl")
    assert 8 <= len(written) <= 32
    data = (tmp_path / "a.jsonl").read_bytes()
    (tmp_path / "a.jsonl").write_bytes(data[:-5])
    assert len(read_audit(tmp_path / "a.jsonl")) == len(written) - 1


def test_a_full_disk_costs_audit_records_and_no_answers(tmp_path, caplog):
    world = World(tmp_path, ServingConfig(clock="event"))
    world.serve(world.bundle())
    log = AuditLog(Path("/dev/full"))

    async def ask():
        async with world.client(log) as client:
            for _ in range(20):
                answer = await client.post("/v1/recall", json={"user_id": "u", "k": 50})
                assert answer.status_code == 200
                log.flush()

    asyncio.run(ask())
    log.close()
    assert caplog.text.count("audited answers are lost") == 1


def test_the_newest_answers_stay_within_the_room(tmp_path):
    world = World(tmp_path, ServingConfig(clock="event"))
    world.serve(world.bundle())
    path, room = tmp_path / "a.jsonl", 12_000
    log = AuditLog(path, room)

    async def ask():
        async with world.client(log) as client:
            for n in range(60):
                await client.post("/v1/recall", json={"user_id": n, "k": 3})

    asyncio.run(ask())
    log.close()
    asked = [record.request.user_id for record in read_audit(path)]
    assert 5 < len(asked) < 60
    assert asked == list(range(60 - len(asked), 60))
    assert room // 2 < sum(file.stat().st_size for file in tmp_path.glob("a.jsonl*")) <= room
    assert not log.lost
