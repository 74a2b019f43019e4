"""`freshrecall retrain`: one full retrain now."""

from typing import TYPE_CHECKING, Annotated

import typer

from deploy.options import ConfigFile, DataDir, Redis, configured

if TYPE_CHECKING:
    from rich.progress import TaskID


def run(
    through: Annotated[
        int | None,
        typer.Option(help="Train through this event time, ms; default: the latest sealed interval."),
    ] = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    redis: Redis = None,
) -> None:
    """Train one bundle now, from the archive, through the latest sealed interval.

    The first one starts from nothing; later ones go on from the newest bundle.

    [bold]Example[/]

        freshrecall retrain

        freshrecall retrain --through 1512086400000
    """
    settings = configured(config, data_dir, redis=redis)
    from rich.progress import Progress

    from deploy.scheduler import retrain_now

    with Progress() as bar:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, of: int) -> None:
            if what not in tasks:
                for earlier in tasks.values():
                    bar.update(earlier, total=1, completed=1)
                tasks[what] = bar.add_task(what)
            bar.update(tasks[what], completed=done, total=of)

        bundle = retrain_now(settings, through, show)
    typer.echo(f"published {bundle}")
