"""Write the tables of docs/performance.md from results/latest.json: `python -m benchmarks.page [--check]`.

A table stands between `<!-- performance: figures: NAME NAME … -->` and `<!-- end of performance -->` and has
the results of these names, or of all names that begin so.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import pages
from benchmarks.__main__ import LATEST, ROOT, is_of, read
from benchmarks.figures import NONE, Record, measured, number, ratio
from benchmarks.findings.figures import table
from benchmarks.suite import names

PAGE = ROOT / "docs" / "performance.md"
PART = re.compile(r"(<!-- performance: ([^>]*?) -->\n).*?(<!-- end of performance -->)", re.DOTALL)
UNKNOWN = "not measured yet"
HEAD = ("figure", "here", "peer", "peer's", "ratio", "of the limit", "revision")


def about(records: list[Record]) -> str:
    """Where the figures come from."""
    if not records:
        return f"{UNKNOWN.capitalize()}."
    machines = {f"{one['machine']['cores']} cores of {one['machine']['cpu']}" for one in records}
    versions = {f"{name} {number}" for one in records for name, number in one["versions"].items()}
    missing = len(set(names()) - {one["name"] for one in records})
    return (
        f"From `benchmarks/results/{LATEST.name}`, measured on {' and '.join(sorted(machines))} without a "
        f"GPU; {', '.join(sorted(versions))}. {missing} of {len(names())} figures are {UNKNOWN}."
    )


def figures(records: list[Record], wanted: str) -> str:
    """One table. Raises ValueError for a name that nothing gives."""
    by_name = {one["name"]: one for one in records}
    shown = [name for asked in wanted.split() for name in names() if is_of(name, asked)]
    unknown = [asked for asked in wanted.split() if not any(is_of(name, asked) for name in names())]
    if unknown:
        raise ValueError(f"{PAGE.name}: no result {', '.join(unknown)}; there are {', '.join(names())}")
    return table(HEAD, [_row(name, by_name.get(name)) for name in shown])


def _row(name: str, one: Record | None) -> tuple[str, ...]:
    if one is None:
        return (f"`{name}`", UNKNOWN, *[NONE] * (len(HEAD) - 2))
    ratios = ratio(one["ratio_to_peer"]), ratio(one["ratio_to_limit"])
    return (
        f"`{name}`", measured(one), one["peer"] or NONE, number(one["peer_value"]), *ratios, one["git"][:12],
    )  # fmt: skip


PARTS: dict[str, Callable[..., str]] = {"about": about, "figures": figures}


def filled(text: str, records: list[Record]) -> str:
    """The page with its parts written anew. Raises ValueError for a part of an unknown name."""
    return pages.filled(text, PART, PARTS, records)


def main(check: bool, page: Path = PAGE) -> int:
    """Write the page, or say whether it is current."""
    text = page.read_text(encoding="utf-8")
    wanted = filled(text, read(LATEST))
    if check and text != wanted:
        print(f"{page.name}: differs from {LATEST.name}; run `make docs`", file=sys.stderr)
        return 1
    if not check:
        page.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main("--check" in sys.argv))
