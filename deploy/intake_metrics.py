"""What the consumer has taken in, as a Prometheus page of its own."""

import contextlib
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from deploy.errors import StartError
from deploy.metrics_config import MetricsConfig
from stream.intake import IntakeCounts


class IntakeCollector(Collector):
    """Reads the intake's counts when it is asked; nothing is counted twice."""

    def __init__(self, counts: IntakeCounts) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """The counts since the process began, and the watermark."""
        counts = self._counts
        for name, value, meaning in (
            ("messages", counts.messages, "Kafka messages taken in."),
            ("events", counts.events, "Events archived."),
            ("duplicates", counts.duplicates, "Events that the archive already held."),
            ("seals", counts.seals, "Intervals sealed."),
        ):
            yield CounterMetricFamily(f"freshrecall_intake_{name}", meaning, value)
        dropped = "Items that full exact seen sets dropped; again where events are applied again."
        yield CounterMetricFamily("freshrecall_seen_dropped", dropped, counts.seen_dropped)
        dead = CounterMetricFamily("freshrecall_dead_letters", "Events refused.", labels=["reason"])
        for reason, number in sorted(counts.dead.items()):
            dead.add_metric([reason], number)
        yield dead
        if counts.watermark_ms is not None:
            yield GaugeMetricFamily("freshrecall_intake_watermark_ms", "Event time.", counts.watermark_ms)


@contextlib.contextmanager
def metrics_page(config: MetricsConfig, counts: IntakeCounts, *others: Collector) -> Iterator[None]:
    """Serve the counts and what the others collect over HTTP while the consumer runs, if a port is set.

    Raises StartError when the port is taken.
    """
    if not config.consume_port:
        yield
        return
    registry = CollectorRegistry()
    for collector in (IntakeCollector(counts), *others):
        registry.register(collector)
    try:
        server, thread = start_http_server(config.consume_port, config.host, registry)
    except OSError as error:
        raise StartError(
            f"metrics.consume_port: cannot listen on {config.host}:{config.consume_port}: {error.strerror}"
        ) from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
