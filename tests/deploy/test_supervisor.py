import io
import sys
import threading

from deploy.supervisor import Supervisor
from tests.deploy.waiting import alive, eventually

WAITS = """
import signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print("ready", flush=True)
signal.sigwait([signal.SIGTERM])
print("bye")
"""
DEAF = """
import signal, threading
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
threading.Event().wait()
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_output_is_prefixed_and_children_stop_in_reverse_order() -> None:
    output = io.StringIO()
    supervisor = Supervisor(output)
    supervisor.start("first", python(WAITS))
    supervisor.start("second", python(WAITS))
    assert eventually(lambda: output.getvalue().count("ready") == 2)
    stop = threading.Event()
    stop.set()
    assert supervisor.wait(stop) == 0
    supervisor.stop()
    lines = [line.strip() for line in output.getvalue().splitlines()]
    assert "first | ready" in lines
    assert lines[2:] == ["second | bye", "up | second stopped", "first | bye", "up | first stopped"]


def test_a_child_that_dies_is_reported_and_ends_the_rest() -> None:
    output = io.StringIO()
    supervisor = Supervisor(output)
    supervisor.start("lasting", python("import threading; threading.Event().wait()"))
    supervisor.start("dying", python("print('out of luck'); raise SystemExit(5)"))
    pids = [child.pid for child, _ in supervisor._children]
    assert supervisor.wait(threading.Event()) == 1
    supervisor.stop()
    assert "dying ended by itself (exit code 5)" in output.getvalue()
    assert "dying | out of luck" in output.getvalue()
    assert not any(map(alive, pids))


def test_the_end_of_a_service_beside_the_children_is_seen() -> None:
    output = io.StringIO()
    supervisor = Supervisor(output)
    assert supervisor.wait(threading.Event(), {"broker": lambda: -9}) == 1
    assert "broker ended by itself (signal 9)" in output.getvalue()


def test_a_child_that_could_not_start_passes_its_code_on() -> None:
    supervisor = Supervisor(io.StringIO())
    supervisor.start("unreachable", python("raise SystemExit(2)"))
    assert supervisor.wait(threading.Event()) == 2
    supervisor.stop()


def test_a_child_that_ignores_sigterm_is_killed_after_the_grace() -> None:
    output = io.StringIO()
    supervisor = Supervisor(output, grace_s=0.2)
    supervisor.start("deaf", python(DEAF))
    assert eventually(lambda: "deaf | deaf" in output.getvalue())
    pid = supervisor._children[0][0].pid
    supervisor.stop()
    assert not alive(pid)
