"""`freshrecall backtest`: update strategies compared on past events."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from deploy.options import ConfigFile


def run(
    events: Annotated[Path, typer.Option(help="Parquet table of events in the standard form.")],
    positives: Annotated[str, typer.Option(help="Kinds that are to be predicted: click,long_view.")],
    start_ms: Annotated[int, typer.Option(help="Event time from which targets are asked, ms.")],
    out: Annotated[Path, typer.Option(help="Folder of metrics.json, predictions.parquet, report.html.")],
    items: Annotated[Path | None, typer.Option(help="Parquet table of items (item_id, attributes).")] = None,
    users: Annotated[Path | None, typer.Option(help="Parquet table of users (user_id, attributes).")] = None,
    end_ms: Annotated[int | None, typer.Option(help="Event time to stop before, ms; default: all.")] = None,
    strategies: Annotated[
        str,
        typer.Option(
            help="frozen, daily, hourly, hourly_items, hourly_all, incremental_only, incremental_only_items, "
            "incremental_only_all, daily_ordered; frozen_live, daily_live: with popularity that goes on."
        ),
    ] = "frozen,daily,hourly",
    channels: Annotated[
        str,
        typer.Option(
            help="Models of the configuration or kinds of models, popularity, own_items: in one pass."
        ),
    ] = "two_tower,popularity",
    scope: Annotated[
        str, typer.Option(help="all: every target. new: items the user had are left out, only unseen ones.")
    ] = "all,new",
    k: Annotated[int, typer.Option(min=1, help="Length of the lists in predictions.parquet.")] = 100,
    sample: Annotated[int, typer.Option(min=1, help="Targets asked at most, chosen by hash.")] = 20_000,
    seed: Annotated[int, typer.Option(help="Seed of the sample and of the bootstrap.")] = 7,
    interval: Annotated[
        str | None, typer.Option(help="Length of an update interval: 1m, 1h, 6h, 1d; default archive's.")
    ] = None,
    day_timezone: Annotated[
        str | None, typer.Option(help="Zone whose midnights are the full retrains; default schedule's.")
    ] = None,
    training_seed: Annotated[
        int | None, typer.Option(help="Seed of initial weights and shuffles; default the configuration's.")
    ] = None,
    rejects: Annotated[
        str | None,
        typer.Option(help="prerank: what it turns down goes back, hard negatives of the next full retrain."),
    ] = None,
    rejects_a_day: Annotated[
        int, typer.Option(min=1, help="Requests of a day whose rejects go back at most, chosen by hash.")
    ] = 5000,
    config: ConfigFile = None,
) -> None:
    """Replay past events in event time, test first, then train, and compare update strategies.

    Training goes through the code of `consume` and `schedule`, in memory. Without a configuration every
    channel is a model of the kind it names, with features and counts read off the tables before the start.

    [bold]Example[/]

        freshrecall backtest --events events.parquet --items items.parquet --positives click,long_view
        --start-ms 1651056544560 --strategies daily,hourly --channels two_tower,popularity --out results

        freshrecall backtest --events events.parquet --positives purchase --start-ms 1507000000000
        --config shop.toml --interval 6h --strategies frozen,daily,hourly,hourly_all --out results
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from deploy.backtest.run import Question, backtest, names

    question = Question(
        events, names(positives), start_ms, out, items, users, end_ms, names(strategies), names(channels),
        names(scope), k, sample, seed, config, day_timezone, interval, training_seed,
        rejects, rejects_a_day,
    )  # fmt: skip
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("reading", total=None)

        def show(what: str, done: int, of: int) -> None:
            moment = datetime.fromtimestamp((start_ms + done) / 1000, UTC).strftime("%Y-%m-%d %H:%M")
            bar.update(task, description=f"{what} {moment}", completed=done, total=of)

        figures = backtest(question, show)
    _print(figures)
    typer.echo(f"{out / 'report.html'}: {figures['about']['wall_s']} s")


def _print(figures: dict) -> None:  # type: ignore[type-arg]
    from rich.console import Console
    from rich.table import Table

    table = Table("channel", "strategy", "scope", "n", "recall@50", "95%", "ndcg@100", "coverage")
    for strategy, channels in figures["metrics"].items():
        for channel, scopes in channels.items():
            for scope, values in scopes.items():
                recall, coverage = values["recall@50"], values["coverage"]
                table.add_row(
                    channel, strategy, scope, f"{values['n']:,}", f"{recall['mean']:.4f}",
                    f"{recall['low']:.4f} to {recall['high']:.4f}", f"{values['ndcg@100']['mean']:.4f}",
                    "" if coverage is None else f"{coverage:.3f}",
                )  # fmt: skip
    Console().print(table)
