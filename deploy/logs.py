"""What the long-running processes print: one line per record, to stderr."""

import logging


def show_logs(level: int = logging.INFO) -> None:
    """Log to stderr: this project from `level` on, libraries from warnings on."""
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", datefmt="%H:%M:%S"
    )
    for package in ("stream", "models", "updater", "serving", "deploy"):
        logging.getLogger(package).setLevel(level)
    # It warns of every tick that falls into a running retrain, as each one does that finds work to do.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    # It warns whenever another thread of the process was busy for a tenth of a second.
    logging.getLogger("kafka.net.selector").setLevel(logging.ERROR)
