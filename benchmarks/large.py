"""A catalogue and users as large as a machine can serve: loaded, asked, and replaced while it is asked."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks.bundles import ASKED, MODEL
from benchmarks.large_bundle import published_into
from benchmarks.measure import Result
from benchmarks.serve import K
from benchmarks.swap import Peak, Seen, Span
from benchmarks.system import running
from benchmarks.worker import Worker
from models.index import IndexConfig

MB = 1_000_000


def served(
    items: int,
    users: int,
    ivf_from: int,
    changed_users: int,
    connections: int,
    steady_s: float,
    threads: int,
) -> list[Result]:
    """Rows of half precision: a bundle, a delta of changed users and another whole bundle, each loaded by the
    server, the last two while it is asked by `connections`; steady_s lies before, between and after them.
    threads: of the making of the index.

    growth.large.memory is what the swap has in memory where nothing has to give way, both bundles and what
    the server holds for itself; its limit is the machine's memory. What the kernel then did without is in the
    params: pages of files that were resident, and those that had to be read while a request waited.
    """
    with tempfile.TemporaryDirectory() as name, running(Path(name)) as system:
        began = time.monotonic()
        index = IndexConfig(ivf_from=ivf_from, threads=threads)
        bundle, made = published_into(system.registry, items, users, index)
        made_s = time.monotonic() - began
        size = sum(path.stat().st_size for path in made.files.values() if isinstance(path, Path))
        system.start_empty(made)
        began = time.monotonic()
        system.point(bundle)
        system.until_served(bundle)
        load_s = time.monotonic() - began
        at_rest = memory(system.pid)
        delta = system.registry.publish_delta(made.delta(bundle, 1, "user", changed_users))
        versions = ((bundle, delta.sequence), (made.publish(system.registry, 1), 0))
        on = Path(name) / "load-on"
        on.touch()
        spans, read = list[Span](), [reads(system.pid)]
        private, whole = Peak(system.pid, private_bytes), Peak(system.pid)
        with private, whole, Worker("benchmarks.load") as load:
            asked = {"users": ASKED, "apart": made.apart, "k": K, "connections": connections}
            load.tell(url=system.url, while_there=str(on), **asked)
            time.sleep(steady_s)
            for version, sequence in versions:
                read.append(reads(system.pid))
                began = time.monotonic()
                system.point(version, sequence)
                system.until_served(version, sequence)
                spans.append((began, time.monotonic()))
                time.sleep(steady_s)
            read.append(reads(system.pid))
            after = memory(system.pid)
            on.unlink()
            told = load.answer()
        failed = float(told["failed"])
        latency_ms = np.array(told["latency_ms"])
        seen = Seen.of(latency_ms, np.array(told["ended_s"]), spans)
    needed = 2 * size + private.bytes
    read_bytes, faults = np.diff(np.array(read), axis=0).T.tolist()
    params = {
        "k": K, "index": made.fields.models[MODEL]["index"], "bundle_mb": round(size / MB),
        "made_s": round(made_s, 1), "empty_mb": round(system.empty_bytes / MB),
        "loaded_mb": at_rest, "swapped_mb": after, "highest_private_mb": round(private.bytes / MB),
        "highest_resident_mb": round(whole.bytes / MB), "read_mb": [round(one / MB) for one in read_bytes],
        "faults_that_read": faults, "swap_s": [round(end - began, 2) for began, end in spans],
        "requests": len(latency_ms), "said": told["said"], "p50_ms": round(float(np.median(latency_ms)), 3),
        **seen.params,
    }  # fmt: skip
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return [
        Result("growth.large.load_s", load_s, "s", params=params),
        Result("growth.large.memory", needed / 1e9, "GB", limit=machine / 1e9, params=params),
        Result("growth.large.p99_ms", seen.p99_ms, "ms", params=params),
        Result("growth.large.failed", failed, "requests", params=params),
    ]


def memory(pid: int) -> Mapping[str, int]:
    """What a process has in memory, MB: all, its own part (Pss_Anon) and pages of files (Pss_File)."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return {name: round(_kb(text, name) * 1024 / MB) for name in ("Rss", "Pss_Anon", "Pss_File")}


def private_bytes(pid: int) -> int:
    """Memory of a process that no file stands for."""
    return _kb(Path(f"/proc/{pid}/status").read_text(), "RssAnon") * 1024


def reads(pid: int) -> tuple[int, int]:
    """What a process has read from the disk so far: bytes, and page faults that waited for it."""
    found = re.search(r"^read_bytes: (\d+)", Path(f"/proc/{pid}/io").read_text(), re.MULTILINE)
    faults = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[9]
    return int(found[1]) if found else 0, int(faults)


def _kb(text: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) if found else 0
