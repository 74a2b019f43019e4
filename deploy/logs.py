"""What the long-running processes print: one line per record, to stderr."""

import logging


def show_logs(level: int = logging.INFO) -> None:
    """Log to stderr; libraries speak up from warnings on."""
    logging.basicConfig(
        level=level, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", datefmt="%H:%M:%S"
    )
    for noisy in ("kafka", "apscheduler", "httpx", "numba", "torch"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
