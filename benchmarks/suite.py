"""Every measurement of `make bench`, in the order in which they run: which results it gives, at which sizes.

The quick sizes are a fraction of the full ones: they show a path that became several times slower, not what
it reaches. Peers of another environment are left out there.
"""

from __future__ import annotations

from benchmarks.measure import Measurement

SUITE = (
    Measurement(
        "train:youtube_dnn",
        ("train.youtubednn.1m",),
        full={
            "name": "train.youtubednn.1m",
            "items": 1_000_000,
            "samples": 65_536,
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
            "samples": 65_536,
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
        "train:two_tower",
        ("train.two_tower.1m",),
        full={"items": 1_000_000, "samples": 32_768, "rounds": 3},
        quick={"items": 100_000, "samples": 2048, "rounds": 1},
    ),
    Measurement(
        "train:incremental",
        ("update.incremental",),
        full={"items": 1_000_000, "samples": 16_384, "rounds": 5},
        quick={"items": 100_000, "samples": 2048, "rounds": 2},
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
        "lookup:lookups",
        ("ids.lookup",),
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
)


def names() -> list[str]:
    """Of all results, in order."""
    return [name for measurement in SUITE for name in measurement.names]
