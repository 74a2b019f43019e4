"""Several blocking loops of one process: they stop together, and the first error ends all."""

import threading
from collections.abc import Callable, Mapping

Loop = Callable[[threading.Event], None]


def run_together(stop: threading.Event, loops: Mapping[str, Loop], poll_s: float = 0.1) -> None:
    """Run each loop in a thread of its name until `stop` is set or one of them ends; re-raises its error.

    Call it from the main thread: signals set `stop` there.
    """
    errors: list[BaseException] = []
    ended = threading.Event()

    def guarded(loop: Loop) -> None:
        try:
            loop(stop)
        except BaseException as error:
            errors.append(error)
        finally:
            ended.set()

    threads = [
        threading.Thread(target=guarded, args=(loop,), name=name, daemon=True) for name, loop in loops.items()
    ]
    for thread in threads:
        thread.start()
    while not stop.is_set() and not ended.wait(poll_s):
        pass
    stop.set()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
