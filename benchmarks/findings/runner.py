"""Runs what is missing, each backtest in a child process, some at a time. A failed one stops nothing."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import pyarrow.parquet as pq
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.findings import configuration
from benchmarks.findings.hits import condense
from benchmarks.findings.runs import Run
from deploy.processes import ChildProcess

SOURCE = Path(__file__).parents[2]
"""Runs import this project from here: a checkout of its own is not moved by whoever works in another."""
_ERROR_LINES = 3
_condensing = Lock()
_alive: list[ChildProcess] = []


@dataclass(frozen=True)
class Ended:
    """A run that was tried: its wall time, and why it failed ("" = it did not)."""

    run: Run
    wall_s: float
    error: str


def child(run: Run, threads: int = 1) -> Ended:
    """One backtest; leaves metrics.json, report.html, hits.parquet and log.txt, or failed.json."""
    run.folder.mkdir(parents=True, exist_ok=True)
    text = f"# {run.name}\n{configuration.toml(run.configuration)}"
    (run.folder / "config.toml").write_text(text, encoding="utf-8")
    began_s = time.monotonic()
    code = _replayed(run, threads)
    error = "" if code == 0 else f"exit code {code}: {_last_lines(run)}"
    if not error:
        try:
            keep(run)
        except (OSError, ValueError, KeyError) as problem:
            error = f"{type(problem).__name__}: {problem}"
    wall_s = time.monotonic() - began_s
    failed = run.folder / "failed.json"
    if error:
        failed.write_text(json.dumps({"name": run.name, "error": error}) + "\n", encoding="utf-8")
    else:
        failed.unlink(missing_ok=True)
    return Ended(run, wall_s, error)


def _replayed(run: Run, threads: int) -> int:
    names = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "FRESHRECALL__UPDATE__RETRAIN_THREADS")
    plain = {"PYTHONPATH": str(SOURCE), "COLUMNS": "110", "TERM": "dumb", "_TYPER_STANDARD_TRACEBACK": "1"}
    environment = {**os.environ, **dict.fromkeys(names, str(threads)), **plain}
    command = [sys.executable, "-W", "ignore", "-m", "deploy", *run.command]
    with (run.folder / "log.txt").open("wb") as log:
        process = ChildProcess(run.name, command, log, environment)
        _alive.append(process)
        try:
            return process.process.wait()
        finally:
            _alive.remove(process)


def keep(run: Run) -> None:
    """Places of the targets instead of the lists themselves, which would fill the disk."""
    about = json.loads((run.folder / "metrics.json").read_text(encoding="utf-8"))["about"]
    lists = run.folder / "predictions.parquet"
    with _condensing:  # one at a time: a long run's lists need memory
        table = condense(lists, about, run.data.targets)
        aside = run.folder / "hits.tmp"
        pq.write_table(table, aside, compression="zstd")
        aside.rename(run.folder / "hits.parquet")
    lists.unlink()


def _last_lines(run: Run) -> str:
    lines = (run.folder / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    return " | ".join([line.strip() for line in lines if line.strip()][-_ERROR_LINES:])


def missing(runs: Sequence[Run]) -> list[Run]:
    """Not yet done, each folder once."""
    first = {run.key: run for run in reversed(runs)}
    return [run for run in runs if first[run.key] is run and not run.done]


def run_all(
    runs: Sequence[Run],
    jobs: int,
    hours: float | None,
    execute: Callable[[Run], Ended] = child,
    clock: Callable[[], float] = time.monotonic,
) -> list[Ended]:
    """What is missing of the runs, `jobs` at a time; after `hours` no further one is begun."""
    waiting = missing(runs)
    began_s = clock()
    ended: list[Ended] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[left]}")) as bar, ThreadPoolExecutor(jobs) as pool:
        task = bar.add_task("findings", total=len(waiting), left="")
        running: dict[Future[Ended], Run] = {}
        try:
            while waiting or running:
                in_time = hours is None or clock() - began_s < hours * 3600
                while waiting and len(running) < jobs and in_time:
                    run = waiting.pop(0)
                    running[pool.submit(execute, run)] = run
                if not running:
                    break
                bar.update(task, description=", ".join(run.name for run in running.values()))
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    ended.append(_ended(future, running.pop(future)))
                    left_s = _mean_s(ended) * (len(waiting) + len(running)) / jobs
                    bar.update(task, advance=1, left=f"about {left_s / 3600:.1f} h left")
                    failed = f", failed: {ended[-1].error}" if ended[-1].error else ""
                    bar.print(f"{ended[-1].run.name}: {ended[-1].wall_s:.0f} s{failed}", markup=False)
        except KeyboardInterrupt:
            for process in _alive.copy():  # each leaves the list as it ends
                process.stop()
            raise
    return ended


def _ended(future: Future[Ended], run: Run) -> Ended:
    problem = future.exception()
    return Ended(run, 0.0, f"{type(problem).__name__}: {problem}") if problem else future.result()


def _mean_s(ended: Sequence[Ended]) -> float:
    return sum(one.wall_s for one in ended) / len(ended)
