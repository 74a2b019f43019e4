"""The process `consume`: the intake, and beside it the incremental updater, the join and the retention."""

import contextlib
import threading

import torch

from deploy.archive_metrics import ArchiveCollector
from deploy.config import Config
from deploy.intake_metrics import metrics_page
from deploy.join_metrics import JoinCollector
from deploy.threads import Loop, run_together
from deploy.wiring import (
    archive,
    catalogue_intake,
    catalogue_writer,
    dead_letters,
    intake,
    joined_log,
    profiles,
    seen_sets,
)
from deploy.wiring_counts import item_counts
from deploy.wiring_retention import retention
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
        counts = stack.enter_context(item_counts(config))
        seen = stack.enter_context(seen_sets(config))
        taking_in = intake(config, held, online, letters, counts, seen)
        joined = joined_log(config)
        keeping = stack.enter_context(retention(config, held))
        collectors = JoinCollector(joined.counts), ArchiveCollector(keeping.size)
        stack.enter_context(metrics_page(config.metrics, taking_in.counts, *collectors))
        loops: dict[str, Loop] = {
            "intake": taking_in.run,
            "catalogue": catalogue_intake(config, writer, online, letters).run,
            "retention": keeping.run,
        }
        if config.update.incremental:
            loops["updater"] = incremental_updater(config).run
        if config.join.enabled:
            loops["join"] = joined.run
        run_together(stop, loops)
