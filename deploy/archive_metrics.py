"""What the archive holds, for the consumer's Prometheus page, and who keeps it from shrinking."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from stream.retention import ArchiveSize


class ArchiveCollector(Collector):
    """Reads what the retention found when it looked last."""

    def __init__(self, size: ArchiveSize) -> None:
        self._size = size

    def collect(self) -> Iterator[Metric]:
        """Sealed files and their bytes, files removed, and the event time that each reader holds back."""
        size = self._size
        yield GaugeMetricFamily("freshrecall_archive_files", "Sealed files.", size.files)
        yield GaugeMetricFamily("freshrecall_archive_bytes", "Bytes of sealed files.", size.file_bytes)
        removed = "Sealed files removed for their age."
        yield CounterMetricFamily("freshrecall_archive_removed_files", removed, size.removed)
        held = GaugeMetricFamily(
            "freshrecall_archive_held_ms",
            "Event time kept beyond archive.keep_days, for this reader has not read it.",
            labels=["reader"],
        )
        for name, held_ms in sorted(size.held_ms.items()):
            held.add_metric([name], held_ms)
        yield held
