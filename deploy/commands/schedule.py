"""`freshrecall schedule`: the daily full retrain."""

from deploy.options import ConfigFile, DataDir, Kafka, Redis, configured


def run(
    config: ConfigFile = None, data_dir: DataDir = None, kafka: Kafka = None, redis: Redis = None
) -> None:
    """Retrain in full once a day and publish the bundle.

    The first bundle is asked for by hand, once there is history enough: [bold]freshrecall retrain[/].

    [bold]Example[/]

        freshrecall schedule --config freshrecall.toml
    """
    from deploy.logs import show_logs
    from deploy.signals import stop_on_signals

    stop = stop_on_signals()
    settings = configured(config, data_dir, kafka, redis)
    show_logs()
    from deploy.scheduler import run_schedule

    run_schedule(settings, stop)
