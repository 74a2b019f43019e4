"""Every measurement of `make bench`, in the order in which they run: which results it gives, at which sizes.

The quick sizes are a fraction of the full ones: they show a path that became several times slower, not what
it reaches. Peers of another environment are left out there.
"""

from __future__ import annotations

from benchmarks.measure import Measurement

SERVED = {"items": 1_000_000, "users": 1_000_000, "graph_from": 100_000}
FEW_SERVED = {"items": 20_000, "users": 20_000, "graph_from": 1_000}
"""One bundle for all that serves it."""

SUITE = (
    Measurement(
        "train:youtube_dnn",
        ("train.youtubednn.1m",),
        full={
            "name": "train.youtubednn.1m",
            "items": 1_000_000,
            "samples": 131_072,
            "peer_samples": 4096,
            "rounds": 3,
        },
        quick={
            "name": "train.youtubednn.1m",
            "items": 200_000,
            "samples": 8192,
            "peer_samples": 0,
            "rounds": 1,
        },
    ),
    Measurement(
        "train:youtube_dnn",
        ("train.youtubednn.100k",),
        full={
            "name": "train.youtubednn.100k",
            "items": 100_000,
            "samples": 131_072,
            "peer_samples": 16_384,
            "rounds": 3,
        },
        quick={
            "name": "train.youtubednn.100k",
            "items": 20_000,
            "samples": 8192,
            "peer_samples": 0,
            "rounds": 1,
        },
    ),
    Measurement(
        "train:dssm",
        ("train.dssm.100k", "train.dssm_in_batch.100k"),
        full={"items": 100_000, "samples": 65_536, "peer_samples": 8192, "rounds": 3},
        quick={"items": 20_000, "samples": 2048, "peer_samples": 0, "rounds": 1},
    ),
    Measurement(
        "train:two_tower",
        ("train.two_tower.1m",),
        full={"items": 1_000_000, "samples": 65_536, "rounds": 3},
        quick={"items": 100_000, "samples": 2048, "rounds": 1},
    ),
    Measurement(
        "train:rows",
        ("train.rows.10m",),
        full={"sizes": (1_000_000, 10_000_000), "samples": 131_072, "rounds": 3},
        quick={"sizes": (20_000, 200_000), "samples": 4096, "rounds": 1},
    ),
    Measurement(
        "pipeline:share",
        ("train.pipeline",),
        full={"items": 1_000_000, "samples": 131_072, "rounds": 3},
        quick={"items": 50_000, "samples": 4096, "rounds": 1},
    ),
    Measurement(
        "train:beside_busy",
        ("train.threads.busy",),
        full={"items": 100_000, "samples": 16_384, "neighbours": 2, "rounds": 3},
        quick={"items": 5_000, "samples": 1024, "neighbours": 2, "rounds": 1},
    ),
    Measurement(
        "train:incremental",
        ("update.incremental",),
        full={"name": "update.incremental", "items": 1_000_000, "samples": 16_384, "rounds": 5},
        quick={"name": "update.incremental", "items": 100_000, "samples": 2048, "rounds": 2},
    ),
    Measurement(
        "train:incremental",
        ("update.incremental.two_tower",),
        full={"name": "update.incremental.two_tower", "items": 1_000_000, "samples": 16_384, "rounds": 5},
        quick={"name": "update.incremental.two_tower", "items": 100_000, "samples": 2048, "rounds": 2},
    ),
    Measurement(
        "intake:taken_in",
        ("intake.single", "intake.packed"),
        full={"single": 300_000, "packed": 1_000_000, "rounds": 3},
        quick={"single": 20_000, "packed": 100_000, "rounds": 1},
    ),
    Measurement(
        "intake:path",
        ("intake.path",),
        full={"events": 500_000, "users": 50_000, "items": 100_000, "rounds": 3},
        quick={"events": 20_000, "users": 2_000, "items": 10_000, "rounds": 1},
    ),
    Measurement(
        "archived:archived",
        ("intake.archived",),
        full={"events": 1_000_000, "batch": 10_000, "rounds": 3},
        quick={"events": 50_000, "batch": 10_000, "rounds": 1},
    ),
    Measurement(
        "lookup:lookups",
        ("ids.lookup", "ids.lookup.strings"),
        full={"keys": 1_000_000, "asked": 500_000},
        quick={"keys": 100_000, "asked": 100_000},
    ),
    Measurement(
        "update:rows",
        ("update.rows",),
        full={"rows": 1_000_000, "batch": 256, "rounds": 20},
        quick={"rows": 100_000, "batch": 256, "rounds": 5},
    ),
    Measurement(
        "prebatch:prebatched",
        ("prebatch.train", "prebatch.write+train"),
        full={"samples": 4096, "users": 500, "items": 20_000},
        quick={"samples": 1024, "users": 50, "items": 5_000},
    ),
    Measurement(
        "decode:decoding",
        ("decode.packed", "decode.single"),
        full={"events": 50_000},
        quick={"events": 10_000},
    ),
    Measurement(
        "join:hourly",
        ("join.hourly",),
        full={"impressions": 400_000},
        quick={"impressions": 40_000},
    ),
    Measurement(
        "search:exact",
        ("search.exact",),
        full={"items": 68_000, "queries": 200},
        quick={"items": 20_000, "queries": 100},
    ),
    Measurement(
        "search:published_items",
        ("search.1m",),
        full={**SERVED, "queries": 1000},
        quick={**FEW_SERVED, "queries": 200},
    ),
    Measurement(
        "search:beside_scann",
        ("search.scann",),
        full={**SERVED, "queries": 1000, "peer_queries": 256},
        quick={**FEW_SERVED, "queries": 200, "peer_queries": 0},
    ),
    Measurement(
        "serve:served",
        ("serve.recall.1m", "serve.rate.1m", "serve.p99_over_p50"),
        full={**SERVED, "requests": 10_000, "recalled": 500, "rounds": 5},
        quick={**FEW_SERVED, "requests": 1000, "recalled": 50, "rounds": 1},
    ),
    Measurement(
        "tower:towers",
        ("serve.tower", "serve.tower.8"),
        full={"calls": 5000, "peer_calls": 5000, "rounds": 5},
        quick={"calls": 500, "peer_calls": 0, "rounds": 2},
    ),
    Measurement(
        "swap:swapped",
        ("swap.p99_over_steady", "swap.stall_ms", "swap.failed", "memory.server", "memory.server.swap"),
        full={
            **SERVED,
            "changed_users": 100_000,
            "changed_items": 10_000,
            "deltas": 10,
            "bundles": 3,
            "steady_s": 3.0,
        },
        quick={
            **FEW_SERVED,
            "changed_users": 2_000,
            "changed_items": 1_000,
            "deltas": 2,
            "bundles": 1,
            "steady_s": 0.5,
        },
    ),
    Measurement(
        "publish:bundle",
        ("publish.bundle",),
        full={**SERVED, "rounds": 5},
        quick={**FEW_SERVED, "rounds": 2},
    ),
    Measurement(
        "publish:delta_live",
        ("publish.delta_live_s",),
        full={**SERVED, "changed_users": 1_000_000, "changed_items": 100_000, "rounds": 3},
        quick={**FEW_SERVED, "changed_users": 20_000, "changed_items": 10_000, "rounds": 1},
    ),
    Measurement(
        "update:visible",
        ("update.visible",),
        full={**SERVED, "changed": 10_000, "rounds": 7},
        quick={**FEW_SERVED, "changed": 1_000, "rounds": 2},
    ),
    Measurement(
        "serve:startup",
        ("startup.server_s",),
        full={**SERVED, "rounds": 3},
        quick={**FEW_SERVED, "rounds": 1},
    ),
    Measurement(
        "cycle:grocer",
        ("cycle.first_s", "cycle.day_s"),
        full={"events": 1_469_307},
        quick={"events": 10_000},
    ),
    Measurement(
        "growth:users",
        ("growth.users",),
        full={"sizes": (100_000, 1_000_000, 10_000_000), "events": 20_000, "rounds": 5},
        quick={"sizes": (2_000, 20_000, 200_000), "events": 2_000, "rounds": 2},
    ),
    Measurement(
        "growth:history",
        ("growth.history", "growth.history.request"),
        full={"lengths": (10, 50, 200, 1000), "items": 100_000, "samples": 4096, "calls": 2000, "rounds": 5},
        quick={"lengths": (10, 50, 200), "items": 5_000, "samples": 512, "calls": 200, "rounds": 1},
    ),
    Measurement(
        "growth:items",
        ("growth.items",),
        full={"sizes": (100_000, 1_000_000, 10_000_000), "queries": 500, "rounds": 5},
        quick={"sizes": (500, 5_000, 50_000), "queries": 50, "rounds": 2},
    ),
    Measurement(
        "large:served",
        ("growth.large.load_s", "growth.large.memory", "growth.large.p99_ms", "growth.large.failed"),
        full={
            "items": 10_000_000,
            "users": 50_000_000,
            "ivf_from": 2_000_000,
            "changed_users": 1_000_000,
            "connections": 2,
            "steady_s": 5.0,
            "threads": 2,
        },
        quick={
            "items": 20_000,
            "users": 100_000,
            "ivf_from": 10_000,
            "changed_users": 2_000,
            "connections": 2,
            "steady_s": 0.5,
            "threads": 1,
        },
    ),
)


def names() -> list[str]:
    """Of all results, in order."""
    return [name for measurement in SUITE for name in measurement.names]
