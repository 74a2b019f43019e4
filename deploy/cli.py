"""The console script `freshrecall`: one verb per file of `deploy/commands`.

Heavy libraries (torch, faiss, numba) are imported inside the verbs, so that `--help` answers at once.
"""

import gc
import sys

import typer

from deploy.commands import backtest, config, consume, demo, replay, retrain, schedule, serve, simulate, up
from deploy.errors import StartError

app = typer.Typer(
    name="freshrecall",
    help="Recall (candidate retrieval) for recommenders that keeps learning while it serves.",
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
for verb in (up, consume, schedule, serve, retrain, replay, backtest, simulate, demo, config):
    app.command(name=verb.__name__.rpartition(".")[2])(verb.run)


def main() -> None:
    """Run a verb; what keeps it from starting becomes one line on stderr and exit code 2."""
    from stream.errors import StreamError

    try:
        app()
    except (StartError, StreamError) as error:
        print(f"freshrecall: {error}", file=sys.stderr)
        sys.exit(2)
    finally:
        # Else the interpreter traverses all that torch and others leave behind once more: up to a second.
        gc.freeze()
