"""Train and test the rankers on kuairand, collect the figures, write the page; experiments without runs under
`--root` stay as they are in benchmarks/results/rankers.json, if nothing of them was changed since.

python -m benchmarks.rankers --kuairand DIR --out benchmarks/results/rankers.json
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.rankers import page, results
from benchmarks.rankers.experiments import EXPERIMENTS, chosen
from benchmarks.rankers.joined_events import Days
from benchmarks.rankers.runs import execute

ROOT = Path(__file__).parents[2] / "var" / "rankers"


def main() -> None:
    """A second start goes on where the first one stopped."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rankers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--kuairand", type=Path, required=True, help="folder with events, items and users.parquet")
    add("--out", type=Path, default=results.FILE, help="where the figures go")
    add("--only", default="", help="groups or names of experiments, separated by ;")
    add("--part", default="0/1", help="run every n-th, beginning with the i-th: i/n, for several processes")
    add("--minutes", type=float, help="begin no further run after so many")
    add("--collect", action="store_true", help="run nothing, collect what is there")
    add("--root", type=Path, default=ROOT, help="where runs are kept")
    asked = parser.parse_args()
    try:
        experiments = chosen(tuple(name for name in asked.only.split(";") if name))
    except ValueError as unknown:
        parser.error(str(unknown))
    torch.set_num_threads(1)
    days = Days(asked.kuairand)
    first, step = (int(value) for value in asked.part.split("/"))
    runs = results.runs_of(experiments, asked.root, days)
    began_s = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as bar:
        waiting = [] if asked.collect else [run for run in runs[first::step] if not run.done]
        task = bar.add_task("rankers", total=len(waiting))
        for run in waiting:
            if asked.minutes is not None and time.monotonic() - began_s > 60 * asked.minutes:
                break
            bar.update(task, description=f"{run.experiment.name}, seed {run.seed}")
            if not run.done:
                execute(run, days)
            bar.update(task, advance=1)
    if step == 1:
        every = results.runs_of(EXPERIMENTS, asked.root, days)
        command = "python -m benchmarks.rankers --kuairand DIR --out FILE.json"
        found = results.collect(every, days, command, with_serving=True)
        earlier = json.loads(results.FILE.read_text(encoding="utf-8"))
        results.write(results.with_earlier(found, earlier, every), asked.out)
        if asked.out.resolve() == results.FILE:
            page.main(check=False)


if __name__ == "__main__":
    main()
