"""`freshrecall simulate`: a made-up world of users with drifting interest that answers lists."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.commands.replay import progress_bar, speed_of
from deploy.options import ConfigFile, DataDir, Kafka, configured


def run(
    recommender: Annotated[
        str,
        typer.Option(
            help="Who answers: [bold]oracle[/] (true affinity: the ceiling), [bold]random[/], "
            "[bold]popular[/], or [bold]http[/], a running server."
        ),
    ] = "popular",
    out: Annotated[
        Path | None,
        typer.Option(help="Parquet file of events, items.parquet and users.parquet beside it; else Kafka."),
    ] = None,
    metrics: Annotated[
        Path | None, typer.Option(help="File of the figures; default metrics.json beside the events.")
    ] = None,
    days: Annotated[float | None, typer.Option(help="Event time to simulate, days.")] = None,
    warm_days: Annotated[float | None, typer.Option(help="Days that popular answers first.")] = None,
    requests_per_day: Annotated[int | None, typer.Option(help="Mean number.")] = None,
    k: Annotated[int | None, typer.Option(help="Items of a list.")] = None,
    users: Annotated[int | None, typer.Option(help="Number of users.")] = None,
    items: Annotated[int | None, typer.Option(help="Items at the start.")] = None,
    new_items_a_day: Annotated[int | None, typer.Option(help="Items that arrive evenly over a day.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything.")] = None,
    start_ms: Annotated[int | None, typer.Option(help="Event time of the first minute, ms.")] = None,
    world: Annotated[
        Path | None,
        typer.Option(help="TOML file of sections world and run: docs/simulate.md has their defaults."),
    ] = None,
    url: Annotated[str, typer.Option(help="Server of recommender http.")] = "http://127.0.0.1:8000",
    timeout_s: Annotated[float, typer.Option(min=0.001, help="Of a request of recommender http.")] = 2.0,
    speed: Annotated[
        str,
        typer.Option(callback=speed_of, help="Into Kafka: event seconds per wall second, or [bold]max[/]."),
    ] = "max",
    config: ConfigFile = None,
    data_dir: DataDir = None,
    kafka: Kafka = None,
) -> None:
    """Simulate users with drifting interest, new items and trends, for what logs cannot show.

    SIMULATED figures compare recommenders within one made-up world; they say nothing about real users.
    The same seed and the same served lists give the same events, byte for byte.

    [bold]Example[/]

        freshrecall simulate --recommender popular --days 3 --out simulated/events.parquet

        freshrecall simulate --recommender http --days 6 --warm-days 3 --kafka 127.0.0.1:9092
    """
    from deploy.simulate.run import Order, simulate
    from deploy.simulate.settings import settings_of

    given = {
        "run.days": days, "run.warm_days": warm_days, "run.requests_per_day": requests_per_day,
        "run.k": k, "world.users": users, "world.items": items,
        "world.new_items_a_day": new_items_a_day, "world.seed": seed, "world.start_ms": start_ms,
    }  # fmt: skip
    settings = settings_of(world, given)
    system = configured(config, data_dir, kafka) if out is None else None
    folder = out.parent if out is not None else system.data_dir / "simulation" if system else Path()
    order = Order(
        settings.world, settings.run, recommender, metrics or folder / "metrics.json", out,
        system.kafka if system else None, url, timeout_s, None if speed == "max" else float(speed),
    )  # fmt: skip
    began_s = time.monotonic()
    with progress_bar() as bar:
        task = bar.add_task("SIMULATED", total=settings.run.minutes, rate="")

        def show(minutes: int, ts_ms: int, events: int) -> None:
            moment = datetime.fromtimestamp(ts_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
            rate = f"{events / max(time.monotonic() - began_s, 1e-9):,.0f} events/s"
            bar.update(task, completed=minutes, description=f"SIMULATED {moment}", rate=rate)

        figures = simulate(order, show)
    _print(figures)
    typer.echo(f"{order.metrics}: {figures['events']:,} SIMULATED events in {figures['wall_s']} s")


def _print(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "day", "requests", "no answer", "clicks", "expected", "oracle's", "regret", "new",
        title=f"SIMULATED, recommender {figures['recommender']}",
    )  # fmt: skip
    total = figures["figures"]
    for row in [*total["by_day"], {"day": "all", **total}]:
        names = (
            "clicks_per_impression", "expected_clicks_per_place", "oracle_expected_clicks_per_place",
            "relative_regret", "new_items_share",
        )  # fmt: skip
        rates = ["" if row[name] is None else f"{row[name]:.4f}" for name in names]
        table.add_row(str(row["day"]), f"{row['requests']:,}", f"{row['unanswered']:,}", *rates)
    console = Console()
    console.print(table)
    console.print(
        "clicks per impression; expected clicks per place, of these lists and the oracle's; regret: share of "
        "the oracle's that is missed; new: share of new items among the impressions",
        style="dim",
    )
