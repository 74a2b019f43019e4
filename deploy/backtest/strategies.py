"""The update strategies that are compared. All read the same live histories and differ in parameters only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from deploy.errors import StartError
from models.model_config import ModelConfig
from models.table_names import row_widths


@dataclass(frozen=True)
class Strategy:
    """How one contestant's parameters move.

    daily: takes every local midnight's full retrain; else the first one for ever.
    shuffled: whether its full retrains shuffle. steps: what its incremental steps move in between.
    live_counts: popularity goes on between publishes even without steps (it is data, not a parameter).
    """

    name: str
    meaning: str
    daily: bool
    shuffled: bool = True
    steps: Literal["none", "users", "rows", "everything"] = "none"
    live_counts: bool = False

    @property
    def moves(self) -> bool:
        """Whether anything changes between two full retrains."""
        return self.live_counts or self.steps != "none"

    def configured(self, config: ModelConfig) -> ModelConfig:
        """The model with the tables that this strategy's steps may move and publish."""
        if self.steps in ("none", "everything"):
            return config
        tables: tuple[str, ...] = ("user",)
        if self.steps == "rows":
            tables = tuple(t for t in ("user", "item", "history_item") if t in row_widths(config, ()))
        changes: dict[str, Any] = {"trained_tables": tables, "published_tables": tables}
        return config.model_copy(update=changes)


STRATEGIES = {
    strategy.name: strategy
    for strategy in (
        Strategy("frozen", "no update after the start", daily=False),
        Strategy("frozen_live", "frozen, with live popularity", daily=False, live_counts=True),
        Strategy("daily", "full retrain every midnight", daily=True),
        Strategy("daily_live", "daily, with live popularity", daily=True, live_counts=True),
        Strategy("daily_ordered", "daily without the shuffle", daily=True, shuffled=False),
        Strategy("hourly", "daily, and steps on user rows every interval", daily=True, steps="users"),
        Strategy("hourly_items", "daily, and steps on user and item rows", daily=True, steps="rows"),
        Strategy("hourly_all", "daily, and steps on every weight", daily=True, steps="everything"),
        Strategy("incremental_only", "steps on user rows, no further full", daily=False, steps="users"),
        Strategy(
            "incremental_only_items",
            "steps on user and item rows, no further full",
            daily=False,
            steps="rows",
        ),
        Strategy(
            "incremental_only_all", "steps on every weight, no further full", daily=False, steps="everything"
        ),
    )
}


def chosen(names: tuple[str, ...]) -> list[Strategy]:
    """Strategies by name, in the order given. Raises StartError naming the ones there are."""
    unknown = [name for name in names if name not in STRATEGIES]
    if unknown or not names:
        raise StartError(
            f"strategies: expected some of {', '.join(STRATEGIES)}, got {', '.join(unknown) or 'none'}"
        )
    return [STRATEGIES[name] for name in dict.fromkeys(names)]
