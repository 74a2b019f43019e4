"""`freshrecall replay`: a table of past events into Kafka, at a chosen speed, with progress."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.options import ConfigFile, DataDir, Kafka, configured

if TYPE_CHECKING:
    from rich.progress import Progress


def progress_bar() -> "Progress":
    """Event time reached, share of the rows sent, and the rate."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    moment = TextColumn("{task.description}")
    rate = TextColumn("{task.fields[rate]}")
    return Progress(moment, BarColumn(), MofNCompleteColumn(), rate, TimeElapsedColumn())


def speed_of(text: str) -> str:
    """The option as given: "max" or a number above 0; BadParameter for anything else."""
    if text == "max":
        return text
    try:
        if float(text) > 0:
            return text
    except ValueError:
        pass
    raise typer.BadParameter(f"expected a positive number of event seconds per second, or max; got {text!r}")


def run(
    table: Annotated[
        str,
        typer.Argument(
            help="Parquet table in the standard form (ts_ms, user_id, item_id, kind, scene, request_id, "
            "value), or [bold]completejourney[/], which brings its items and users."
        ),
    ],
    speed: Annotated[
        str, typer.Option(callback=speed_of, help="Event seconds per wall second, or [bold]max[/].")
    ] = "3600",
    from_ms: Annotated[int | None, typer.Option(help="First event time to send, ms.")] = None,
    to_ms: Annotated[int | None, typer.Option(help="Event time to stop before, ms.")] = None,
    items: Annotated[
        Path | None, typer.Option(help="Parquet table of items (item_id, attributes) to send first.")
    ] = None,
    users: Annotated[
        Path | None, typer.Option(help="Parquet table of users (user_id, attributes) to send first.")
    ] = None,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    kafka: Kafka = None,
) -> None:
    """Send a table of past events into Kafka.

    Rows without event_id get one derived from their content, the same at every replay.

    [bold]Example[/]

        freshrecall replay completejourney --speed 3600 --from-ms 1512086400000

        freshrecall replay events.parquet --speed max --kafka broker:9092
    """
    from deploy.catalogue_import import import_catalogue
    from deploy.datasets import completejourney, read_events
    from deploy.event_ids import derived_event_ids
    from deploy.replay import replay
    from stream.producer import EventProducer

    settings = configured(config, data_dir, kafka)
    with EventProducer(settings.kafka) as producer:  # first, so that an absent broker shows at once
        path = Path(table)
        if table == "completejourney":
            dataset = completejourney(settings.data_dir)
            path, items, users = dataset.events, items or dataset.items, users or dataset.users
        if items or users:
            typer.echo(f"{import_catalogue(settings.kafka, items, users):,} items and users")
        events = read_events(path, from_ms, to_ms)
        if "event_id" not in events.column_names:
            events = events.append_column("event_id", derived_event_ids(events))
        started_s = time.monotonic()
        with progress_bar() as bar:
            task = bar.add_task("", total=len(events), rate="")

            def show(sent: int, ts_ms: int) -> None:
                rate = sent / max(time.monotonic() - started_s, 1e-9)
                moment = datetime.fromtimestamp(ts_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
                bar.update(task, completed=sent, description=moment, rate=f"{rate:,.0f} events/s")

            sent = replay(events, producer.send_table, None if speed == "max" else float(speed), show)
            producer.flush()
    seconds = time.monotonic() - started_s
    typer.echo(f"{sent:,} events in {seconds:.1f} s ({sent / max(seconds, 1e-9):,.0f} events/s)")
