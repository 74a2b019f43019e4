"""Everything on one machine: embedded services where wanted, then consumer, scheduler and server."""

import contextlib
import os
import sys
import threading
from pathlib import Path

from deploy.addresses import EMBEDDED
from deploy.config import Config
from deploy.config_load import ENV_PREFIX
from deploy.embedded import EmbeddedBroker, EmbeddedService, EmbeddedStore
from deploy.reachable import require_services
from deploy.supervisor import Supervisor

VERBS = ("consume", "schedule", "serve")


def start_embedded(config: Config, stack: contextlib.ExitStack) -> tuple[Config, list[EmbeddedService]]:
    """Start what the configuration calls embedded; `stack` ends it. Returns it with their addresses.

    Raises StartError when one of them cannot start.
    """
    wanted = config.embedded
    started: list[EmbeddedService] = []
    if config.kafka.bootstrap == EMBEDDED:
        broker = stack.enter_context(
            EmbeddedBroker(config.data_dir, wanted.broker_port, wanted.ready_timeout_s)
        )
        kafka = config.kafka.model_copy(update={"bootstrap": broker.address})
        config = config.model_copy(update={"kafka": kafka})
        started.append(broker)
    if config.redis.url == EMBEDDED:
        store = stack.enter_context(EmbeddedStore(config.data_dir, wanted.store_port, wanted.ready_timeout_s))
        config = config.model_copy(update={"redis": config.redis.model_copy(update={"url": store.url})})
        started.append(store)
    return config, started


def up(config: Config, file: Path | None, stop: threading.Event) -> int:
    """Run until `stop` is set; returns the exit code: 0 after a stop, else what a child's death asks for.

    Each child gets the file, and the options of this command as environment, so all see one configuration.
    Raises StartError or Unreachable when the services cannot be had.
    """
    with contextlib.ExitStack() as stack:
        config, embedded = start_embedded(config, stack)
        require_services(config)
        environment = os.environ | {
            f"{ENV_PREFIX}DATA_DIR": str(config.data_dir.resolve()),
            f"{ENV_PREFIX}KAFKA__BOOTSTRAP": config.kafka.bootstrap,
            f"{ENV_PREFIX}REDIS__URL": config.redis.url,
            f"{ENV_PREFIX}SERVING__PORT": str(config.serving.port),
            "PYTHONUNBUFFERED": "1",
        }
        supervisor = Supervisor()
        try:
            supervisor.say("up", f"Kafka at {config.kafka.bootstrap}, Redis at {config.redis.url}")
            for verb in VERBS:
                supervisor.start(verb, command(verb, file), environment)
            return supervisor.wait(stop, {service.name: service.exit_code for service in embedded})
        finally:
            supervisor.stop()


def command(verb: str, file: Path | None) -> list[str]:
    """The command line of a verb of this program, run by this interpreter."""
    option = [] if file is None else ["--config", str(file)]
    return [sys.executable, "-m", "deploy", verb, *option]
