"""The process `schedule`, and one retrain by hand."""

import threading
from typing import TYPE_CHECKING

from deploy.config import Config
from deploy.errors import StartError
from deploy.wiring import schedule

if TYPE_CHECKING:
    from updater.state import Progress


def run_schedule(config: Config, stop: threading.Event) -> None:
    """Retrain daily until `stop` is set."""
    schedule(config).run(stop)


def retrain_now(config: Config, through_ms: int | None, progress: "Progress") -> str:
    """Train and publish one bundle; returns its id. Raises StartError: nothing to train, or a gate."""
    from deploy.wiring_training import retrain
    from updater.gates import GateFailed
    from updater.retrain import NothingToTrain
    from updater.state import RecipeChanged

    try:
        return retrain(config, through_ms, progress)
    except (NothingToTrain, RecipeChanged, GateFailed) as error:
        raise StartError(str(error)) from None
