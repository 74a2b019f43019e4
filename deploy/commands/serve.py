"""`freshrecall serve`: the HTTP API."""

from typing import Annotated

import typer

from deploy.options import ConfigFile, DataDir, Kafka, Redis, configured


def run(
    config: ConfigFile = None,
    data_dir: DataDir = None,
    kafka: Kafka = None,
    redis: Redis = None,
    port: Annotated[int | None, typer.Option(help="HTTP port.")] = None,
) -> None:
    """Answer recall requests; new bundles and deltas are swapped in while it runs.

    [bold]Example[/]

        freshrecall serve --port 8000

        curl -s localhost:8000/v1/recall -d '{"user_id": 900, "k": 10}'
    """
    from deploy.logs import show_logs
    from deploy.reachable import require_services
    from deploy.signals import stop_on_signals

    stop = stop_on_signals()
    settings = configured(config, data_dir, kafka, redis, port)
    show_logs()
    require_services(settings)
    from deploy.server import run_server

    run_server(settings, stop)
