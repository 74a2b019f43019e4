"""The demo's stages on the console: what is being done, how far it is, how long it took."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


@dataclass
class Stages:
    """Names the stages on the console and keeps how long each took, s."""

    bar: Progress
    seconds: dict[str, float]

    @contextlib.contextmanager
    def stage(self, name: str, total: float | None = None) -> Iterator[Callable[[float], None]]:
        """A named stage; what it yields is told how much of `total` is done."""
        task = self.bar.add_task(name, total=total)
        started = time.monotonic()
        yield lambda done: self.bar.update(task, completed=done)
        self.seconds[name] = time.monotonic() - started
        self.bar.update(task, total=total or 1, completed=total or 1)


def progress_bar(console: Console) -> Progress:
    """One line per stage."""
    return Progress(
        TextColumn("{task.description:<45}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )
