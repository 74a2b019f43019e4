"""The join's counts stand on the consumer's page."""

from prometheus_client import CollectorRegistry, generate_latest

from deploy.join_metrics import JoinCollector
from stream.join import JoinCounts
from stream.joined_log import JoinedCounts


def test_counts_are_read_when_asked() -> None:
    counts = JoinedCounts()
    registry = CollectorRegistry()
    registry.register(JoinCollector(counts))
    assert "through_ms" not in generate_latest(registry).decode()
    counts.join = JoinCounts(emitted=5, late=2, orphans=1)
    counts.impressions["home"], counts.actions["home", "click"] = 5, 3
    counts.open, counts.waiting, counts.through_ms = 7, 8, 1_700_000_000_000
    lines = generate_latest(registry).decode().splitlines()
    for line in (
        "freshrecall_join_emitted_total 5.0",
        "freshrecall_join_late_total 2.0",
        "freshrecall_join_orphans_total 1.0",
        "freshrecall_join_open 7.0",
        "freshrecall_join_waiting 8.0",
        'freshrecall_joined_impressions_total{scene="home"} 5.0',
        'freshrecall_joined_actions_total{kind="click",scene="home"} 3.0',
    ):
        assert line in lines, line
