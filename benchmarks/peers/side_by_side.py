"""The peers and the models here on the same targets: runs the peers that are missing, compares them with the
runs of `make findings`, writes benchmarks/results/peers.json and the README table.

python -m benchmarks.peers.side_by_side --kuairand DIR --movietweetings DIR --completejourney
python -m benchmarks.peers.side_by_side --kuairand DIR --collect       # run nothing, compare what is there
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import readme
from benchmarks.findings.data import (
    COMPLETEJOURNEY,
    KUAIRAND,
    MOVIETWEETINGS,
    DataSet,
    add_data_options,
    asked_for,
)
from benchmarks.findings.experiments import EXPERIMENTS
from benchmarks.findings.runs import Limits, Run, runs_of
from benchmarks.peers.pairs import PAIRS, compared, models_of, peer_answers
from deploy.backtest.events import event_stream
from deploy.backtest.targets import targets_of
from deploy.datasets import read_events

SOURCE = Path(__file__).parents[2]
FILE = SOURCE / "benchmarks" / "results" / "peers.json"
PYTHON = SOURCE / "var" / "peers" / "bin" / "python"
PEERS = ("popularity", *PAIRS)
TARGETS, SEED = 3000, 7
"""The backtest asks the targets of the smallest hashes: these are among the more of any of its runs."""
BUDGET: dict[str, dict[str, tuple[str, ...]]] = {
    KUAIRAND: {
        "recbole_sasrec": ("--max-refits", "4", "--trials", "2", "--max-epochs", "5"),
        "recbole_bpr": ("--max-epochs", "40"),
    },
    MOVIETWEETINGS: {
        "": ("--max-refits", "3", "--trials", "4", "--max-epochs", "20"),
        "rechub_dssm": ("--max-refits", "3", "--trials", "3", "--max-epochs", "10"),
        "recbole_sasrec": ("--max-refits", "3", "--trials", "2", "--max-epochs", "5"),
        "recbole_bpr": ("--max-refits", "3", "--max-epochs", "40"),
    },
    COMPLETEJOURNEY: {
        "": ("--newest", "200000", "--max-refits", "2", "--max-epochs", "20"),
        "rechub_youtube_dnn": (
            "--newest",
            "50000",
            "--max-refits",
            "1",
            "--trials",
            "4",
            "--max-epochs",
            "10",
        ),
        "rechub_dssm": ("--newest", "100000", "--max-refits", "2", "--trials", "4", "--max-epochs", "10"),
        "recbole_sasrec": ("--newest", "20000", "--max-refits", "1", "--trials", "2", "--max-epochs", "5"),
        "recbole_bpr": ("--newest", "200000", "--max-refits", "2", "--trials", "2", "--max-epochs", "10"),
    },
}
"""Options of the peers' runs by data set and peer ("": all others), where the usual ones take too long."""


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.side_by_side",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_data_options(parser)
    add = parser.add_argument
    add("--peers", type=lambda text: text.split(","), default=list(PEERS), help=", ".join(PEERS))
    add("--findings", type=Path, default=SOURCE / "var" / "findings", help="--root of the findings' runs")
    add("--runs", type=Path, default=SOURCE / "var" / "peers-runs", help="where the peers' runs are kept")
    add("--collect", action="store_true", help="run no peer, compare what is there and write the table")
    asked = parser.parse_args()
    unknown = set(asked.peers) - set(PEERS)
    if unknown:
        parser.error(f"peers: expected some of {', '.join(PEERS)}, got {', '.join(sorted(unknown))}")
    return asked


def write_targets(data: DataSet, file: Path) -> None:
    """Column `row`: the first of what any backtest of this data set asks."""
    stream = event_stream(read_events(data.events))
    targets = targets_of(stream.events, data.positives)
    rows = targets.sampled(data.start_ms, int(stream.ts_ms[-1]) + 1, TARGETS, SEED)
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"row": rows}), file)


def results_of(folder: Path, data: DataSet) -> dict[Path, list[dict[str, Any]]]:
    """Records of the peers' runs of one data set, by the file of their lists.

    Raises ValueError where one was made from other events.
    """
    events = hashlib.sha256(data.events.read_bytes()).hexdigest()
    there = {}
    for file in sorted(folder.glob("*.json")):
        records = json.loads(file.read_text(encoding="utf-8"))
        if any(one["data_sha256"] != events for one in records):
            raise ValueError(f"{file}: expected a run on {data.events}, got one on other events; remove it")
        there[file.with_suffix(".parquet")] = [{**one, "data": data.name} for one in records]
    return there


def run_peer(name: str, data: DataSet, folder: Path) -> None:
    """In the peers' environment.

    Raises:
        FileNotFoundError: there is none.
        subprocess.CalledProcessError: the run failed; what it said is on stderr.
    """
    if not PYTHON.exists():
        raise FileNotFoundError(f"{PYTHON}: expected the peers' environment, there is none; run `make peers`")
    budget = BUDGET[data.name]
    words = [
        str(PYTHON), "-W", "ignore", "-m", "benchmarks.peers", str(data.events), ",".join(data.positives),
        "--start-ms", str(data.start_ms), "--targets", str(folder / "targets.parquet"), "--peers", name,
        *budget.get(name, budget.get("", ())),
        "--out", str(folder / f"{name}.json"), "--predictions", str(folder / f"{name}.parquet"),
    ]  # fmt: skip
    subprocess.run(words, cwd=SOURCE, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)


def measured(data: DataSet, folder: Path, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """All records of one data set: of the peers, and of the models here against them."""
    there = results_of(folder, data)
    answers = {name: one for file in there for name, one in peer_answers(file).items()}
    records = [one for some in there.values() for one in some]
    return records + compared(data.name, answers, models_of(runs))


def write(records: list[dict[str, Any]], file: Path = FILE) -> None:
    """One line for each record; those of data sets that are not among them stay."""
    sets = {one["data"] for one in records}
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    kept = [one for one in before if one["data"] not in sets]
    lines = ",".join("\n" + json.dumps(one) for one in sorted(kept + records, key=lambda one: one["data"]))
    file.write_text(f"[{lines}\n]\n", encoding="utf-8")


def main() -> int:
    """The file is written anew after every data set."""
    asked = options()
    sets = asked_for(asked, asked.findings.resolve())
    for data in sets.values():
        folder = asked.runs.resolve() / data.name
        targets = folder / "targets.parquet"
        if not targets.exists():
            write_targets(data, targets)
        done = {one["name"].partition(".")[0] for some in results_of(folder, data).values() for one in some}
        for name in () if asked.collect else asked.peers:
            if name not in done:
                run_peer(name, data, folder)
        own = tuple(one for one in EXPERIMENTS if one.data == data.name and one.group == "models")
        write(measured(data, folder, runs_of(own, sets, asked.findings.resolve(), Limits())))
    return readme.main()


if __name__ == "__main__":
    raise SystemExit(main())
