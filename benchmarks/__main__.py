"""Run every measurement, print the table, write benchmarks/results/latest.json."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import intake, join, lookup, prebatch, search, update
from benchmarks.measure import surroundings

SUITE = {
    "lookup": lookup.run,
    "update": update.run,
    "prebatch": prebatch.run,
    "intake": intake.run,
    "join": join.run,
    "search": search.run,
}
LATEST = Path(__file__).parent / "results" / "latest.json"


def main() -> None:
    """Measure all; the figures of one run are comparable with each other, those of two machines are not."""
    results = [result for name in track(SUITE, "measuring") for result in SUITE[name]()]
    around = surroundings()
    LATEST.parent.mkdir(exist_ok=True)
    LATEST.write_text(json.dumps([{**one.record(), **around} for one in results], indent=1) + "\n")
    table = Table("figure", "value", "unit", "peer", "peer's", "ratio", title="freshrecall benchmarks")
    for one in results:
        ratio = one.value / one.peer_value
        table.add_row(
            one.name, f"{one.value:,.0f}", one.unit, one.peer, f"{one.peer_value:,.0f}", f"{ratio:.2f}"
        )
    Console().print(table)


if __name__ == "__main__":
    main()
