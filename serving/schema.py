"""Requests and answers of the HTTP API: the only definition, also of the OpenAPI page."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from stream.event import Context, Event, Finite, Identifier, Kind, Label

MAX_K = 1000
MAX_EXCLUDE = 10_000
LAST_MOMENT_MS = 253_402_214_400_000  # 9999-12-31 UTC: calendars of time zones end there
MomentMs = Annotated[
    int, Meta(ge=1, le=LAST_MOMENT_MS, description="Event time, milliseconds since 1970 UTC.")
]


class RecallRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who asks for what. IDs are integers or strings; 5 and "5" differ."""

    user_id: Identifier
    k: Annotated[int, Meta(ge=1, le=MAX_K, description="How many items.")] = 50
    context: Annotated[Context, Meta(description='Features of the moment, such as "scene".')] = {}
    exclude: Annotated[
        list[Identifier], Meta(max_length=MAX_EXCLUDE, description="Items not to return.")
    ] = []
    exclude_seen: Annotated[
        bool, Meta(description="Leave out what the user consumed, and all seen sets of the server.")
    ] = False
    explain: Annotated[bool, Meta(description="Say how the answer came about.")] = False
    ts_ms: MomentMs | None = None


class RecalledItem(msgspec.Struct, frozen=True, gc=False):
    """An item, and the channel it came from: the name of a recall model or item-to-item channel, or of a
    built-in one such as "popularity" or "popular_now".

    Scores compare within one channel: the model's score, sum of similarities to the history, decayed count
    (popularity), or events per hour (popular_now).
    """

    id: int | str
    score: float
    channel: str


class FoundBy(msgspec.Struct, frozen=True, gc=False):
    """What one channel said about an item: its raw score and its rank there, 0 = best."""

    channel: str
    score: float
    rank: int


class ExplainedItem(msgspec.Struct, frozen=True):
    """An item of the answer: the channels that named it, what fusion ordered it by (0 = by turns), its score
    in each stage that looked at it, and by capped attribute how many candidates of its value were left out;
    counts: how often it was taken and shown of late by half-life, where the blend read it.
    """

    id: int | str
    value: float
    found_by: list[FoundBy]
    stages: dict[str, float] = {}
    crowded_out: dict[str, int] = {}
    counts: dict[str, float] = {}


class Explanation(msgspec.Struct, frozen=True):
    """How an answer came about.

    excluded: items left out for this user; `filters`: how many by each filter (an item may be under several),
    those by attribute counted over the whole catalogue, those by Bloom filter over the candidates; channels:
    how many of the answer's items each stands for; candidates: how many each gave; caps: how many candidates
    each cap left out.
    """

    ts_ms: int
    cold: bool
    history: int
    excluded: int
    channels: dict[str, int]
    method: str = ""
    filters: dict[str, int] = {}
    candidates: dict[str, int] = {}
    items: list[ExplainedItem] = []
    caps: dict[str, int] = {}


class RecallAnswer(msgspec.Struct, frozen=True):
    """Items, best first, and the version of everything that was read for them.

    `catalogue` is the sequence of the catalogue that the items' attributes came from, `profile` the position
    of
    the user's profile in the event stream ("" = none); `degraded` names what was missing.
    """

    items: list[RecalledItem]
    bundle: str
    delta: int
    watermark_ms: int
    catalogue: int
    profile: str
    request_id: str
    degraded: list[str] = []
    explain: Explanation | None = None


class SimilarAnswer(msgspec.Struct, frozen=True):
    """Items nearest to an item that answers may hold, best first."""

    items: list[RecalledItem]
    bundle: str
    delta: int
    watermark_ms: int


class PostedEvent(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An event of a client. Without an event_id it gets a random one, without ts_ms the server's time."""

    user_id: Identifier
    kind: Kind
    item_id: Identifier | None = None
    event_id: Label = ""
    ts_ms: MomentMs | None = None
    scene: Label = ""
    request_id: Label = ""
    value: Finite | None = None
    context: Context = {}

    def event(self, event_id: str, now_ms: int) -> Event:
        """As the stream's event, with what the client left out."""
        return Event(
            event_id=self.event_id or event_id,
            ts_ms=now_ms if self.ts_ms is None else self.ts_ms,
            user_id=self.user_id,
            item_id=self.item_id,
            kind=self.kind,
            scene=self.scene,
            request_id=self.request_id,
            value=self.value,
            context=self.context,
        )


class EventsAnswer(msgspec.Struct, frozen=True):
    """How many events were handed to the stream, and their IDs in the order given."""

    accepted: int
    event_ids: list[str]


class Health(msgspec.Struct, frozen=True):
    """State of the server; `reason` says why it is not ready."""

    status: str
    reason: str = ""
    bundle: str = ""
    delta: int = 0
    watermark_ms: int = 0


class Problem(msgspec.Struct, frozen=True):
    """Why a request was not answered."""

    error: str
    where: str = ""
    expected: str = ""
    got: str = ""
