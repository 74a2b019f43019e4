"""benchmarks/results/peers.json as a part of README.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.findings.data import NAMES
from benchmarks.findings.experiments import SHOWN
from benchmarks.findings.figures import UNKNOWN, table
from benchmarks.peers.pairs import METRIC, PAIRS, SCOPES

Record = dict[str, Any]
TITLES = {
    "popularity": "popularity",
    "rechub_youtube_dnn": "torch-rechub YoutubeDNN",
    "rechub_dssm": "torch-rechub DSSM",
    "recbole_sasrec": "RecBole SASRec",
    "recbole_bpr": "RecBole BPR",
}
NO_ENTRY = "–"


def peers_table(records: Sequence[Record]) -> str:
    """Every pair of every data set, and what the peers were given."""
    rows = [row for data in NAMES for row in _rows(data, [one for one in records if one["data"] == data])]
    head = (
        "data", "peer", f"its {METRIC}, all / new", "model here", f"its {METRIC}, all / new",
        "difference, all", "difference, new",
    )  # fmt: skip
    about = "\n".join(_about(records))
    return f"{_intro(records)}\n\n{table(head, rows)}\n\n{about}".strip()


def _rows(data: str, records: Sequence[Record]) -> Iterable[tuple[str, ...]]:
    for peer, model in PAIRS.items():
        yield data, TITLES[peer], _peer(records, peer), model, *_own(records, "pair", peer)
    best = next((one for one in records if one.get("kind") == "best"), None)
    if best:
        peer = best["peer"]
        own = _own(records, "best", peer)
        yield data, f"best: {TITLES[peer]}", _peer(records, peer), f"best: {best['model']}", *own


def _peer(records: Sequence[Record], peer: str) -> str:
    values = [one["value"] for scope in SCOPES for one in _scored(records, peer) if one["scope"] == scope]
    return " / ".join(f"{value:.4f}" for value in values) or UNKNOWN


def _own(records: Sequence[Record], kind: str, peer: str) -> tuple[str, str, str]:
    pair = [one for one in records if (one.get("kind"), one.get("peer")) == (kind, peer)]
    pair.sort(key=lambda one: SCOPES.index(one["scope"]))
    if not pair:
        return (UNKNOWN, NO_ENTRY, NO_ENTRY)
    all_, new = (_signed(one["difference"], *one["difference_interval"]) for one in pair)
    return " / ".join(f"{one['value']:.4f}" for one in pair), all_, new


def _signed(mean: float, low: float, high: float) -> str:
    return f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"


def _scored(records: Sequence[Record], peer: str = "") -> list[Record]:
    """Peers' own records, of one or of all."""
    names = [f"{one}.{METRIC}" for one in ([peer] if peer else TITLES)]
    return [one for one in records if one["name"] in names]


def _intro(records: Sequence[Record]) -> str:
    versions = {name: number for one in _scored(records) for name, number in one["versions"].items()}
    shown = [f"{name} {versions[name]}" for name in ("torch-rechub", "recbole", "torch") if name in versions]
    return (
        f"Models of other projects ({', '.join(shown) or UNKNOWN}) and the ones here\n"
        f"(`{SHOWN}`), asked the same targets. The peers see what their examples see (user, item, newest\n"
        "50 of the history), are tuned on the stretch before the test window and refitted within it, and\n"
        "can name what was there at their last refit; the models here read features and counts as well,\n"
        "and know new items within the hour. Differences are paired, with 95% bootstrap\n"
        "intervals by user. From `benchmarks/results/peers.json` (`python -m benchmarks.peers.side_by_side`)."
    )


def _about(records: Sequence[Record]) -> Iterable[str]:
    for data in NAMES:
        scored = [one for one in _scored(records) if one["data"] == data]
        if not scored:
            continue
        n = {one["scope"]: one["n"] for one in scored}
        once = {one["name"].partition(".")[0]: one["params"] for one in scored}
        given = [f"{TITLES[name]} {_budget(once[name])}" for name in PAIRS if name in once]
        yield (
            f"- {data}: {n['all']:,} targets, {n['new']:,} of them new to their user"
            + "; ".join(["", *given])
            + "."
        )


def _budget(params: Record) -> str:
    words = [f"{params['refits']} refits of {params['knobs']['epochs']} epochs"]
    if params["newest"]:
        words.append(f"newest {params['newest']:,} positives")
    if params["trials"]:
        words.append(f"first {params['trials']} of its grid")
    if params["max_epochs"]:
        words.append(f"at most {params['max_epochs']} epochs")
    return ", ".join([*words, f"{params['tuning_s'] + params['test_s']:,.0f} s"])
