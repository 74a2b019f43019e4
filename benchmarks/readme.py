"""Write the results of README.md from result files: `python -m benchmarks.readme [--check]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.figures import NONE, measured, ratio
from benchmarks.peers.table import peers_table
from deploy.demo import explained

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
RESULTS = Path(__file__).parent / "results"
RESULTS_BLOCK = ("<!-- results: written by `python -m benchmarks.readme` -->", "<!-- end of results -->")
PEERS_BLOCK = ("<!-- peers: written by `python -m benchmarks.readme` -->", "<!-- end of peers -->")


def demo_table(report: dict[str, Any]) -> str:
    """The figures of one full demo."""

    def recall(name: str, sign: str = "") -> str:
        interval = report["recall50_intervals"][name]
        return f"{interval['mean']:{sign}.4f} [{interval['low']:{sign}.4f}, {interval['high']:{sign}.4f}]"

    def spread(name: str) -> str:
        return f"p50 {report[f'{name}_p50_ms']:,.0f} ms, p99 {report[f'{name}_p99_ms']:,.0f} ms"

    rows = [
        ("events through Kafka", f"{report['events']:,}, of them {report['live_events']:,} live"),
        ("deltas / bundles swapped in", f"{report['deltas']} / {report['bundles']}"),
        ("requests / failed", f"{report['requests']:,} / {report['failed']}"),
        ("answers recomputed from their files / mixed", f"{report['audited']} / {report['mixed']}"),
        ("request latency, beside consumer and trainer", spread("request")),
        ("event → profile → that user's answer", spread("visible_profile")),
        *(
            (meaning, spread(name))
            for meaning, name in (
                ("event → popularity channel", "visible_popular"),
                ("new item → retrieved", "visible_new_item"),
            )
            if f"{name}_p50_ms" in report
        ),
        ("end of an hour → its delta served", spread("visible_delta")),
        ("recall@50 on the next hour: first bundle, frozen", recall("frozen")),
        ("recall@50 on the next hour: daily", recall("daily")),
        ("recall@50 on the next hour: daily + hourly", recall("hourly")),
        ("hourly − daily, paired", recall("hourly-daily", "+")),
        ("wall time", f"{report['wall_s']:.0f} s"),
    ]
    head = f"`{report['command']}`: {report['targets']:,} targets, 95% bootstrap intervals by user.\n\n"
    return head + _table(("figure", "value"), rows)


def explained_table(report: dict[str, Any]) -> str:
    """An answer of the demo with its channels, "" where the report has none."""
    told = report.get("explained")
    if not told:
        return ""
    head = f'What `"explain": true` says of an answer of several channels ({explained.summary(told)}):\n\n'
    return head + _table(explained.HEAD, explained.rows(told))


def bench_table(results: list[dict[str, Any]]) -> str:
    """Ratios of one `make bench`."""
    rows = [(one["name"], measured(one), one["peer"] or NONE, ratio(one["ratio_to_peer"])) for one in results]
    head = "`make bench`, each against its peer in one run ([docs/performance.md](docs/performance.md)):\n\n"
    return head + _table(("path", "here", "peer", "ratio"), rows)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def results() -> str:
    """Demo and bench."""
    report = json.loads((RESULTS / "demo.json").read_text())
    bench = json.loads((RESULTS / "latest.json").read_text())
    machine = f"On {report['machine']['cores']} cores ({bench[0]['machine']['cpu']}), without a GPU."
    parts = [machine, demo_table(report), explained_table(report), bench_table(bench)]
    return "\n\n".join(part for part in parts if part)


def peers() -> str:
    """Other projects beside this one."""
    file = RESULTS / "peers.json"
    return peers_table(json.loads(file.read_text()) if file.exists() else [])


def filled(text: str, block: tuple[str, str], content: str) -> str:
    """The page with what stands between the two markers written anew."""
    begin, end = block
    before, rest = text.split(begin)
    return f"{before}{begin}\n\n{content}\n\n{end}{rest.split(end)[1]}"


def main() -> int:
    """Write the blocks, or with --check say whether they are current."""
    text = README.read_text()
    wanted = filled(filled(text, RESULTS_BLOCK, results()), PEERS_BLOCK, peers())
    if "--check" in sys.argv:
        if text != wanted:
            print("README.md: results differ from benchmarks/results; run `make docs`", file=sys.stderr)
            return 1
        return 0
    README.write_text(wanted)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
