"""The process `consume`: the intake, and the incremental updater beside it."""

import contextlib
import threading

import torch

from deploy.config import Config
from deploy.intake_metrics import metrics_page
from deploy.threads import Loop, run_together
from deploy.wiring import (
    archive,
    catalogue_intake,
    catalogue_writer,
    dead_letters,
    intake,
    profiles,
)
from deploy.wiring_training import incremental_updater


def run_consumer(config: Config, stop: threading.Event) -> None:
    """Take in events and publish deltas until `stop` is set.

    Raises Unreachable for an absent broker or store, ArchiveLocked when another consumer writes this archive.
    """
    torch.set_num_threads(config.update.threads)
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(archive(config))
        online = stack.enter_context(contextlib.closing(profiles(config)))
        letters = stack.enter_context(dead_letters(config))
        writer = stack.enter_context(contextlib.closing(catalogue_writer(config)))
        taking_in = intake(config, held, online, letters)
        stack.enter_context(metrics_page(config.metrics, taking_in.counts))
        loops: dict[str, Loop] = {
            "intake": taking_in.run,
            "catalogue": catalogue_intake(config, writer, online, letters).run,
        }
        if config.update.incremental:
            loops["updater"] = incremental_updater(config).run
        run_together(stop, loops)
