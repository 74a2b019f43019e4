"""The process `schedule`, and one retrain by hand."""

import threading

import torch

from deploy.config import Config
from deploy.errors import StartError
from deploy.wiring import full_retrain, schedule
from updater.gates import GateFailed
from updater.retrain import NothingToTrain, Progress
from updater.state import RecipeChanged


def run_schedule(config: Config, stop: threading.Event) -> None:
    """Retrain daily until `stop` is set."""
    torch.set_num_threads(config.update.retrain_threads)
    schedule(config).run(stop)


def retrain_now(config: Config, through_ms: int | None, progress: Progress) -> str:
    """Train and publish one bundle; returns its id. Raises StartError: nothing to train, or a gate."""
    torch.set_num_threads(config.update.retrain_threads)
    try:
        return full_retrain(config).run(through_ms, progress)
    except (NothingToTrain, RecipeChanged, GateFailed) as error:
        raise StartError(str(error)) from None
