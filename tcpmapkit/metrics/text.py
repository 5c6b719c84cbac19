"""A snapshot in the text format of Prometheus, by its own library, which is slow to import and only needed
where somebody asks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from tcpmapkit.counters import BOUNDS
from tcpmapkit.metrics.catalogue import METRICS, Metric
from tcpmapkit.metrics.samples import Snapshot

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as Family

__all__ = ["CONTENT_TYPE", "exposition"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""The media type of `exposition`."""


def exposition(snapshot: Snapshot) -> str:
    """What is answered to a scrape."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.registry import Collector

    class Given(Collector):
        def collect(self) -> Iterable[Family]:
            return _families(snapshot)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Given())
    return generate_latest(registry).decode()


def _families(snapshot: Snapshot) -> Iterator[Family]:
    for name, metric in METRICS.items():
        if name in snapshot:
            family = _family(metric)
            for labels, value in snapshot[name]:
                if metric.kind == "histogram":
                    family.add_metric(labels, _buckets(value), value[-1])
                else:
                    family.add_metric(labels, value)
            yield family


def _family(metric: Metric) -> Any:
    from prometheus_client.metrics_core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    classes: dict[str, Any] = {
        "counter": CounterMetricFamily,
        "gauge": GaugeMetricFamily,
        "histogram": HistogramMetricFamily,
    }
    return classes[metric.kind](metric.name, metric.help, labels=metric.labels)


def _buckets(value: list[float]) -> list[tuple[str, float]]:
    bounds = [*map(str, BOUNDS), "+Inf"]
    return list(zip(bounds, accumulate(value[:-1]), strict=True))
