"""Run the missing experiments, collect their figures, write the tables: `make findings`.

make findings ARGS="--kuairand DIR --movietweetings DIR --completejourney --hours 12"
make findings ARGS="--kuairand DIR --only losses,models/mind"
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.findings import results, tables
from benchmarks.findings.data import add_data_options, asked_for
from benchmarks.findings.experiments import EXPERIMENTS, chosen
from benchmarks.findings.runner import missing, run_all
from benchmarks.findings.runs import Limits, runs_of

ROOT = Path(__file__).parents[2] / "var" / "findings"


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.findings",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_data_options(parser)
    add = parser.add_argument
    add("--only", default="", help="data sets, groups or names of experiments, separated by commas")
    add("--hours", type=float, help="begin no further run after so many")
    add("--jobs", type=int, default=2, help="runs at a time, each with one thread")
    add("--list", action="store_true", help="say what is missing, run nothing")
    add("--collect", action="store_true", help="run nothing, collect what is there and write the tables")
    add("--root", type=Path, default=ROOT, help="where the runs are kept; a second start goes on from there")
    add("--sample", type=int, help="trial: so many targets; nothing is written to results and pages")
    add("--end-ms", type=int, help="trial: stop at this event time; the same")
    asked = parser.parse_args()
    try:
        asked.experiments = chosen(tuple(name for name in asked.only.split(",") if name))
    except ValueError as unknown:
        parser.error(str(unknown))
    return asked


def main() -> int:
    """1 where a run failed."""
    asked = options()
    root = asked.root.resolve()
    sets = asked_for(asked, root)
    limits = Limits(asked.sample, asked.end_ms)
    runs = runs_of(asked.experiments, sets, root, limits)
    if asked.list:
        for run in missing(runs):
            print(f"{run.key} {run.name}")
        return 0
    ended = [] if asked.collect else run_all(runs, asked.jobs, asked.hours)
    every = runs_of(EXPERIMENTS, sets, root, limits)
    if limits:
        results.collect(every, EXPERIMENTS, root / "trial.json")
        print(f"trial: {asked.root / 'trial.json'}")
    else:
        results.collect(every, EXPERIMENTS)
        tables.main(check=False)
    for one in ended:
        if one.error:
            print(f"failed: {one.run.name}: {one.error} ({one.run.folder / 'log.txt'})")
    return int(any(one.error for one in ended))


if __name__ == "__main__":
    raise SystemExit(main())
