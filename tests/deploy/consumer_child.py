"""A consumer that ends by itself once an interval is served, and then says what its updater holds.

python -m tests.deploy.consumer_child CONFIG UNTIL_MS OUTPUT
"""

import contextlib
import hashlib
import sys
import threading
from pathlib import Path

import torch

from deploy.config import Config
from deploy.config_load import load
from deploy.threads import run_together
from deploy.wiring import archive, dead_letters, intake, pointer, profiles
from deploy.wiring_counts import item_counts
from deploy.wiring_training import incremental_updater
from updater.state import TrainingState


def digests(state: TrainingState) -> dict[str, str]:
    """sha256 of every tensor of a state, by file and name."""
    return {
        f"{file}/{name}": hashlib.sha256(array.tobytes()).hexdigest()
        for file, tensors in state.files().items()
        for name, array in tensors.items()
    }


def run(file: Path, until_ms: int, output: Path) -> None:
    """What `freshrecall consume` runs, with an end."""
    config = load(Config, file)
    torch.set_num_threads(config.update.threads)
    stop = threading.Event()
    served = pointer(config)
    updater = incremental_updater(config)

    def watch(stopping: threading.Event) -> None:
        while not stopping.wait(0.05):
            held = served.get()
            if updater.state is not None and held is not None and held.watermark_ms >= until_ms:
                return

    with contextlib.ExitStack() as stack:
        held = stack.enter_context(archive(config))
        online = stack.enter_context(contextlib.closing(profiles(config)))
        letters = stack.enter_context(dead_letters(config))
        counts = stack.enter_context(item_counts(config))
        taking_in = intake(config, held, online, letters, counts)
        run_together(stop, {"intake": taking_in.run, "updater": updater.run, "watch": watch})
    if updater.state is not None:
        output.write_text("\n".join(f"{key} {value}" for key, value in digests(updater.state).items()))


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
