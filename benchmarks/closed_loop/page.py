"""Write the generated parts of docs/simulate.md and docs/closed_loop.svg from closed_loop.json.

`python -m benchmarks.closed_loop.page [--check]`. A part stands between `<!-- closed loop: NAME -->` and
`<!-- end of closed loop -->`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import pages
from benchmarks.closed_loop.arms import ARMS
from benchmarks.closed_loop.plot import svg
from benchmarks.closed_loop.results import FILE, measured
from benchmarks.findings.figures import table

DOCS = Path(__file__).parents[2] / "docs"
PAGE, PLOT = DOCS / "simulate.md", DOCS / "closed_loop.svg"
PART = re.compile(r"(<!-- closed loop: ([^>]*?) -->\n).*?(<!-- end of closed loop -->)", re.DOTALL)
UNKNOWN = "Not measured yet."
Results = dict[str, Any]


def setup(data: Results) -> str:
    """Where, how long, with what."""
    if not data["arms"]:
        return UNKNOWN
    about, run = data["about"], data["about"]["run"]
    world = about["worlds"][0]
    seeds = ", ".join(str(one["seed"]) for one in about["worlds"])
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"SIMULATED, `{about['command']}`: worlds of seeds {seeds}, each {world['users']:,} users, "
        f"{world['items']:,} items and {world['new_items_a_day']} new ones a day, "
        f"{run['requests_per_day']:,} requests a day for {run['k']} places, {run['days']:g} days, the first "
        f"{run['warm_days']:g} of them warm-up. {about['wall_s'] / 60:.0f} minutes on one of "
        f"{about['machine']['cores']} busy cores ({about['machine']['cpu']}); {versions}; revision "
        f"{about['git'][:12]}."
    )


def arms(data: Results) -> str:
    """Every arm over the days after the warm-up."""
    if not data["arms"]:
        return UNKNOWN
    warm = round(data["about"]["run"]["warm_days"])
    rows = []
    for arm in data["arms"]:
        figures = arm["figures"]
        regret = _over_days(arm, "relative_regret", warm)
        new = _over_days(arm, "new_items_share", warm)
        clicks, expected, watched = (figures[name] for name in ("clicks", "expected", "watch_s"))
        rows.append(
            (f"`{arm['name']}`", arm["meaning"], _range(clicks), f"{expected['value']:.4f}",
             f"{watched['value']:.2f}", f"{regret:.3f}", f"{new:.3f}")
        )  # fmt: skip
    there = {arm["name"] for arm in data["arms"]}
    rows += [(f"`{arm.name}`", arm.meaning, UNKNOWN, "", "", "", "") for arm in ARMS if arm.name not in there]
    head = (
        "SIMULATED arm", "", "clicks per impression", "expected", "watched s per impression",
        "relative regret", "share of new items",
    )  # fmt: skip
    return table(head, rows)


def differences(data: Results) -> str:
    """Every arm against its base and against `popular`, of all seeds and of each."""
    if not data["differences"]:
        return UNKNOWN
    rows = []
    for one in data["differences"]:
        if one["metric"] == "expected":
            clicks = _difference(data, one, "clicks")
            apart = "; ".join(_signed(seed) for seed in one["by_seed"])
            rows.append((f"`{one['name']}` − `{one['against']}`", _signed(one), _signed(clicks), apart))
    head = ("SIMULATED difference, per impression", "expected clicks", "clicks", "expected clicks by world")
    return table(head, rows)


def verdicts(data: Results) -> str:
    """What the intervals of the expected clicks say, in a list."""
    lines = []
    for one in data["differences"]:
        if one["metric"] != "expected":
            continue
        base = next(arm for arm in data["arms"] if arm["name"] == one["against"])["figures"]["expected"]
        said = "better" if one["low"] > 0 else "worse" if one["high"] < 0 else "undecided"
        alike = {(seed["low"] > 0) - (seed["high"] < 0) for seed in one["by_seed"]}
        worlds = "" if len(one["by_seed"]) == 1 else ", both worlds alike" if len(alike) == 1 else (
            ", the worlds differ"
        )  # fmt: skip
        relative = one["value"] / base["value"]
        lines.append(f"- `{one['name']}` against `{one['against']}`: {said} ({relative:+.1%}){worlds}.")
    return "\n".join(lines) or UNKNOWN


def _difference(data: Results, like: Results, metric: str) -> Results:
    wanted = (like["name"], like["against"], metric)
    keys = ("name", "against", "metric")
    return next(one for one in data["differences"] if tuple(one[key] for key in keys) == wanted)


def _over_days(arm: Results, name: str, warm: int) -> float:
    values = [value for one in arm["by_seed"] for value in one[name][warm:] if value is not None]
    return sum(values) / len(values)


def _range(one: Results) -> str:
    return f"{one['value']:.4f} [{one['low']:.4f}, {one['high']:.4f}]"


def _signed(one: Results) -> str:
    return f"{one['value']:+.4f} [{one['low']:+.4f}, {one['high']:+.4f}]"


PARTS: dict[str, Callable[..., str]] = {
    "setup": setup, "arms": arms, "differences": differences, "verdicts": verdicts,
}  # fmt: skip


def filled(text: str, data: Results) -> str:
    """The page with its parts written anew. Raises ValueError for a part of an unknown name."""
    return pages.filled(text, PART, PARTS, data)


def main(check: bool) -> int:
    """Write page and plot, or say whether they are current."""
    data = measured()
    wanted = {PAGE: filled(PAGE.read_text(encoding="utf-8"), data), PLOT: svg(data)}
    stale = [file for file, text in wanted.items() if not file.exists() or file.read_text("utf-8") != text]
    for file in stale:
        if check:
            print(f"{file.name}: differs from {FILE.name}; run `make docs`", file=sys.stderr)
        else:
            file.write_text(wanted[file], encoding="utf-8")
    return int(check and bool(stale))


if __name__ == "__main__":
    raise SystemExit(main("--check" in sys.argv))
