"""`freshrecall config`: the effective configuration, with the meaning of every key."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.options import ConfigFile, DataDir, Kafka, Redis, loaded


def run(
    config: ConfigFile = None,
    data_dir: DataDir = None,
    kafka: Kafka = None,
    redis: Redis = None,
    docs: Annotated[
        Path | None, typer.Option(help="Write the reference of all keys into this Markdown file instead.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="With --docs: change nothing, fail if the file is not current.")
    ] = False,
) -> None:
    """Print the effective configuration as TOML, every key with its meaning.

    What it prints is a valid file: a start for your own.

    [bold]Example[/]

        freshrecall config > freshrecall.toml

        FRESHRECALL__KAFKA__BOOTSTRAP=broker:9092 freshrecall config
    """
    from deploy import reference
    from deploy.config import Config

    if docs is None:
        typer.echo(reference.as_toml(loaded(config, data_dir, kafka, redis)), nl=False)
    elif not check:
        reference.write(docs, Config)
    elif not reference.is_current(docs, Config):
        typer.echo(f"{docs}: the configuration reference is not current; run `make docs`", err=True)
        raise typer.Exit(1)
