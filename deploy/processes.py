"""Child processes that are stopped by the pid they were started with and never outlive their parent."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _die_with(parent_pid: int) -> Callable[[], None]:
    """Build the function that runs in the child between fork and exec.

    The kernel sends SIGKILL to the child when the thread that forked it ends, also when its process is killed
    with -9. Everything this project starts survives kill -9, so the certain signal is the right one.
    Outside Linux there is no such call: there the child is stopped by `ChildProcess.stop` only.
    """

    def before_exec() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:  # the parent died between fork and prctl
            os._exit(1)

    return before_exec


class ChildProcess:
    """One child in a session of its own, so that a Ctrl-C in the terminal reaches the parent alone.

    Start it from a thread that lives as long as the child has to (the main thread): the kernel ties the child
    to that thread.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        output: IO[bytes] | int,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start `command`; its stdout and stderr go to `output` (a file or `subprocess.PIPE`).

        Raises OSError when the program cannot be started.
        """
        self.name = name
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=None if environment is None else dict(environment),
            start_new_session=True,
            preexec_fn=_die_with(os.getpid()),  # two system calls, no lock is taken
        )

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self.process.pid

    def exit_code(self) -> int | None:
        """Exit code, negative for a signal, or None while the child runs."""
        return self.process.poll()

    def stop(self, grace_s: float = 10.0) -> int:
        """Ask the child to end (SIGTERM), force it after `grace_s` seconds, and return its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(grace_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()
