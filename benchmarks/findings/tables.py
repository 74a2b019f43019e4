"""Write the generated parts of docs/findings.md, docs/choosing-a-model.md and the README's model table.

`python -m benchmarks.findings.tables [--check]`. A part stands between `<!-- findings: NAME -->` and
`<!-- end of findings -->` and is written from benchmarks/results/findings.json alone.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path

from benchmarks import pages
from benchmarks.findings import figures, results
from benchmarks.findings.comparisons import METRICS_OF_STAGES
from benchmarks.findings.data import KUAIRAND, NAMES
from benchmarks.findings.experiments import (
    BLENDED,
    CLAIMS,
    CLASSICAL,
    COUNTS_RUN,
    EXPERIMENTS,
    FUSED_RUN,
    MET_COUNTS_RUN,
    MODELS,
    SHOWN,
    UPDATES,
    Experiment,
)
from benchmarks.findings.figures import RECALL, UNKNOWN, Results, table

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "docs" / "findings.md", ROOT / "docs" / "choosing-a-model.md", ROOT / "README.md")
PART = re.compile(r"(<!-- findings: ([^>]*?) -->\n).*?(<!-- end of findings -->)", re.DOTALL)
SCOPES = ("all", "new")
SOURCE = "benchmarks/results/findings.json"
LOSSES = ("softmax", "nce", "pointwise", "pairwise_hinge", "pairwise_logistic", "listwise")
README_ROWS = (
    ("A1", "YoutubeDNN", "models/youtube_dnn", "youtube_dnn"),
    ("A2", "two tower", "models/two_tower", "two_tower"),
    ("A3", "DSSM, MLP towers", "models/dssm", "dssm"),
    ("A3", "DSSM, DCN towers", "models/dssm_dcn", "dssm_dcn"),
    ("A4", "embedding-based retrieval (EBR)", "models/ebr", "ebr"),
    ("A5", "MIND", "models/mind", "mind"),
    ("A6", "ItemCF", "models/classical", "item_cf"),
    ("A6", "Swing", "models/classical", "swing"),
    *(("A7", f"two tower, loss {loss}", f"losses/{loss}", "two_tower") for loss in LOSSES),
    ("A8", "FM", "models/fm", "fm"),
    ("", "sequence", "models/sequence", "sequence"),
)


def setup(data: Results) -> str:
    """Where and when, how much."""
    if not data["runs"]:
        return UNKNOWN.capitalize() + "."
    lines = []
    for name in NAMES:
        there = [one for one in data["runs"] if one["data"] == name]
        if there:
            hours = sum(one["wall_s"] for one in {one["key"]: one for one in there}.values()) / 3600
            asked = " to ".join(f"{n:,}" for n in sorted({one["asked"] for one in there}))
            lines.append(
                (name, f"{len(there)}", asked, f"{max(one['in_window'] for one in there):,}", f"{hours:.1f}")
            )
    machine = data["runs"][-1]["machine"]
    versions = data["runs"][-1]["versions"]
    failed = "".join(
        f"\n\nFailed: {one['data']}/{one['name']} seed {one['seed']}: {one['error']}"
        for one in data["failed"]
    )
    made_with = ", ".join(f"{name} {version}" for name, version in versions.items())
    head = ("data", "runs", "targets asked", "targets in the window", "hours of all runs")
    return (
        f"On {machine['cores']} cores ({machine['cpu']}), two runs at a time; {made_with}.\n\n"
        + table(head, lines)
        + failed
    )


def best_classical(data: Results, name: str, scope: str) -> str | None:
    """The item-to-item or counting channel with the highest recall, or None."""
    there = {
        peer: values[RECALL]["mean"]
        for peer in CLASSICAL
        if (values := figures.figures(data, name, "models/classical", SHOWN, peer, scope))
    }
    return max(there, key=lambda peer: there[peer]) if there else None


def against_best(data: Results, name: str, model: str, scope: str, strategy: str = SHOWN) -> dict | None:  # type: ignore[type-arg]
    """A model's recall against the best classical channel's."""
    peer = best_classical(data, name, scope)
    if peer is None:
        return None
    a, b = ("models/classical", strategy, peer), (f"models/{model}", strategy, model)
    return figures.compared(data, "model", name, a, b, scope)


def models(data: Results, name: str) -> str:
    """Every model of one data set beside the classical channels."""
    rows = []
    for channel in (*CLASSICAL, *MODELS):
        experiment = "models/classical" if channel in CLASSICAL else f"models/{channel}"
        values = {scope: figures.figures(data, name, experiment, SHOWN, channel, scope) for scope in SCOPES}
        seeds = len(figures.runs(data, name, experiment))
        shown = f"{channel} (median of {seeds} seeds)" if seeds > 1 else channel
        covered = values["all"] and values["all"].get("coverage")
        gains = [
            "" if channel in CLASSICAL else figures.relative(against_best(data, name, channel, scope))
            for scope in SCOPES
        ]
        rows.append(
            (shown, figures.mean(values["all"]), figures.mean(values["new"]), *gains,
             UNKNOWN if covered is None else f"{covered:.3f}")
        )  # fmt: skip
    bests = ", ".join(f"{best_classical(data, name, scope) or UNKNOWN} ({scope})" for scope in SCOPES)
    head = (
        "channel",
        "recall@50, all",
        "recall@50, new",
        "all, over the best",
        "new, over the best",
        "coverage",
    )
    return f"Best channel that is not learned: {bests}.\n\n" + table(head, rows)


def claims(data: Results, name: str) -> str:
    """Strategies of one data set, and a sentence for each claim."""
    parts = []
    for variant in ("with counts", "without counts"):
        experiment = f"claims/{variant}"
        rows = []
        for strategy in UPDATES:
            values = {
                scope: figures.figures(data, name, experiment, strategy, "two_tower", scope)
                for scope in SCOPES
            }
            moved = values["all"] and values["all"].get("touched")
            rows.append((strategy, *(figures.mean(values[scope]) for scope in SCOPES), figures.mean(moved)))
        head = ("strategy", "recall@50, all", "recall@50, new", "all, touched targets only")
        sentences = "\n".join(_sentences(data, name, experiment))
        parts.append(f"Two tower {variant}:\n\n{table(head, rows)}\n\n{sentences}")
    return "\n\n".join(parts)


def _sentences(data: Results, name: str, experiment: str) -> Iterator[str]:
    for claim in CLAIMS:
        a, b = ((experiment, strategy, "two_tower") for strategy in (claim.worse, claim.better))
        asked = [
            ("scope all", figures.compared(data, "claim", name, a, b, "all")),
            ("scope new", figures.compared(data, "claim", name, a, b, "new")),
            ("touched, scope all", figures.compared(data, "claim", name, a, b, "all", "touched")),
        ]
        if all(record is None for _, record in asked):
            yield f"- {claim.text} ({claim.better} over {claim.worse}): {UNKNOWN}."
            continue
        found = "; ".join(
            f"{what}: {figures.verdict(record)}" + (f", {figures.change(record)}" if record else "")
            for what, record in asked
        )
        yield f"- {claim.text} ({claim.better} over {claim.worse}): {found}."


def variants(data: Results, group: str) -> str:
    """Every data set's variants of one group, each beside what it is a variant of."""
    parts = []
    for name in NAMES:
        declared = [one for one in EXPERIMENTS if (one.data, one.group) == (name, group)]
        rows = [row for one in declared for row in _rows(data, one)]
        if any(UNKNOWN not in row[2] for row in rows):
            what = ("recall@50, all", "recall@50, new", "difference, all", "difference, new")
            parts.append(f"{name}:\n\n{table(('variant', 'strategy', *what), rows)}")
        elif declared:
            parts.append(f"{name}: {UNKNOWN}.")
    return "\n\n".join(parts)


def _rows(data: Results, one: Experiment) -> Iterator[tuple[str, ...]]:
    base = next((base for base in EXPERIMENTS if (base.data, base.name) == (one.data, one.against)), None)
    for strategy, (at, channel) in product(one.strategies, enumerate(one.contestants)):
        means = [
            figures.mean(figures.figures(data, one.data, one.name, strategy, channel, scope))
            for scope in SCOPES
        ]
        gains = ["", ""]
        if base:
            sides = ((base.name, strategy, base.contestants[at]), (one.name, strategy, channel))
            records = [figures.compared(data, "variant", one.data, *sides, scope) for scope in SCOPES]
            gains = [figures.change(record) for record in records]
        named = f"{one.variant}: {channel}" if one.compared else one.variant
        yield (named, strategy, *means, *gains)


def prerank(data: Results) -> str:
    """What a pre-rank makes of the fused order, over the same candidates."""
    rows = []
    for one in EXPERIMENTS:
        base = next((base for base in EXPERIMENTS if (base.data, base.name) == (one.data, one.against)), None)
        if one.group != "prerank" or base is None:
            continue
        sides = ((base.name, SHOWN, base.contestant), (one.name, SHOWN, one.contestant))
        for metric in METRICS_OF_STAGES:
            cells = []
            for scope in SCOPES:
                record = figures.compared(data, "variant", one.data, *sides, scope, metric=metric)
                told = f"{record['a']:.4f} -> {record['b']:.4f}, " if record else ""
                cells.append(told + figures.relative(record))
            rows.append((one.data, one.variant, metric, *cells))
    return table(("data", "order", "metric", "fused -> pre-ranked, all", "fused -> pre-ranked, new"), rows)


def reach(data: Results) -> str:
    """Where the targets stood, by how much their users had taken before."""
    rows = []
    for name in NAMES:
        for one in (one for run in data["reach"] if run["data"] == name for one in run["records"]):
            values = [one[column] for column in ("fused", "prerank", "fused@100", "any")]
            single = f"{one['best single']:.4f} ({one['single']})"
            of_users = f"{one['share']:.0%}"
            rows.append((name, one["scope"], one["group"], of_users, single, *(f"{v:.4f}" for v in values)))
    head = ("data", "scope", "taken before", "of targets", "best channel", "fused", "pre-ranked")
    return table((*head, "fused, first 100", "in any channel's first 50"), rows)


def goals(data: Results) -> str:
    """What was set out to be reached."""
    rows = []
    for name in NAMES:
        for scope in SCOPES:
            tried = {model: against_best(data, name, model, scope) for model in MODELS}
            there = {model: record for model, record in tried.items() if record and "relative" in record}
            best = max(there, key=lambda model: there[model]["relative"]["mean"]) if there else None
            rows.append(_goal(f"{name}, {scope}: best learned ({best or '?'}) over best classical", 0.05,
                              there[best] if best else None))  # fmt: skip
            rows.append(_goal(f"{name}, {scope}: two_tower over best classical", 0.0, tried["two_tower"]))
    for variant in ("with counts", "without counts"):
        for better in ("hourly", "hourly_items", "hourly_all"):
            a, b = ((f"claims/{variant}", strategy, "two_tower") for strategy in ("daily", better))
            record = figures.compared(data, "claim", KUAIRAND, a, b, "all")
            rows.append(_goal(f"{KUAIRAND}, all: {better} over daily, {variant}", 0.05, record))
    for name in NAMES:
        for ending in (", without counts", ""):
            a, b = ((f"logq/{value}{ending}", SHOWN, "two_tower") for value in ("off", "on"))
            record = figures.compared(data, "variant", name, a, b, "all")
            rows.append(_goal(f"{name}, all: logQ on over off{ending}", 0.16, record))
    for name in NAMES:
        for scope in SCOPES:
            singles = [channel for channel in BLENDED if channel != "fused"]
            for what, channels, least in (("channel", singles, 0.05), ("classical one", CLASSICAL, 0.15)):
                for run, how in ((COUNTS_RUN, "fused"), (FUSED_RUN, "fused, of channels alone,")):
                    rows.append(_fused_goal(data, name, scope, run, how, what, channels, least))
    for base, order, run, how in (
        (FUSED_RUN, "fused order", "prerank/after it", "pre-ranked"),
        (COUNTS_RUN, "fused order with live counts", MET_COUNTS_RUN, "pre-ranked by what was met as well"),
    ):
        sides = ((base, SHOWN, "fused"), (run, SHOWN, "prerank"))
        record = figures.compared(data, "variant", KUAIRAND, *sides, "all", metric="recall@20")
        rows.append(_goal(f"{KUAIRAND}, all: recall@20 of the {order}, {how} over as it is", 0.10, record))
    return table(("relative gain in recall@50", "goal", "measured", ""), rows)


def _fused_goal(
    data: Results,
    name: str,
    scope: str,
    run: str,
    how: str,
    what: str,
    channels: Sequence[str],
    least: float,
) -> tuple[str, str, str, str]:
    """`fused` of a run over the best of its channels, mean of the seeds."""
    tried = [
        (channel, figures.compared(data, "single", name, (run, SHOWN, channel), (run, SHOWN, "fused"), scope))
        for channel in channels
    ]
    there = {channel: record for channel, record in tried if record and "relative" in record}
    best = max(there, key=lambda channel: there[channel]["a"]) if there else None
    text = f"{name}, {scope}: {how} over the best {what} of the run ({best or '?'})"
    return _goal(text, least, there[best] if best else None)


def _goal(what: str, least: float, record: dict | None) -> tuple[str, str, str, str]:  # type: ignore[type-arg]
    if record is None or "relative" not in record:
        return (what, f"{least:+.0%}", UNKNOWN, "")
    reached = record["relative"]["mean"] >= least
    return (what, f"{least:+.0%}", figures.relative(record), "reached" if reached else "not reached")


def choosing(data: Results) -> str:
    """The models of each data set by recall, with what they cost."""
    parts = []
    for name in NAMES:
        rows = []
        for model in MODELS:
            values = [figures.figures(data, name, f"models/{model}", SHOWN, model, scope) for scope in SCOPES]
            if values[0]:
                seconds = figures.runs(data, name, f"models/{model}")[0]["seconds"]
                cost = (f"{seconds.get(key, 0):,.0f}" for key in ("full retrains", SHOWN))
                rows.append((values[0][RECALL]["mean"], (model, *map(figures.mean, values), *cost)))
        rows.sort(reverse=True)
        head = ("model", "recall@50, all", "recall@50, new", "full retrains, s", "steps and answers, s")
        body = table(head, [row for _, row in rows]) if rows else f"{UNKNOWN.capitalize()}."
        parts.append(f"### {name}\n\n{body}")
    return "\n\n".join(parts)


def readme_models(data: Results) -> str:
    """Every row of the list of models with its figure."""
    rows = []
    for row, shown, experiment, channel in README_ROWS:
        cells = []
        for name in NAMES:
            values = [figures.figures(data, name, experiment, SHOWN, channel, scope) for scope in SCOPES]
            known = [f"{one[RECALL]['mean']:.4f}" for one in values if one]
            asked = any((one.data, one.name) == (name, experiment) for one in EXPERIMENTS)
            cells.append(" / ".join(known) or (UNKNOWN if asked else "–"))
        rows.append((row, shown, *cells, f"`{experiment}`"))
    head = ("", "model", *(f"{name}, all / new" for name in NAMES), "experiment")
    return (
        f"Recall@50 of the next item, updated hourly (`{SHOWN}`), from `{SOURCE}` (`make findings`); "
        f"intervals and what they mean: [docs/findings.md](docs/findings.md).\n\n" + table(head, rows)
    )


PARTS: dict[str, Callable[..., str]] = {
    "setup": setup, "models": models, "claims": claims, "variants": variants, "prerank": prerank,
    "reach": reach,
    "goals": goals, "choosing": choosing, "readme models": readme_models,
}  # fmt: skip


def filled(text: str, data: Results) -> str:
    """The page with its parts written anew. Raises ValueError for a part of an unknown name."""
    return pages.filled(text, PART, PARTS, data)


def main(check: bool) -> int:
    """Write the pages, or say whether they are current."""
    data = results.read()
    stale = 0
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        wanted = filled(text, data)
        if check and text != wanted:
            print(f"{page.name}: differs from {SOURCE}; run `make docs`", file=sys.stderr)
            stale = 1
        elif text != wanted:
            page.write_text(wanted, encoding="utf-8")
    return stale


if __name__ == "__main__":
    raise SystemExit(main("--check" in sys.argv))
