"""The consumer's counts are on a page of their own."""

import socket
import urllib.request

import pytest

from deploy.embedded import free_port
from deploy.errors import StartError
from deploy.intake_metrics import metrics_page
from deploy.metrics_config import MetricsConfig
from stream.intake import IntakeCounts


def test_counts_are_read_when_asked() -> None:
    counts = IntakeCounts(messages=3, events=40)
    config = MetricsConfig(consume_port=free_port())
    with metrics_page(config, counts):
        counts.dead = {"unknown_kind": 2}
        counts.watermark_ms = 1_700_000_000_000
        with urllib.request.urlopen(f"http://127.0.0.1:{config.consume_port}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
    assert "freshrecall_intake_events_total 40.0" in lines
    assert 'freshrecall_dead_letters_total{reason="unknown_kind"} 2.0' in lines
    assert "freshrecall_intake_watermark_ms 1.7e+12" in lines


def test_no_port_no_page() -> None:
    with metrics_page(MetricsConfig(), IntakeCounts()):
        pass


def test_a_taken_port_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(StartError, match=f"metrics.consume_port.*{port}"),
            metrics_page(MetricsConfig(consume_port=port), IntakeCounts()),
        ):
            pass
