"""Measure other projects as the backtest measures this one: same targets, candidates and histories.

make peers ARGS="EVENTS.parquet click,long_view --start-ms T --targets BACKTEST/predictions.parquet
    --out results.json --predictions preds.parquet"
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.peers import record, replay
from benchmarks.peers.peer import Peer
from benchmarks.peers.popularity import Popularity
from benchmarks.peers.positives import read_positives, read_targets

PEERS = {
    "popularity": "Popularity",
    "rechub_youtube_dnn": "RechubYoutubeDNN",
    "rechub_dssm": "RechubDSSM",
    "recbole_sasrec": "RecBoleSASRec",
    "recbole_bpr": "RecBoleBPR",
}


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("events", type=Path, help="a standard event table")
    add("kinds", type=lambda text: text.split(","), help="positive kinds, separated by commas")
    add("--start-ms", type=int, required=True, help="targets from here on; the stretch before it tunes")
    add("--end-ms", type=int, help="targets before this only")
    add("--targets", type=Path, help="parquet with a column `row`: score these positives, sample nothing")
    add("--sample", type=int, default=3000, help="how many targets, by hash, where no --targets are given")
    add("--seed", type=int, default=7, help="of the sample, the models and the intervals")
    add("--refit-hours", type=float, default=24)
    add("--max-refits", type=int, default=20, help="a long window gets so many, evenly spread")
    add("--newest", type=int, default=0, help="train on so many of the newest positives only (0: all)")
    add("--trials", type=int, help="tune over the first so many entries of each grid (1: the documented one)")
    add("--max-epochs", type=int, help="never train longer")
    add("--threads", type=int, default=1)
    add("--peers", type=lambda text: text.split(","), default=list(PEERS), help=", ".join(PEERS))
    add("--out", type=Path, required=True, help="results, json")
    add("--predictions", type=Path, help="lists, parquet")
    asked = parser.parse_args()
    for name in asked.peers:
        if name not in PEERS:
            parser.error(f"unknown peer {name!r}; there are {', '.join(PEERS)}")
    return asked


def load(name: str) -> Peer:
    """Imported late: one peer's project need not load for another's run."""
    return getattr(importlib.import_module(f"benchmarks.peers.{name}"), PEERS[name])()


def plan_of(asked: argparse.Namespace) -> replay.Plan:
    """Targets and budget.

    Raises:
        ValueError: there is nothing to score, or too little to tune on.
    """
    positives = read_positives(asked.events, asked.kinds)
    first = positives.before(asked.start_ms)
    end = len(positives) if asked.end_ms is None else positives.before(asked.end_ms)
    if asked.targets:
        rows = read_targets(asked.targets, positives, asked.start_ms)
        targets = rows[rows < end]
    else:
        targets = positives.sample(np.arange(first, end, dtype=np.int64), asked.sample, asked.seed)
    if not len(targets) or first < 100:
        raise ValueError(
            f"{asked.events}: {first} positives before {asked.start_ms} and {len(targets)} targets after it; "
            "expected at least 100 and 1; check --start-ms, --end-ms and the kinds"
        )
    return replay.Plan(
        positives=positives,
        start_ms=asked.start_ms,
        targets=targets,
        refit_hours=asked.refit_hours,
        max_refits=asked.max_refits,
        trials=asked.trials,
        max_epochs=asked.max_epochs,
        newest=asked.newest,
        seed=asked.seed,
    )


def main() -> None:
    """Popularity is always tuned first: the others fall back on it. Files are written after each peer."""
    asked = options()
    torch.set_num_threads(asked.threads)
    plan = plan_of(asked)
    around = record.surroundings(asked.events)
    params = {
        "kinds": asked.kinds,
        "start_ms": asked.start_ms,
        "end_ms": asked.end_ms,
        "seed": asked.seed,
        "refit_hours": asked.refit_hours,
        "max_refits": asked.max_refits,
        "newest": asked.newest,
        "trials": asked.trials,
        "max_epochs": asked.max_epochs,
        "threads": asked.threads,
    }
    popularity = replay.tune(Popularity(), plan, fallback_days=7.0)
    fallback_days = popularity.knobs["half_life_days"]
    results, lists = [], []
    for name in asked.peers:
        peer, began = load(name), time.perf_counter()
        tuned = popularity if name == "popularity" else replay.tune(peer, plan, fallback_days)
        outcome = replay.test(peer, plan, tuned, fallback_days, time.perf_counter() - began)
        results += [
            {**one, **around} for one in record.records(peer, outcome, plan.positives, plan.seed, params)
        ]
        if asked.predictions:
            lists.append(record.predictions(peer, outcome, plan.positives))
            pq.write_table(pa.concat_tables(lists), asked.predictions, compression="zstd")
        # Last: whoever finds results finds their lists too.
        asked.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
