"""Command-line options that several verbs share, and the configuration they lead to."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from deploy.config import Config

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="TOML file; ./freshrecall.toml is read if it exists."),
]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Archive, registry, embedded services; default from the config."),
]
Kafka = Annotated[
    str | None, typer.Option("--kafka", help="[bold]embedded[/], or host:port[,host:port] of Apache Kafka.")
]
Redis = Annotated[str | None, typer.Option("--redis", help="[bold]embedded[/], or redis://host:port/db.")]


def loaded(
    file: Path | None,
    data_dir: Path | None = None,
    kafka: str | None = None,
    redis: str | None = None,
    port: int | None = None,
) -> "Config":
    """The configuration of a verb; options that were given win. Raises ConfigError."""
    from deploy.config import Config
    from deploy.config_load import load

    options = {
        "data_dir": data_dir,
        "kafka.bootstrap": kafka,
        "redis.url": redis,
        "serving.port": port,
    }
    return load(Config, file, {key: value for key, value in options.items() if value is not None})


def configured(
    file: Path | None,
    data_dir: Path | None = None,
    kafka: str | None = None,
    redis: str | None = None,
    port: int | None = None,
) -> "Config":
    """The same with the addresses of the embedded services in place. Raises ConfigError."""
    from deploy.addresses import resolved

    return resolved(loaded(file, data_dir, kafka, redis, port))
