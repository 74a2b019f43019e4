import asyncio
import re
import threading
from pathlib import Path

import pytest

from serving.channels.own import OwnItemsSource
from serving.channels.popular import PopularSource
from serving.config import ServingConfig
from tests.serving.world import HOUR, FakeTower, World


def ask(world, method, path, audit=None, **kwargs):
    async def run():
        async with world.client(audit) as client:
            return await client.request(method, path, **kwargs)

    return asyncio.run(run())


@pytest.fixture
def ready(world):
    world.serve(world.bundle())
    return world


def test_before_the_first_snapshot(world):
    for method, path, body in (("POST", "/v1/recall", {"user_id": 1}), ("GET", "/readyz", None)):
        answer = ask(world, method, path, json=body)
        assert answer.status_code == 503
        assert "no bundle has been published" in answer.json()["error"]
    assert ask(world, "GET", "/v1/items/i1/similar").status_code == 503
    assert ask(world, "GET", "/healthz").json()["status"] == "alive"
    assert world.profiles.fetched == []
    # A refused first bundle is the reason then.
    base = world.bundle()
    world.damage("bundles", base, "models/m/items.safetensors")
    world.point(base)
    world.swapper.step()
    assert "items.safetensors" in ask(world, "GET", "/readyz").json()["error"]


def test_recall(ready):
    ready.profiles.put("#900", [("i5", "click", 100)], position="0:2:17:0")
    answer = ask(ready, "POST", "/v1/recall", json={"user_id": 900, "k": 4, "explain": True})
    assert answer.status_code == 200
    body = answer.json()
    assert len(body["items"]) == 4
    assert set(body["items"][0]) == {"id", "score", "channel"}
    assert body["bundle"] == ready.snapshot.bundle
    assert (body["delta"], body["watermark_ms"], body["profile"]) == (0, HOUR, "0:2:17:0")
    assert body["degraded"] == []
    assert len(body["request_id"]) == 32
    assert body["explain"] == {
        "ts_ms": HOUR,
        "cold": False,
        "history": 1,
        "excluded": 0,
        "channels": {"m": 4},
        "method": "snake",
        "filters": {},
        "candidates": {"m": 4},
        "caps": {},
        "items": [
            {
                "id": item["id"],
                "value": 0.0,
                "found_by": [{"channel": "m", "score": item["score"], "rank": rank}],
                "stages": {},
                "crowded_out": {},
                "counts": {},
            }
            for rank, item in enumerate(body["items"])
        ],
    }
    assert ready.profiles.fetched == ["#900"]
    assert ask(ready, "GET", "/readyz").json()["bundle"] == ready.snapshot.bundle


def test_the_moment_of_a_request(ready):
    ready.profiles.put("u1", [("i5", "click", HOUR + 50)])

    def moment(**more):
        body = {"user_id": "u1", "explain": True, **more}
        return ask(ready, "POST", "/v1/recall", json=body).json()["explain"]["ts_ms"]

    assert moment() == HOUR + 50  # the event clock: what is newest
    assert moment(ts_ms=5) == 5
    ready.config = ServingConfig(clock="wall", channel_timeout_ms=60_000)
    assert moment() == HOUR + 50  # never before the user's own last event
    ready.profiles.put("u1", [("i5", "click", 50)])
    assert moment() == 777


@pytest.mark.parametrize(
    ("body", "where", "expected", "got"),
    [
        (b"{", "$", "a JSON object", "truncated"),
        (b"\xff", "$", "a JSON object", "malformed"),
        (b"[]", "$", "object", "array"),
        (b"{}", "$.user_id", "a value", "nothing"),
        (b'{"user_id": 1.5}', "$.user_id", "int | str", "float"),
        (b'{"user_id": null}', "$.user_id", "int | str", "null"),
        (b'{"user_id": ""}', "$.user_id", "length >= 1", '""'),
        (b'{"user_id": 99999999999999999999}', "$.user_id", "int", "99999999999999999999"),
        (b'{"user_id": 1, "k": 0}', "$.k", ">= 1", "0"),
        (b'{"user_id": 1, "k": 1001}', "$.k", "<= 1000", "1001"),
        (b'{"user_id": 1, "k": "5"}', "$.k", "int", "str"),
        (b'{"user_id": 1, "kk": 5}', "$.kk", "only fields of the schema", "kk"),
        (b'{"user_id": 1, "exclude": [1, true]}', "$.exclude[1]", "int | str", "bool"),
        (b'{"user_id": 1, "exclude": "a"}', "$.exclude", "array", "str"),
        (b'{"user_id": 1, "context": {"a": 1}}', "$.context[...]", "str", "int"),
        (b'{"user_id": 1, "exclude_seen": 1}', "$.exclude_seen", "bool", "int"),
        (b'{"user_id": 1, "ts_ms": -1}', "$.ts_ms", ">= 1", "-1"),
        ('{"user_id": "%s"}' % ("é" * 200), "$.user_id", "256 bytes", "400 bytes"),
        ('{"user_id": 1, "exclude": ["%s"]}' % ("é" * 200), "$.exclude[0]", "256 bytes", "400 bytes"),
    ],
)
def test_bad_recall_requests_name_field_expected_and_got(ready, body, where, expected, got):
    answer = ask(ready, "POST", "/v1/recall", content=body)
    assert answer.status_code == 422
    problem = answer.json()
    assert problem["where"] == where
    assert expected in problem["expected"]
    assert got in problem["got"]
    assert ready.counted("requests", route="/v1/recall", status="422") == 1


def test_profile_store_away(ready):
    for error in (ConnectionError("refused by 127.0.0.1:1"), TimeoutError()):
        ready.profiles.error = error
        answer = ask(ready, "POST", "/v1/recall", json={"user_id": "u1", "k": 6, "exclude_seen": True})
        assert answer.status_code == 200
        body = answer.json()
        assert len(body["items"]) == 6
        assert type(error).__name__ in body["degraded"][0]
        assert body["degraded"][0].startswith("profile: ")
        assert {"m", "popularity"} == {item["channel"] for item in body["items"]}
    assert ready.counted("profile_failures") == 2


def test_slow_profile_store(tmp_path):
    world = World(tmp_path, ServingConfig(clock="event", profile_timeout_s=0.01))
    world.serve(world.bundle())

    class Stuck:
        async def fetch(self, user_id, consumed=True):
            await asyncio.get_running_loop().create_future()

    world.profiles = Stuck()
    body = ask(world, "POST", "/v1/recall", json={"user_id": "u1"}).json()
    assert "TimeoutError" in body["degraded"][0]


def test_events(ready):
    one = {"user_id": 7, "item_id": "i1", "kind": "click"}
    answer = ask(ready, "POST", "/v1/events", json=one)
    assert answer.status_code == 202
    assert answer.json()["accepted"] == 1
    assert ready.events[0].user_id == 7
    assert ready.events[0].ts_ms == 777
    assert answer.json()["event_ids"] == [ready.events[0].event_id]
    many = [{**one, "event_id": "e", "ts_ms": 5, "value": 2.5, "context": {"geo": "x"}}, one]
    assert ask(ready, "POST", "/v1/events", json=many).json()["event_ids"][0] == "e"
    assert (ready.events[1].ts_ms, ready.events[1].value, ready.events[1].context) == (5, 2.5, {"geo": "x"})
    assert ready.counted("events_accepted") == 3


@pytest.mark.parametrize(
    ("body", "where", "expected"),
    [
        (b'{"user_id": 1, "kind": "clicked"}', "$.kind", "enum"),
        (b'[{"user_id": 1, "kind": "click"}, {"user_id": 1}]', "$[1].kind", "a value"),
        (b'{"user_id": 1, "kind": "click", "value": NaN}', "$", "JSON"),
        (b'{"user_id": 1, "kind": "click", "when": 1}', "$.when", "only fields"),
        ('[{"user_id": "%s", "kind": "click"}]' % ("é" * 200), "$[0].user_id", "256 bytes"),
        (b'{"user_id": 1, "kind": "click", "item_id": ""}', "$.item_id", "length"),
    ],
)
def test_bad_events_are_refused_whole(ready, body, where, expected):
    answer = ask(ready, "POST", "/v1/events", content=body)
    assert answer.status_code == 422
    assert answer.json()["where"] in (where, where.replace("[1]", "[...]"))
    assert expected.lower() in (answer.json()["expected"] + answer.json()["error"]).lower()
    assert ready.events == []


def test_stream_away_is_a_503(ready):
    class Away:
        def extend(self, events):
            raise ConnectionError("no broker at 127.0.0.1:1")

    ready.events = Away()
    answer = ask(ready, "POST", "/v1/events", json={"user_id": 1, "kind": "search"})
    assert answer.status_code == 503
    assert "no broker at" in answer.json()["error"]


def test_similar(ready):
    answer = ask(ready, "GET", "/v1/items/i3/similar?k=4")
    assert answer.status_code == 200
    assert len(answer.json()["items"]) == 4
    assert "i3" not in [item["id"] for item in answer.json()["items"]]
    assert ask(ready, "GET", "/v1/items/nope/similar").status_code == 404
    assert ask(ready, "GET", "/v1/items/5/similar").status_code == 404
    assert ask(ready, "GET", "/v1/items/i3/similar?model=x").status_code == 404
    bad = ask(ready, "GET", "/v1/items/i3/similar?k=x")
    assert (bad.status_code, bad.json()["where"], bad.json()["got"]) == (422, "query k", "'x'")
    assert ask(ready, "GET", f"/v1/items/{'é' * 200}/similar").status_code == 422


def test_large_bodies_are_not_read(tmp_path):
    world = World(tmp_path, ServingConfig(max_body_bytes=100))
    world.serve(world.bundle())
    answer = ask(world, "POST", "/v1/events", content=b"[" + b" " * 200)
    assert answer.status_code == 413
    assert "at most 100 bytes" in answer.json()["error"]


def test_metrics(ready):
    ask(ready, "POST", "/v1/recall", json={"user_id": 1})
    text = ask(ready, "GET", "/metrics")
    assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'freshrecall_requests_total{route="/v1/recall",status="200"} 1.0' in text.text
    assert f"freshrecall_watermark_ms {float(HOUR)}" in text.text.replace("3.6e+06", str(float(HOUR)))
    assert "freshrecall_cold_answers_total 1.0" in text.text


def test_unexpected_errors_are_answers_and_counted(ready, caplog):
    ready.profiles.put("u1", [("i5", "click", "not a time")])
    answer = ask(ready, "POST", "/v1/recall", json={"user_id": "u1", "ts_ms": 5})
    assert answer.status_code == 500
    assert "TypeError" in answer.json()["error"]
    assert ready.counted("requests", route="/v1/recall", status="500") == 1


def references(node):
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_openapi_document_is_whole(world):
    document = ask(world, "GET", "/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    assert {"title", "version"} <= set(document["info"])
    schemas = document["components"]["schemas"]
    found = list(references(document))
    assert found
    for reference in found:
        assert reference.removeprefix("#/components/schemas/") in schemas
    names = set()
    for path, methods in document["paths"].items():
        assert path.startswith("/")
        for method, operation in methods.items():
            assert method in ("get", "post")
            names.add(operation["operationId"])
            assert operation["responses"]
            for status, response in operation["responses"].items():
                assert re.fullmatch(r"\d{3}", status)
                assert response["description"]
            in_path = re.findall(r"\{(\w+)\}", path)
            declared = [
                p["name"] for p in operation.get("parameters", []) if p["in"] == "path" and p["required"]
            ]
            assert declared == in_path
    assert len(names) == 6
    assert set(schemas["RecallRequest"]["properties"]) == {
        "user_id", "k", "context", "exclude", "exclude_seen", "explain", "ts_ms"
    }  # fmt: skip
    assert schemas["RecallRequest"]["additionalProperties"] is False


def test_docs_page_needs_no_internet(world):
    page = ask(world, "GET", "/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "openapi.json" in page.text
    assert not re.search(r"(src|href)\s*=|https?://|@import|url\(", page.text)
    assert Path("serving/static/docs.html").exists()


def test_hostile_bodies_and_paths_are_the_clients_fault(ready):
    for body in (b'{"user_id": 1, "k": 0', b'{"user_id": 1, "k": 0, "context": ' + b"[" * 100_000):
        answer = ask(ready, "POST", "/v1/recall", content=body)
        assert (answer.status_code, answer.json()["where"]) == (422, "$.k")
    assert ask(ready, "POST", "/v1/recall", json={"user_id": 1, "ts_ms": 2**62}).status_code == 422
    for item in ("--5", "-", "9999999999999999999", "٥"):
        assert ask(ready, "GET", f"/v1/items/{item}/similar").status_code == 404


def test_events_that_the_stream_would_refuse_are_refused_at_once(ready):
    lacking = ask(ready, "POST", "/v1/events", json={"user_id": 1, "kind": "click"})
    assert (lacking.status_code, lacking.json()["where"]) == (422, "$.item_id")
    long = [{"user_id": 1, "kind": "search"}, {"user_id": 1, "kind": "search", "request_id": "é" * 200}]
    refused = ask(ready, "POST", "/v1/events", json=long)
    assert (refused.status_code, refused.json()["where"]) == (422, "$[1].request_id")


def test_a_hanging_and_a_failing_channel_leave_the_answer_alone(tmp_path, monkeypatch):
    """Both are named; the other channel's items come, in the time that was set."""
    let_go = threading.Event()

    def hang(self, ask, k):
        assert let_go.wait(60)
        return []

    def fail(self, ask, k):
        raise OSError("broken")

    monkeypatch.setattr(PopularSource, "candidates", hang)
    monkeypatch.setattr(OwnItemsSource, "candidates", fail)
    config = ServingConfig.model_validate(
        {
            "clock": "event",
            "channels": {"popularity": {"timeout_ms": 20}, "own_items": {}},
            "channel_timeout_ms": 60_000,
        }
    )
    world = World(tmp_path, config)
    world.serve(world.bundle())

    async def ask():
        async with world.client() as client:
            return [
                (await client.post("/v1/recall", json={"user_id": "u1", "k": 5})).json() for _ in range(3)
            ]

    answers = asyncio.run(ask())
    let_go.set()
    for body in answers:
        assert len(body["items"]) == 5
        assert {item["channel"] for item in body["items"]} == {"m"}
        assert sorted(text.split(":")[0] for text in body["degraded"]) == [
            "channel own_items",
            "channel popularity",
        ]
    dropped = {
        name: world.swapper.metrics.registry.get_sample_value(
            "freshrecall_channels_dropped_total", {"channel": name}
        )
        for name in ("popularity", "own_items")
    }
    assert dropped == {"popularity": 3.0, "own_items": 3.0}


def test_other_methods_and_paths(ready):
    wrong = ask(ready, "GET", "/v1/recall")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert ask(ready, "POST", "/v1/recall/", json={"user_id": 1}).status_code in (307, 404)
    assert ask(ready, "POST", "/v1/nothing").status_code == 404
    assert ask(ready, "HEAD", "/healthz").status_code == 200


def test_answers_that_are_asked_for_at_once_are_those_asked_for_in_turn(tmp_path, monkeypatch):
    """Also beside one that fails, which is named in its own answer only."""
    world = World(tmp_path)
    world.serve(world.bundle())
    for at in range(8):
        world.profiles.put(f"u{at}", [("i1", "click", HOUR - 100), (f"i{at}", "click", HOUR - 50)])
    sizes, queries = [], FakeTower.queries

    def failing(self, moments):
        sizes.append(len(moments))
        if "u5" in moments.user_id.to_pylist():
            raise ValueError("broken")
        return queries(self, moments)

    monkeypatch.setattr(FakeTower, "queries", failing)

    async def ask():
        async with world.client() as client:
            posts = [{"user_id": f"u{at}", "k": 5} for at in range(8)]
            in_turn = [(await client.post("/v1/recall", json=body)).json() for body in posts]
            at_once = await asyncio.gather(*(client.post("/v1/recall", json=body) for body in posts))
            return in_turn, [one.json() for one in at_once]

    in_turn, at_once = asyncio.run(ask())
    assert max(sizes) == FakeTower.together
    for at, (one, other) in enumerate(zip(in_turn, at_once, strict=True)):
        assert {**one, "request_id": ""} == {**other, "request_id": ""}
        assert one["degraded"] == (["channel m: ValueError: broken"] if at == 5 else [])
        assert {item["channel"] for item in one["items"]} == {"popularity" if at == 5 else "m"}
