"""Measure the hot paths, each against its peer in one run, and write the figures to a results file.

examples:
  python -m benchmarks                          all, into benchmarks/results/latest.json
  python -m benchmarks --only ids.lookup        one; the other figures of latest.json stay
  python -m benchmarks --only train,search.1m   a name, or all that begin so
  python -m benchmarks --quick                  small sizes, in under 3 minutes, into var/bench-quick.json;
                                                ratios to latest.json tell what became slower
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.figures import Record, measured, number, ratio
from benchmarks.measure import Measurement, surroundings
from benchmarks.suite import SUITE, names

ROOT = Path(__file__).parents[1]
LATEST = ROOT / "benchmarks" / "results" / "latest.json"
QUICK = ROOT / "var" / "bench-quick.json"


def options(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line. Exits with a message for a name that nothing gives."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="smaller sizes, written to var/bench-quick.json")
    add("--only", type=lambda text: text.split(","), metavar="NAME,…", help="these results only")
    add("--list", action="store_true", help="name all results and end")
    asked = parser.parse_args(words)
    unknown = [one for one in asked.only or () if not any(is_of(name, one) for name in names())]
    if unknown:
        parser.error(f"--only: no result {', '.join(unknown)}; there are {', '.join(names())}")
    return asked


def chosen(only: Sequence[str] | None) -> list[Measurement]:
    """Measurements of the asked results, all without any. What runs together is measured together."""
    if only is None:
        return list(SUITE)
    return [one for one in SUITE if any(is_of(name, asked) for name in one.names for asked in only)]


def is_of(name: str, asked: str) -> bool:
    """Whether a result is asked for: by its name, or by how its name begins."""
    return name == asked or name.startswith(f"{asked}.")


def run(
    measurements: Sequence[Measurement],
    quick: bool,
    console: Console,
    keep: Callable[[list[Record]], None],
) -> tuple[list[Record], list[str]]:
    """Records of all that could be measured, and what became of those that could not. keep: told the records
    up to now after every measurement, for a whole run takes most of an hour.
    """
    around, records, failures = surroundings(), [], []
    bar = Progress(
        TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=console,
    )  # fmt: skip
    with bar:
        task = bar.add_task("", total=len(measurements))
        for one in measurements:
            bar.update(task, description=one.names[0])
            try:
                results = one.run(one.quick, {"quick": True}) if quick else one.run(one.full)
                records += [result.record(around) for result in results]
                keep(records)
            except Exception as error:  # one path that cannot be measured hides no other
                traceback.print_exc()
                failures.append(f"{', '.join(one.names)}: {type(error).__name__}: {error}")
            bar.advance(task)
    return records, failures


def merged(held: Sequence[Record], new: Sequence[Record]) -> list[Record]:
    """In the order of the suite: new figures in the place of old ones; names that nothing gives are gone."""
    by_name = {one["name"]: one for one in [*held, *new]}
    return [by_name[name] for name in names() if name in by_name]


def table(records: Sequence[Record], latest: Mapping[str, Record] | None = None) -> Table:
    """What was measured; with `latest`, what became of the recorded ratio to the peer, else to the limit,
    else of the figure itself.
    """
    shown = Table("figure", "value", "peer", "peer's", "ratio", "of limit", title="freshrecall benchmarks")
    if latest is not None:
        shown.add_column("to latest.json")
    for column in shown.columns:
        column.no_wrap = column.header != "peer"
    for one in records:
        cells = [one["name"], measured(one), one["peer"], number(one["peer_value"])]
        cells += [ratio(one["ratio_to_peer"]), ratio(one["ratio_to_limit"])]
        if latest is not None:
            cells.append(ratio(_change(one, latest.get(one["name"]))))
        shown.add_row(*cells)
    return shown


def _change(one: Record, held: Record | None) -> float | None:
    if held is None:
        return None
    same = ["ratio_to_peer"] if one["peer"] == held["peer"] else []
    alone = [] if one["peer"] or held["peer"] else ["value"]
    for of in (*same, "ratio_to_limit", *alone):
        if one.get(of) and held.get(of):
            return float(one[of] / held[of])
    return None


def read(file: Path) -> list[Record]:
    """Records of a results file, none where there is no file."""
    records: list[Record] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    return records


def write(file: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """A results file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    """Measure, write, show. The exit code is 1 where something could not be measured."""
    asked = options()
    if asked.list:
        print("\n".join(names()))
        return 0
    console = Console(width=None if sys.stdout.isatty() else 140)
    held = read(LATEST)

    def keep(records: list[Record]) -> None:
        if asked.quick:
            write(QUICK, records)
        else:
            write(LATEST, merged(held, records))

    records, failures = run(chosen(asked.only), asked.quick, console, keep)
    console.print(table(records, {one["name"]: one for one in held} if asked.quick else None))
    for failure in failures:
        print(f"benchmarks: not measured: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
