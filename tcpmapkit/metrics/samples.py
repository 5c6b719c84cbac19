"""Values of metrics, as JSON has them, and what the values of several processes make together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from tcpmapkit.counters import Histogram
from tcpmapkit.metrics.catalogue import METRICS, Metric

__all__ = ["Departed", "Samples", "Snapshot", "merge"]

Snapshot: TypeAlias = dict[str, Any]
"""By a metric's name the list of its series, each ``[[label, ...], value]``. The value of a histogram is the
list of what is in each bucket, the sum in seconds at its end."""

_Value: TypeAlias = int | float | list[int | float]


class Samples:
    """What is gathered for a snapshot: values by metric and labels."""

    def __init__(self) -> None:
        self._values: dict[str, dict[tuple[str, ...], _Value]] = {}

    def add(self, name: str, value: float, *labels: str) -> None:
        """One value of the metric of that name (without ``tcpmapkit_``); where the same labels have one
        already, what they make together."""
        self._take(METRICS.get("tcpmapkit_" + name) or METRICS[name], labels, value)

    def add_histogram(self, name: str, histogram: Histogram, *labels: str, quick: int = 0) -> None:
        """As `add`; so many `quick` ones more are in the lowest bucket and took no time."""
        lowest, *counts = histogram.counts
        self._take(METRICS["tcpmapkit_" + name], labels, [lowest + quick, *counts, histogram.total])

    def add_all(self, snapshot: Snapshot) -> None:
        """The values of a process."""
        for name, series in snapshot.items():
            metric = METRICS.get(name)
            if metric is not None:  # else it is of another version
                for labels, value in series:
                    self._take(metric, tuple(labels), value)

    def _take(self, metric: Metric, labels: tuple[str, ...], value: _Value) -> None:
        assert len(labels) == len(metric.labels), metric.name
        series = self._values.setdefault(metric.name, {})
        series[labels] = _together(metric, series[labels], value) if labels in series else value

    def snapshot(self) -> Snapshot:
        """All of them, the metrics in the order of the catalogue."""
        return {
            name: [[list(labels), value] for labels, value in self._values[name].items()]
            for name in METRICS
            if name in self._values
        }


def _together(metric: Metric, one: Any, other: Any) -> Any:
    if metric.kind == "histogram":
        return [mine + its for mine, its in zip(one, other, strict=True)]
    if metric.merge == "sum":
        return one + other
    return max(one, other) if metric.merge == "max" else min(one, other)


def merge(snapshots: Iterable[Snapshot]) -> Snapshot:
    """One snapshot for several processes: counters, histograms and most gauges are added up; see
    `Metric.merge`. What is one worker's keeps its label."""
    samples = Samples()
    for snapshot in snapshots:
        samples.add_all(snapshot)
    return samples.snapshot()


class Departed:
    """The counters of processes that are gone, so that no sum goes down when a worker is replaced: whoever
    watches rates would take that for a restart of everything.

    A process that was killed has its counters as they were when they were last asked for.
    """

    def __init__(self) -> None:
        self._last: dict[str, Snapshot] = {}
        self._gone = Samples()

    def note(self, worker: str, snapshot: Snapshot) -> None:
        """What a worker that lives has given last."""
        self._last[worker] = snapshot

    def depart(self, worker: str) -> None:
        """The worker is gone; its number may come again."""
        self._gone.add_all(_lasting(self._last.pop(worker, {})))

    @property
    def snapshot(self) -> Snapshot:
        """To be merged with those of the processes that live."""
        return self._gone.snapshot()


def _lasting(snapshot: Snapshot) -> Snapshot:
    """What is left of a process: its counters, those excepted that are told of each worker."""
    return {
        name: series
        for name, series in snapshot.items()
        if name in METRICS and METRICS[name].kind != "gauge" and "worker" not in METRICS[name].labels
    }
