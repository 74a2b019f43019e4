"""The HTTP API: routes, status codes, JSON in and out. Everything a request reads comes from one snapshot."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from models.index import set_search_threads
from serving.answering import Chosen, steps
from serving.asking import Asking, Live, ask
from serving.audit import AuditLog
from serving.channels.editorial import EditorialFile
from serving.config import ServingConfig
from serving.deadlines import Deadlines, Within
from serving.errors import BadRequest, NotFound, TooLarge
from serving.gather import Gathered, Lanes
from serving.metrics import CONTENT_TYPE, ServingMetrics
from serving.openapi import document
from serving.profile import NO_PROFILE, Profile, ProfileSource
from serving.recall import answer, answer_of_one, answer_of_written, only_call
from serving.rejects import RejectSender, reject_events
from serving.schema import MAX_K, EventsAnswer, Health, PostedEvent, Problem, RecallAnswer, RecallRequest
from serving.similar import similar
from serving.snapshot import Snapshot
from serving.stages import Rejected, spread
from serving.swap import Swapper
from serving.validation import check_event, decode, key_text, whole_number
from serving.written import answer_json, with_items
from stream.event import Event
from stream.keys import INT64_MAX, INT64_MIN

PublishEvents = Callable[[Sequence[Event]], object]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]
_Asked = TypeVar("_Asked")
_JSON = "application/json"
_LOG = logging.getLogger(__name__)
_ENCODE = msgspec.json.Encoder().encode
_RECALL = msgspec.json.Decoder(RecallRequest).decode
_EVENT = msgspec.json.Decoder(PostedEvent).decode
_EVENTS = msgspec.json.Decoder(list[PostedEvent]).decode
_DOCS = Path(__file__).parent / "static" / "docs.html"
_RECALL_PATH = "/v1/recall"


@dataclass(frozen=True, slots=True)
class Reply:
    """What a handler answers."""

    content: bytes
    status: int = 200
    media_type: str = _JSON


Handler = Callable[[_Asked], Awaitable[Reply]]


class NotReady(RuntimeError):
    """There is no snapshot yet, or the stream does not take events: try again later."""


class Api:
    """The handlers, and what they need. Built by `build_app`."""

    def __init__(
        self,
        config: ServingConfig,
        swapper: Swapper,
        profiles: ProfileSource,
        events: PublishEvents,
        audit: AuditLog | None = None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        seed: int = 0,
    ) -> None:
        self.config, self.swapper, self.profiles, self.events = config, swapper, profiles, events
        self.audit, self.now_ms, self.metrics = audit, now_ms, swapper.metrics
        self._sampling = random.Random(seed)
        self._drawing = random.Random()  # begins as the system says; to ask it for every request takes longer
        self.rejects = RejectSender(events, self.metrics)
        self._lanes = Lanes(self._prepare_lane)
        self._profile_deadlines = Deadlines(config.profile_timeout_s)
        self._editorial = EditorialFile(config.editorial_file)
        self._openapi = _ENCODE(document())

    def snapshot(self) -> Snapshot:
        """The served snapshot: read this once per request."""
        snapshot = self.swapper.served.snapshot
        if snapshot is None:
            why = self.swapper.last_refusal or "no bundle has been published and pointed to yet"
            raise NotReady(f"no snapshot is served: {why}")
        return snapshot

    def _prepare_lane(self) -> None:
        # Of this thread: one search at a time, as many threads as configured.
        set_search_threads(self.config.threads)

    def close(self) -> None:
        """End the channels' threads."""
        self._lanes.close()

    async def recall(self, receive: Receive) -> Reply:
        """POST /v1/recall."""
        body = decode(_RECALL, await self._body(receive))
        self.snapshot()  # without one, there is no reason to ask for the profile
        profile, degraded = await self._profile(key_text(body.user_id, "$.user_id"), body.exclude_seen)
        snapshot, served = self.snapshot(), self.swapper.served
        ts_ms = body.ts_ms or self._moment_ms(snapshot, profile)
        live = Live(served.popular, served.counts)
        request_id, lists = f"{self._drawing.getrandbits(128):032x}", self._editorial.lists()
        asking = ask(snapshot, body, profile, ts_ms, self.config, lists, live, request_id)
        if asking.popular_missing:
            self.metrics.popular_fallbacks.inc()
        answered, items, turned_down = await self._answered(asking, request_id, degraded)
        if turned_down and (sent := spread(turned_down, self.config.rejects_per_answer)):
            self.rejects.send(reject_events(body, ts_ms, answered, sent))
        if not profile.history:
            self.metrics.cold.inc()
        if self.audit and self._sampling.random() < self.config.audit_share:
            whole = with_items(answered, items)
            self.audit.write(body, ts_ms, profile, whole, snapshot.fresh.key_set)
            self.metrics.audited.inc()
        return Reply(answer_json(answered, items))

    async def _answered(
        self, asking: Asking, request_id: str, degraded: Sequence[str]
    ) -> tuple[RecallAnswer, bytes, Sequence[Rejected]]:
        """The answer, every step's calls in lanes; its items where they are written already; and what the
        stages turned down.
        """
        only, gathered = asking.only, Gathered[Any]({}, {})
        if only:  # its steps are not worked out unless more is asked than this
            gathered = await self._lanes.gather({only: only_call(asking)}, asking.limits_s)
            found = gathered.answers.get(only, ())
            if isinstance(found, bytes):
                return answer_of_written(asking, request_id, degraded), found, ()
            if len(found) >= asking.request.k:
                return answer_of_one(asking, found, request_id, degraded), b"", ()
        plan, dropped = steps(asking), dict[str, str]()
        step = next(plan)
        if not only:
            gathered = await self._lanes.gather(step.calls, step.limits_s)
        while True:
            dropped = {**gathered.dropped, **dropped}
            try:
                step = plan.send(gathered.answers)
            except StopIteration as done:
                chosen: Chosen = done.value
                break
            gathered = await self._lanes.gather(step.calls, step.limits_s)
        for name in dropped:
            self.metrics.dropped.labels(name).inc()
        missing = [f"channel {name}: {why}" for name, why in dropped.items()]
        return answer(asking, chosen, request_id, [*degraded, *missing]), b"", chosen.turned_down

    async def similar(self, request: Request) -> Reply:
        """GET /v1/items/{id}/similar."""
        text, query = request.path_params["id"], request.query_params
        k = whole_number(query.get("k", "50"), "query k", 1, MAX_K)
        keys = [key_text(text, "path id")]
        if re.fullmatch(r"-?[0-9]{1,19}", text) and INT64_MIN <= int(text) <= INT64_MAX:
            # A path has no types: the string "5" is tried first, then the number 5.
            keys.append(key_text(int(text), "path id"))
        model, scene = query.get("model", ""), query.get("scene", "")
        return _json(similar(self.snapshot(), keys, k, model, self.config, scene))

    async def post_events(self, request: Request) -> Reply:
        """POST /v1/events."""
        body = await self._body(request.receive)
        single = not body.lstrip().startswith(b"[")
        posted = [decode(_EVENT, body)] if single else decode(_EVENTS, body)
        now_ms = self.now_ms()
        for at, event in enumerate(posted):
            check_event(event, "$" if single else f"$[{at}]")
        events = [event.event(uuid.uuid4().hex, now_ms) for event in posted]
        try:
            await asyncio.to_thread(self.events, events)
        except Exception as error:  # whatever the stream's client raises; the client may try again
            _LOG.exception("events were not taken in")
            raise NotReady(f"the stream did not take the events: {error}") from error
        self.metrics.events.inc(len(events))
        return _json(EventsAnswer(len(events), [event.event_id for event in events]), 202)

    async def health(self, request: Request) -> Reply:
        """GET /healthz: the process is alive."""
        return _json(Health("alive"))

    async def ready(self, request: Request) -> Reply:
        """GET /readyz: there is a snapshot."""
        snapshot = self.snapshot()
        return _json(Health("ready", "", snapshot.bundle, snapshot.delta, snapshot.watermark_ms))

    async def metrics_text(self, request: Request) -> Reply:
        """GET /metrics."""
        return Reply(self.metrics.text(), media_type=CONTENT_TYPE)

    async def openapi(self, request: Request) -> Reply:
        """GET /openapi.json."""
        return Reply(self._openapi)

    async def docs(self, request: Request) -> Reply:
        """GET /docs: a page that needs nothing but this server."""
        return Reply(_DOCS.read_bytes(), media_type="text/html; charset=utf-8")

    async def _body(self, receive: Receive) -> bytes:
        limit, body, more = self.config.max_body_bytes, b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise BadRequest("the client went away", "$", "a whole body", f"{len(body)} bytes")
            body, more = body + message.get("body", b""), message.get("more_body", False)
            if len(body) > limit:
                raise TooLarge(f"body: expected at most {limit} bytes (serving.max_body_bytes), got more")
        return body

    async def _profile(self, user_key: str, consumed: bool) -> tuple[Profile, tuple[str, ...]]:
        try:
            with Within(self._profile_deadlines):
                return await self.profiles.fetch(user_key, consumed), ()
        except Exception as error:  # a store that is away must not take recall down with it
            self.metrics.profile_failures.inc()
            return NO_PROFILE, (f"profile: {type(error).__name__}: {str(error)[:200]}",)

    def _moment_ms(self, snapshot: Snapshot, profile: Profile) -> int:
        """The moment of a request that names none, never before what the user did last."""
        now_ms = self.now_ms() if self.config.clock == "wall" else snapshot.watermark_ms
        return max(now_ms, profile.history[-1].ts_ms) if profile.history else now_ms


def build_app(api: Api) -> App:
    """The ASGI application: recall by itself, all other routes through Starlette, which takes longer to find
    the route than recall does to answer.
    """
    routes: list[tuple[str, str, Handler[Request]]] = [
        ("POST", "/v1/events", api.post_events),
        ("GET", "/v1/items/{id:path}/similar", api.similar),
        ("GET", "/healthz", api.health),
        ("GET", "/readyz", api.ready),
        ("GET", "/metrics", api.metrics_text),
        ("GET", "/openapi.json", api.openapi),
        ("GET", "/docs", api.docs),
    ]
    recall = _observed(_RECALL_PATH, api.recall, api.metrics)
    others = Starlette(
        routes=[
            Route(path, _through_starlette(_observed(path, handler, api.metrics)), methods=[method])
            for method, path, handler in routes
        ]
        + [Route(_RECALL_PATH, _through_starlette(api.health), methods=["POST"])]  # for other methods: 405
    )

    async def app(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != _RECALL_PATH or scope["method"] != "POST":
            await others(scope, receive, send)
            return
        reply = await recall(receive)
        length = str(len(reply.content)).encode()
        headers = [(b"content-type", reply.media_type.encode()), (b"content-length", length)]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.content})

    return app


def _through_starlette(handler: Handler[Request]) -> Callable[[Request], Awaitable[Response]]:
    async def answered(request: Request) -> Response:
        reply = await handler(request)
        return Response(reply.content, reply.status, media_type=reply.media_type)

    return answered


def _observed(route: str, handler: Handler[_Asked], metrics: ServingMetrics) -> Handler[_Asked]:
    """The handler with its errors as answers, counted and timed."""
    latency = metrics.latency.labels(route)
    fine = metrics.requests.labels(route, "200")

    async def observed(asked: _Asked) -> Reply:
        began = time.perf_counter()
        try:
            reply = await handler(asked)
        except BadRequest as error:
            reply = _json(Problem(error.what, error.where, error.expected, error.got), 422)
        except TooLarge as error:
            reply = _json(Problem(str(error)), 413)
        except NotFound as error:
            reply = _json(Problem(str(error)), 404)
        except NotReady as error:
            reply = _json(Problem(str(error)), 503)
        except Exception as error:
            _LOG.exception("%s failed", route)
            reply = _json(Problem(f"internal error: {type(error).__name__}"), 500)
        if reply.status == 200:
            fine.inc()
        else:
            metrics.requests.labels(route, str(reply.status)).inc()
        latency.observe(time.perf_counter() - began)
        return reply

    return observed


def _json(body: Any, status: int = 200) -> Reply:
    return Reply(_ENCODE(body), status)
