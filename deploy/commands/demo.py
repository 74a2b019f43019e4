"""`freshrecall demo`: the whole loop on a grocer's real purchases."""

from pathlib import Path
from typing import Annotated

import typer


def run(
    short: Annotated[bool, typer.Option("--short", help="One event-time day, at most a minute.")] = False,
    exit_at_end: Annotated[
        bool, typer.Option("--exit", help="End after the report instead of leaving the server up.")
    ] = False,
    data_dir: Annotated[Path, typer.Option(help="Where the demo keeps its files and report.")] = Path(
        "var/demo"
    ),
) -> None:
    """Train on the months before, then replay days of real purchases while a client keeps asking for recall.

    Ends with a table, a plot and report.json in the data directory, and leaves the server up.

    [bold]Example[/]

        freshrecall demo

        freshrecall demo --short --exit
    """
    from deploy.demo.run import run_demo

    run_demo(short=short, exit_at_end=exit_at_end, data_dir=data_dir)
