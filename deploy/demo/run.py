"""`freshrecall demo`: starts the system as a user would, runs the loop on it, reports."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path

from rich.console import Console

from deploy.config import Config
from deploy.config_load import load
from deploy.demo.plan import DAY_TIMEZONE, plan
from deploy.demo.settings import write_settings
from deploy.demo.stages import Stages, progress_bar
from deploy.processes import ChildProcess
from deploy.up import command

AUDIT_SHARE = 0.05


def run_demo(short: bool, exit_at_end: bool, data_dir: Path) -> None:
    """Run the demo in `data_dir` (what an earlier demo left there is removed, converted data sets are kept).

    Writes report.json and demo.png there. Without `exit_at_end` the server stays up until Ctrl-C.
    Raises StartError when a process of the system ends before the demo does.
    """
    started = time.monotonic()
    console = Console()
    _clear(data_dir)
    file = data_dir / "freshrecall.toml"
    port = write_settings(file, data_dir.resolve(), DAY_TIMEZONE, AUDIT_SHARE)
    config = load(Config, file)
    url = f"http://127.0.0.1:{port}"
    with (data_dir / "up.log").open("wb") as output:
        up = ChildProcess("up", command("up", file), output)
        try:
            # After the start of the system, so that the heavy libraries load side by side.
            from deploy.demo.loop import Demo
            from deploy.demo.report import print_report, write_report

            with progress_bar(console) as bar:
                measured = Demo(config, file, url, plan(short), Stages(bar, {}), up).run()
            measured.wall_s = time.monotonic() - started
            measured.about["short"] = short
            write_report(data_dir / "report.json", measured)
            print_report(console, measured)
            console.print(f"in {data_dir}: report.json, demo.png (plot), up.log, freshrecall.toml")
            if not exit_at_end:
                console.print(f"The server is up at {url} (try {url}/docs); Ctrl-C ends it.")
                with contextlib.suppress(KeyboardInterrupt):
                    up.process.wait()
        finally:
            up.stop(grace_s=30.0)


def _clear(data_dir: Path) -> None:
    """Remove what an earlier demo left, but not the converted data sets."""
    data_dir.mkdir(parents=True, exist_ok=True)
    for entry in data_dir.iterdir():
        if entry.name == "datasets":
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
