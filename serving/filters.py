"""What may not be answered. Known before any channel is asked, so that answers stay full."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from serving.profile import Profile
from stream.event import Identifier, Kind
from stream.seen import BloomSeen, ExactSeen

SEEN = "seen "
"""How the names of filters by a seen set begin; the set's name follows."""


class SeenRule(BaseModel):
    """Items that the user met in some way and not long ago."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kinds: tuple[Kind, ...] = Field(min_length=1, description="Kinds of events that count.")
    horizon_h: float | None = Field(
        None, gt=0, description="Hours before the request; none = as long as the profile remembers."
    )


AttributeValue = str | int | float | bool
Values = dict[str, tuple[AttributeValue, ...]]


class AttributeRules(BaseModel):
    """What answers leave out by item attributes of the catalogue."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    blocked: Values = Field(
        default_factory=dict,
        description="Attribute -> values: an item with one of them is left out (author_id = [17]).",
    )
    require: Values = Field(
        default_factory=dict,
        description="Attribute -> values: an item with none of them is left out (available = [true]).",
    )
    missing: Literal["allow", "block"] = Field(
        "allow",
        description="What becomes of an item of the catalogue that lacks a required attribute. One that the "
        "catalogue does not know is always allowed.",
    )

    @property
    def attributes(self) -> frozenset[str]:
        """Attributes that are read."""
        return frozenset(self.blocked) | frozenset(self.require)

    @property
    def active(self) -> bool:
        """Whether anything is left out for everybody."""
        return bool(self.blocked or self.require)


class FilterConfig(AttributeRules):
    """What every answer leaves out, whatever the request says."""

    seen: tuple[SeenRule, ...] = Field(
        (),
        description="Items of the user's history (profiles.history_length newest events), by kind and age; "
        "[seen.NAME] remembers more of them.",
    )
    blocked_items: tuple[Identifier, ...] = Field((), description="Items that nobody gets.")

    @property
    def active(self) -> bool:
        """Whether anything is left out for everybody."""
        return bool(self.blocked or self.require or self.blocked_items)


def barred(
    config: FilterConfig, profile: Profile, ts_ms: int, exclude: set[str], exclude_seen: bool
) -> Mapping[str, set[str]]:
    """Filter -> item key texts that it leaves out of the answer at ts_ms; one item may be under several.

    request: its `exclude`; consumed: all that the user ever consumed, where the request asks for it;
    seen: by configuration, and those of exact seen sets by name. What nobody gets is in no channel to begin
    with (serving/eligible.py).
    """
    filters: dict[str, set[str]] = {}
    if exclude:
        filters["request"] = exclude
    if exclude_seen and profile.consumed:
        filters["consumed"] = set(profile.consumed)
    if config.seen and (seen := _seen(config, profile, ts_ms)):
        filters["seen"] = seen
    for one in profile.seen:
        if isinstance(one, ExactSeen) and (listed := one.listed(ts_ms)):
            filters[SEEN + one.name] = listed
    return filters


class HeldBack:
    """What Bloom filters hold back of the candidates of one answer: they cannot be listed, only asked.

    by_filter: the items held back so far, keys: all of them; one may be under several.
    """

    def __init__(self, seen: Sequence[BloomSeen], ts_ms: int) -> None:
        self.by_filter: dict[str, set[str]] = {SEEN + one.name: set() for one in seen}
        self._seen, self._ts_ms = seen, ts_ms
        self.keys: set[str] = set()
        self._asked: set[str] = set()

    def __bool__(self) -> bool:
        """Whether there are filters at all."""
        return bool(self._seen)

    def among(self, keys: Collection[str]) -> set[str]:
        """Those of some items that may not be answered; each is tested once."""
        if new := [key for key in keys if key not in self._asked]:
            self._asked.update(new)
            for one in self._seen:
                there = one.holds(new, self._ts_ms).tolist()
                mine = {key for key, held in zip(new, there, strict=True) if held}
                self.by_filter[SEEN + one.name] |= mine
                self.keys |= mine
        return self.keys.intersection(keys)


def _seen(config: FilterConfig, profile: Profile, ts_ms: int) -> set[str]:
    since_ms: dict[str, float] = {}
    for rule in config.seen:
        begin_ms = float("-inf") if rule.horizon_h is None else ts_ms - 3_600_000 * rule.horizon_h
        for kind in rule.kinds:
            since_ms[kind] = min(begin_ms, since_ms.get(kind, begin_ms))
    return {
        entry.item_id
        for entry in profile.history
        if entry.item_id and entry.ts_ms <= ts_ms and entry.ts_ms >= since_ms.get(entry.kind, float("inf"))
    }
