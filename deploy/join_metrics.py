"""What the consumer has joined, for its Prometheus page: rows, what joined nothing, clicks by scene."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from stream.joined_log import JoinedCounts


class JoinCollector(Collector):
    """Reads the join's counts when it is asked.

    The click rate of a scene is the rate of freshrecall_joined_actions_total{kind="click"} over that of
    freshrecall_joined_impressions_total.
    """

    def __init__(self, counts: JoinedCounts) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """The counts since the process began, and what is held now."""
        join = self._counts.join
        for name, value, meaning in (
            ("emitted", join.emitted, "Joined rows written at the end of the wait."),
            ("late", join.late, "Joined rows written again at the end of the horizon."),
            ("joined", join.joined, "Actions that joined an impression."),
            (
                "orphans",
                join.orphans,
                "Actions that joined none: no request, no item, no impression in time.",
            ),
            ("without_request", join.without_request, "Impressions without a request."),
            ("duplicates", join.duplicates, "Further impressions of the same request and item."),
            ("too_late", join.too_late, "Impressions that arrived after their horizon."),
        ):
            yield CounterMetricFamily(f"freshrecall_join_{name}", meaning, value)
        for name, value, meaning in (
            ("open", self._counts.open, "Impressions whose horizon is not over."),
            ("waiting", self._counts.waiting, "Actions without an impression so far."),
        ):
            yield GaugeMetricFamily(f"freshrecall_join_{name}", meaning, value)
        if self._counts.through_ms is not None:
            yield GaugeMetricFamily("freshrecall_join_through_ms", "Event time.", self._counts.through_ms)
        yield from self._by_scene()

    def _by_scene(self) -> Iterator[Metric]:
        # Copies: the join adds scenes in its own thread meanwhile.
        shown = CounterMetricFamily("freshrecall_joined_impressions", "First rows.", labels=["scene"])
        for scene, number in sorted(self._counts.impressions.copy().items()):
            shown.add_metric([scene], number)
        yield shown
        done = CounterMetricFamily(
            "freshrecall_joined_actions", "First rows with such an action.", labels=["scene", "kind"]
        )
        for (scene, kind), number in sorted(self._counts.actions.copy().items()):
            done.add_metric([scene, kind], number)
        yield done
