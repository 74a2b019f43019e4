"""Simulate what is missing, collect the figures, write the page: `python -m benchmarks.closed_loop`.

Everything is SIMULATED. A second start goes on with the arms that are not done.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.closed_loop import page, results
from benchmarks.closed_loop.arms import RUN, SEEDS, chosen
from benchmarks.closed_loop.runs import Run, execute

ROOT = Path(__file__).parents[2] / "var" / "closed_loop"


def main() -> None:
    """The results are written from all runs that are done, whatever was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.closed_loop", description=__doc__)
    add = parser.add_argument
    add("--only", default="", help="names of arms, separated by ;")
    add("--seeds", default=",".join(map(str, SEEDS)), help="worlds, separated by commas")
    add("--minutes", type=float, help="begin no further run after so many")
    add("--collect", action="store_true", help="run nothing, collect what is there")
    add("--root", type=Path, default=ROOT, help="where runs are kept")
    add("--out", type=Path, default=results.FILE, help="where the figures go")
    asked = parser.parse_args()
    try:
        arms = chosen(name.strip() for name in asked.only.split(";") if name)
    except ValueError as unknown:
        parser.error(str(unknown))
    torch.set_num_threads(1)
    seeds = [int(seed) for seed in asked.seeds.split(",")]
    runs = [Run(arm, seed, RUN, asked.root) for seed in seeds for arm in arms]
    began_s = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        for run in [] if asked.collect else [run for run in runs if not run.done]:
            if asked.minutes is not None and time.monotonic() - began_s > 60 * asked.minutes:
                break
            task = bar.add_task(f"{run.arm.name}, seed {run.seed} (SIMULATED)", total=run.run.minutes)
            execute(run, lambda minutes, of, task=task: bar.update(task, completed=minutes))  # type: ignore[misc]
    every = [Run(arm, seed, RUN, asked.root) for seed in seeds for arm in chosen(())]
    results.write(results.collect(every, "python -m benchmarks.closed_loop"), asked.out)
    if asked.out.resolve() == results.FILE:
        page.main(check=False)


if __name__ == "__main__":
    main()
