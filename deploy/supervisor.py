"""Several processes as one: prefixed output, stopped together in order, the first death ends all."""

import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

from deploy.processes import ChildProcess

ExitCode = Callable[[], int | None]
"""Exit code of a process, None while it runs."""

_COLOURS = ("36", "33", "32", "35", "34")


class Supervisor:
    """Child processes of one command. Call it from the main thread only (see ChildProcess)."""

    def __init__(self, output: TextIO | None = None, poll_s: float = 0.1, grace_s: float = 20.0) -> None:
        self._output = output or sys.stdout
        self._poll_s = poll_s
        self._grace_s = grace_s
        self._children: list[tuple[ChildProcess, threading.Thread]] = []
        self._lock = threading.Lock()

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Start a child whose output lines appear as `name | line`."""
        child = ChildProcess(name, command, subprocess.PIPE, environment)
        colour = _COLOURS[len(self._children) % len(_COLOURS)]
        reader = threading.Thread(
            target=self._relay, args=(child, colour), name=f"output-{name}", daemon=True
        )
        reader.start()
        self._children.append((child, reader))

    def wait(self, stop: threading.Event, others: Mapping[str, ExitCode] | None = None) -> int:
        """Block until `stop` is set (returns 0) or a child or one of `others` has ended.

        Says which it was, and returns 1, or 2 where that was its own exit code (it could not start).
        """
        watched = dict(others or {}) | {child.name: child.exit_code for child, _ in self._children}
        while not stop.wait(self._poll_s):
            for name, exit_code in watched.items():
                code = exit_code()
                if code is not None:
                    how = f"signal {-code}" if code < 0 else f"exit code {code}"
                    self.say("up", f"{name} ended by itself ({how}); stopping the others")
                    return code if code == 2 else 1
        return 0

    def stop(self) -> None:
        """Stop the children, the last started first, and show what they still had to say."""
        while self._children:
            child, reader = self._children.pop()
            was_running = child.exit_code() is None
            child.stop(self._grace_s)
            reader.join(timeout=5)
            if was_running:
                self.say("up", f"{child.name} stopped")

    def say(self, name: str, line: str, colour: str = "1") -> None:
        """Print one whole line under `name`."""
        prefix = f"\x1b[{colour}m{name:>8} |\x1b[0m" if self._output.isatty() else f"{name:>8} |"
        with self._lock:
            print(prefix, line, file=self._output, flush=True)

    def _relay(self, child: ChildProcess, colour: str) -> None:
        stream = child.process.stdout
        if stream is None:
            return
        with stream:
            for line in stream:
                self.say(child.name, line.decode(errors="replace").rstrip(), colour)
