"""Everything on one machine: embedded services where wanted, then consumer, scheduler and server."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from deploy.addresses import EMBEDDED
from deploy.config import Config
from deploy.config_load import ENV_PREFIX
from deploy.embedded import EmbeddedBroker, EmbeddedService, EmbeddedStore
from deploy.supervisor import Supervisor

VERBS = ("consume", "schedule", "serve")


@contextlib.contextmanager
def services(config: Config) -> Iterator[dict[str, str]]:
    """Start what the configuration calls embedded; yields the addresses as environment for child processes.

    Raises StartError when one of them cannot start.
    """
    wanted = config.embedded
    with contextlib.ExitStack() as stack:
        addresses: dict[str, str] = {}
        if config.kafka.bootstrap == EMBEDDED:
            broker = EmbeddedBroker(config.data_dir, wanted.broker_port, wanted.ready_timeout_s)
            addresses["KAFKA__BOOTSTRAP"] = _running(stack, broker).address
        if config.redis.url == EMBEDDED:
            store = EmbeddedStore(config.data_dir, wanted.store_port, wanted.ready_timeout_s)
            addresses["REDIS__URL"] = f"redis://{_running(stack, store).address}/0"
        yield {ENV_PREFIX + key: value for key, value in addresses.items()}


def _running(stack: contextlib.ExitStack, service: EmbeddedService) -> EmbeddedService:
    return stack.enter_context(service)


def up(config: Config, file: Path | None, stop: threading.Event) -> int:
    """Run until `stop` is set; returns the exit code: 0 after a stop, else what a child's death asks for.

    Each child gets the file, and the options of this command as environment, so all see one configuration.
    """
    with services(config) as addresses:
        environment = os.environ | {
            f"{ENV_PREFIX}DATA_DIR": str(config.data_dir.resolve()),
            f"{ENV_PREFIX}KAFKA__BOOTSTRAP": config.kafka.bootstrap,
            f"{ENV_PREFIX}REDIS__URL": config.redis.url,
            f"{ENV_PREFIX}SERVING__PORT": str(config.serving.port),
            "PYTHONUNBUFFERED": "1",
            **addresses,
        }
        supervisor = Supervisor()
        try:
            for name in ("KAFKA__BOOTSTRAP", "REDIS__URL"):
                supervisor.say("up", f"{name.partition('__')[0].lower()} at {environment[ENV_PREFIX + name]}")
            for verb in VERBS:
                supervisor.start(verb, command(verb, file), environment)
            return supervisor.wait(stop)
        finally:
            supervisor.stop()


def command(verb: str, file: Path | None) -> list[str]:
    """The command line of a verb of this program, run by this interpreter."""
    option = [] if file is None else ["--config", str(file)]
    return [sys.executable, "-m", "deploy", verb, *option]
