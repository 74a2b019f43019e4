"""A child process that does its work each time it is asked: a line of JSON in, a line of JSON out.

So a peer of another environment, or a load from outside, takes its turns beside the rest of a measurement.
Nothing but the standard library is imported here: a child may run in the peers' environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[1]
PEERS_PYTHON = ROOT / "var" / "peers" / "bin" / "python"
SCANN_PYTHON = ROOT / "var" / "peers-scann" / "bin" / "python"


class WorkerFailed(RuntimeError):
    """A child ended instead of answering."""


class Worker:
    """A module of this checkout running in a child; use as a context manager. It ends with its stdin."""

    def __init__(
        self,
        module: str,
        words: Sequence[str] = (),
        python: str | Path = sys.executable,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        self._process = subprocess.Popen(
            [str(python), "-W", "ignore", "-m", module, *words],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.module = module

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    def ask(self, **request: Any) -> Any:
        """Its answer. Raises WorkerFailed with what it said last, should it end instead."""
        self.tell(**request)
        return self.answer()

    def tell(self, **request: Any) -> None:
        """Let it begin; answer() waits for the end."""
        if self._process.stdin is None or self._process.poll() is not None:
            raise self._failed()
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """Of the request told last."""
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise self._failed()
        return json.loads(line)

    def _failed(self) -> WorkerFailed:
        code = self._process.wait(10)
        self._log.seek(0)
        said = self._log.read().decode(errors="replace").strip()[-2000:]
        return WorkerFailed(f"{self.module}: expected an answer, it ended with exit code {code}: {said}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def peer(module: str, words: Sequence[str], python: Path = PEERS_PYTHON) -> Worker:
    """A child in an environment of `make peers`. Raises FileNotFoundError where that is missing."""
    if not python.exists():
        raise FileNotFoundError(f"{python}: expected the peers' environment; run `make peers`")
    return Worker(module, words, python)


def work(answer: Callable[..., Any]) -> None:
    """The child's side: answer requests (as keywords) until there are no more. What is printed meanwhile goes
    to stderr.
    """
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)
        for line in sys.stdin:
            out.write(json.dumps(answer(**json.loads(line))) + "\n")
            out.flush()
