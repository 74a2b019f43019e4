"""The three streams of events that are measured on."""

from __future__ import annotations

import argparse
import hashlib
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from deploy.backtest.targets import Targets, targets_of
from deploy.datasets import completejourney, read_events

KUAIRAND, MOVIETWEETINGS, COMPLETEJOURNEY = "kuairand", "movietweetings", "completejourney"
NAMES = (KUAIRAND, MOVIETWEETINGS, COMPLETEJOURNEY)
POSITIVES = {KUAIRAND: ("click", "long_view"), MOVIETWEETINGS: ("like",), COMPLETEJOURNEY: ("purchase",)}
DAY_TIMEZONE = {KUAIRAND: "Asia/Shanghai", MOVIETWEETINGS: "UTC", COMPLETEJOURNEY: "UTC"}
START_MS = {KUAIRAND: 1_651_056_544_560}
"""Where given; else the test window begins at the target with four fifths of all targets before it."""
BEFORE = 0.8


@dataclass(frozen=True)
class DataSet:
    """Tables in the standard form, and what is asked of them."""

    name: str
    events: Path
    items: Path | None
    users: Path | None

    @property
    def positives(self) -> tuple[str, ...]:
        return POSITIVES[self.name]

    @property
    def day_timezone(self) -> str:
        return DAY_TIMEZONE[self.name]

    @property
    def start_ms(self) -> int:
        if self.name in START_MS:
            return START_MS[self.name]
        return int(self.targets.ts_ms[int(BEFORE * len(self.targets))])

    @cached_property
    def targets(self) -> Targets:
        """By their numbers in predictions.parquet; keys are the IDs as the table has them."""
        return targets_of(read_events(self.events), self.positives)

    @cached_property
    def sha256(self) -> str:
        """Of all its tables, one after the other."""
        digest = hashlib.sha256()
        for path in (self.events, self.items, self.users):
            if path:
                digest.update(path.read_bytes())
        return digest.hexdigest()


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """The options that name the data sets."""
    add = parser.add_argument
    add("--kuairand", type=Path, help="folder with events.parquet, items.parquet, users.parquet")
    add("--movietweetings", type=Path, help="folder with events.parquet, items.parquet")
    add("--completejourney", action="store_true", help="the grocer's purchases of the demo's package")


def asked_for(asked: argparse.Namespace, cache: Path) -> dict[str, DataSet]:
    """found() of what add_data_options() read."""
    folders = {KUAIRAND: asked.kuairand, MOVIETWEETINGS: asked.movietweetings}
    return found(folders, asked.completejourney, cache)


def found(folders: dict[str, Path | None], grocer: bool, cache: Path) -> dict[str, DataSet]:
    """The data sets that are there, by name; a line on stderr for each of the others.

    folders: by name, with events.parquet, items.parquet and perhaps users.parquet; cache: where the grocer's
    purchases are converted to.
    """
    there: dict[str, DataSet] = {}
    for name, folder in folders.items():
        if folder is None or not (folder / "events.parquet").exists():
            why = f"no {folder}/events.parquet" if folder else f"give its folder with --{name}"
            print(f"{name}: skipped, {why}", file=sys.stderr)
            continue
        folder = folder.resolve()
        tables = [folder / f"{table}.parquet" for table in ("items", "users")]
        there[name] = DataSet(
            name, folder / "events.parquet", *(path if path.exists() else None for path in tables)
        )
    if grocer:
        files = completejourney(cache)
        there[COMPLETEJOURNEY] = DataSet(COMPLETEJOURNEY, files.events, files.items, files.users)
    else:
        print(f"{COMPLETEJOURNEY}: skipped, ask for it with --completejourney", file=sys.stderr)
    return there
