"""Prometheus metrics of one server."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class ServingMetrics:
    """Counters and clocks of one server, in a registry of their own (several servers may live in one
    process).
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.requests = Counter(
            "freshrecall_requests", "Requests by route and status.", ["route", "status"], registry=r
        )
        self.latency = Histogram(
            "freshrecall_request_seconds", "Time to answer.", ["route"], buckets=_SECONDS, registry=r
        )
        self.profile_failures = Counter(
            "freshrecall_profile_failures", "Requests answered without the user's profile.", registry=r
        )
        self.dropped = Counter(
            "freshrecall_channels_dropped",
            "Answers that went out without a channel.",
            ["channel"],
            registry=r,
        )
        self.cold = Counter("freshrecall_cold_answers", "Answers for users without history.", registry=r)
        self.events = Counter("freshrecall_events_accepted", "Events handed to the stream.", registry=r)
        self.rejects = Counter("freshrecall_rejects_sent", "Rejects handed to the stream.", registry=r)
        self.rejects_lost = Counter("freshrecall_rejects_lost", "Rejects it did not take.", registry=r)
        self.audited = Counter(
            "freshrecall_audited_answers", "Answers written to the audit file.", registry=r
        )
        self.bundles = Counter("freshrecall_bundles_swapped", "Bundles swapped in.", registry=r)
        self.deltas = Counter("freshrecall_deltas_applied", "Deltas swapped in.", registry=r)
        self.refused = Counter(
            "freshrecall_swaps_refused",
            "Versions refused; the old one keeps serving.",
            ["reason"],
            registry=r,
        )
        self.recovered = Counter(
            "freshrecall_swaps_recovered", "Swaps that went around a damaged or missing delta.", registry=r
        )
        self.swap_seconds = Histogram(
            "freshrecall_swap_seconds", "Time from seeing a new pointer to serving it.", registry=r
        )
        self.watermark_ms = Gauge(
            "freshrecall_watermark_ms", "Event time the served version is at.", registry=r
        )
        self.delta = Gauge("freshrecall_delta", "Sequence of the served delta.", registry=r)
        self.fresh = Gauge("freshrecall_fresh_items", "Items in the pool of new ones.", registry=r)
        self.popular_age = Gauge(
            "freshrecall_popular_now_age_seconds",
            "Time since the lists of what is popular now were read.",
            registry=r,
        )
        self.popular_newest_ms = Gauge(
            "freshrecall_popular_now_newest_ms", "Newest event time in these lists.", registry=r
        )
        self.popular_seconds = Histogram(
            "freshrecall_popular_now_seconds",
            "Time from counting a batch of events in the store to serving the lists it changed.",
            buckets=_SECONDS,
            registry=r,
        )
        self.popular_refused = Gauge(
            "freshrecall_popular_now_refused_events",
            "Events whose segment found no place among popular_now.segments.",
            registry=r,
        )
        self.popular_fallbacks = Counter(
            "freshrecall_popular_now_fallbacks",
            "Answers that did with the version's popularity for what is popular now.",
            registry=r,
        )
        self.loaded_ms = Gauge("freshrecall_snapshot_loaded_ms", "Wall time of the last swap.", registry=r)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)
