"""`freshrecall up`: everything on one machine."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.options import ConfigFile, DataDir, Kafka, Redis, loaded


def run(
    config: ConfigFile = None,
    data_dir: DataDir = None,
    kafka: Kafka = None,
    redis: Redis = None,
    port: Annotated[int | None, typer.Option(help="HTTP port of the server.")] = None,
) -> None:
    """Run broker, store, consumer, scheduler and server on this machine until Ctrl-C.

    Broker and store are started here where the configuration says [bold]embedded[/] (the default).

    [bold]Example[/]

        freshrecall up

        freshrecall up --kafka broker:9092 --redis redis://store:6379/0 --config freshrecall.toml
    """
    from deploy.signals import stop_on_signals
    from deploy.up import up

    stop = stop_on_signals()
    settings = loaded(config, data_dir, kafka, redis, port)
    raise typer.Exit(up(settings, _absolute(config), stop))


def _absolute(file: Path | None) -> Path | None:
    return None if file is None else file.resolve()
