"""`freshrecall consume`: events from Kafka into archive, profiles and hourly deltas."""

from deploy.options import ConfigFile, DataDir, Kafka, Redis, configured


def run(
    config: ConfigFile = None, data_dir: DataDir = None, kafka: Kafka = None, redis: Redis = None
) -> None:
    """Take in events: archive them, keep user profiles, and publish a delta per interval.

    Safe to kill at any moment: the archive's own positions say where to go on.

    [bold]Example[/]

        freshrecall consume --kafka broker:9092 --redis redis://store:6379/0
    """
    from deploy.logs import show_logs
    from deploy.reachable import require_services
    from deploy.signals import stop_on_signals

    stop = stop_on_signals()
    settings = configured(config, data_dir, kafka, redis)
    show_logs()
    require_services(settings)
    from deploy.consumer import run_consumer

    run_consumer(settings, stop)
