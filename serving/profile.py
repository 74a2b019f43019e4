"""What serving reads of a user's online profile (stream.profiles has the real ones)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from stream.seen import BloomSeen, ExactSeen


class HistoryEntry(Protocol):
    """Something the user did: item key text, kind of event, event time."""

    @property
    def item_id(self) -> str:
        """Key text of the item."""
        ...

    @property
    def kind(self) -> str:
        """Kind of the event."""
        ...

    @property
    def ts_ms(self) -> int:
        """Event time."""
        ...

    @property
    def request_id(self) -> str:
        """Request that the event belongs to, "" for none."""
        ...


class Profile(Protocol):
    """Profile of one user; empty for an unknown one."""

    @property
    def history(self) -> Sequence[HistoryEntry]:
        """Recent events, oldest first."""
        ...

    @property
    def consumed(self) -> Mapping[str, int]:
        """Item key -> event time of the last consumption; never mere impressions."""
        ...

    @property
    def attributes(self) -> Mapping[str, str]:
        """Attributes of the user."""
        ...

    @property
    def seen(self) -> Sequence[ExactSeen | BloomSeen]:
        """The seen sets that the request reads."""
        ...

    @property
    def position(self) -> str:
        """Place in the event stream up to which the profile is."""
        ...


class ProfileSource(Protocol):
    """Fetches a profile by the user's key text in one round trip; reading never mutates."""

    async def fetch(self, user_id: str, consumed: bool = True) -> Profile:
        """The profile, without what only requests with exclude_seen read unless `consumed`; may raise when
        the store is away.
        """
        ...


class NoProfile(msgspec.Struct, frozen=True):
    """Stands in when the profile store does not answer."""

    history: tuple[HistoryEntry, ...] = ()
    consumed: dict[str, int] = {}
    attributes: dict[str, str] = {}
    position: str = ""
    seen: tuple[ExactSeen | BloomSeen, ...] = ()


NO_PROFILE = NoProfile()
