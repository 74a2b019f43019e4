"""Declarations of features and of further histories, once for training and serving alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

TransformName = Literal["log", "square", "sqrt"]
SourceName = Literal["user", "item", "context", "time"]
KindName = Literal["category", "categories", "tokens", "number", "cross"]

_LENGTHS = {"categories": 8, "tokens": 16}
_SEPARATOR = ","
_TIME_KINDS = {"hour_of_day": "category", "day_of_week": "category", "example_age": "number"}


class FeatureConfig(BaseModel):
    """One feature, declared once and used by training and serving alike (models/features.py says how)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(
        min_length=1,
        description="Column (user, item), context key, or hour_of_day / day_of_week / example_age (time); "
        "a cross may have any name.",
    )
    source: SourceName = Field(
        description="Where the value comes from. A cross: item, or context for user x context x time."
    )
    kind: KindName = Field(
        default="category",
        description="category: one embedded value. categories: several, averaged. tokens: words and pairs of "
        "neighbouring words of a text, averaged. number: standardised. cross: several categories as one.",
    )
    transforms: tuple[TransformName, ...] = Field(
        default=(), description="Further forms of a number, each an input."
    )
    dim: int = Field(default=8, ge=4, multiple_of=4, description="Width of a category's embedding.")
    length: int | None = Field(
        default=None,
        ge=1,
        description="Most values that are read of categories (8 when not given) or tokens (16).",
    )
    separator: str = Field(
        default=_SEPARATOR, min_length=1, description="Between the values of categories given as one text."
    )
    of: tuple[str, ...] = Field(
        default=(), description="Names of the category features that a cross joins, two or more of one side."
    )

    @property
    def table(self) -> str:
        """Name of the feature's ID table, e.g. "item.department"."""
        return f"{self.source}.{self.name}"

    @property
    def slots(self) -> int:
        """Entries a sample holds of it: 1, `length` of a feature with several values, 0 of a number."""
        if self.kind == "number":
            return 0
        return self.length or _LENGTHS.get(self.kind, 1)

    @property
    def item_side(self) -> bool:
        """Whether the item tower reads it; else the user tower does."""
        return self.source == "item"

    @model_validator(mode="after")
    def _fields_fit_the_kind(self) -> FeatureConfig:
        where = f"feature {self.table}"
        if self.transforms and self.kind != "number":
            raise ValueError(f"{where}: transforms are of numbers, this is of kind {self.kind!r}")
        if self.length is not None and self.kind not in _LENGTHS:
            raise ValueError(f"{where}: length is of categories and tokens; kind {self.kind!r} has one value")
        if self.separator != _SEPARATOR and self.kind != "categories":
            raise ValueError(f"{where}: separator is of kind 'categories', this is of kind {self.kind!r}")
        if self.of and self.kind != "cross":
            raise ValueError(f"{where}: of names the parts of a cross, this is of kind {self.kind!r}")
        if self.kind == "cross":
            if len(self.of) < 2 or len(set(self.of)) < len(self.of):
                raise ValueError(f"{where}: a cross is of two or more different features, got {self.of}")
            if self.source not in ("item", "context"):
                raise ValueError(
                    f"{where}: a cross has source 'item' (of item features) or 'context' (of user, context "
                    f"and time features), got {self.source!r}"
                )
        elif self.source == "time":
            if self.name not in _TIME_KINDS:
                raise ValueError(f"{where}: unknown time feature; known: {', '.join(_TIME_KINDS)}")
            if self.kind != _TIME_KINDS[self.name]:
                raise ValueError(
                    f"{where}: expected kind {_TIME_KINDS[self.name]!r}, got {self.kind!r}; "
                    "any other would be read as another feature"
                )
        return self


class HistoryConfig(BaseModel):
    """One further history of the user, pooled beside the main one: what was viewed, liked, skipped."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kinds: tuple[str, ...] = Field(min_length=1, description="Kinds of events it holds.")
    length: int = Field(default=50, ge=1, description="Newest items that are pooled.")


def check_features(features: Sequence[FeatureConfig]) -> None:
    """Refuse features that cannot stand together (ValueError): one column declared twice, a cross of what is
    not a category of its side.
    """
    kinds: dict[str, list[str]] = {}
    for feature in features:
        kinds.setdefault(feature.table, []).append(feature.kind)
    for table, declared in kinds.items():
        if len(declared) > 1 and sorted(declared) != ["category", "number"]:
            raise ValueError(
                f"features: {table} is declared {len(declared)} times, as {', '.join(declared)}; "
                "expected once, or once as category and once as number"
            )
    for cross in features:
        for name in cross.of:
            crossed(cross, name, features)


def crossed(cross: FeatureConfig, name: str, features: Sequence[FeatureConfig]) -> FeatureConfig:
    """The category feature of the cross's side that `name` ("town" or "user.town") means; ValueError for
    none or several.
    """
    named = [feature for feature in features if name in (feature.name, feature.table)]
    side = [feature for feature in named if feature.item_side == cross.item_side]
    found = [feature for feature in side if feature.kind == "category"]
    if len(found) == 1:
        return found[0]
    where = f"features: cross {cross.table}: part {name!r}"
    if found:
        raise ValueError(f"{where} means {' and '.join(part.table for part in found)}; write one of these")
    if side:
        raise ValueError(f"{where} is of kind {side[0].kind!r}; expected a category")
    if named:
        raise ValueError(
            f"{where} is {named[0].table}, of the other side; a tower sees only its own side's features"
        )
    known = [part.table for part in features if part.kind == "category" and part.item_side == cross.item_side]
    raise ValueError(f"{where} is not declared; categories of this side: {', '.join(known) or 'none'}")
