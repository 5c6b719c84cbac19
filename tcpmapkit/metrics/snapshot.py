"""What one process has to say of itself, read from what it serves at the moment of asking."""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Final

import attrs

from tcpmapkit.counters import OUTCOMES
from tcpmapkit.log import lost_lines
from tcpmapkit.metrics.catalogue import METRICS
from tcpmapkit.metrics.samples import Samples, Snapshot
from tcpmapkit.ready import ReadyReplies
from tcpmapkit.step import WaitingStep

if TYPE_CHECKING:
    from tcpmapkit.built_step import BuiltStep
    from tcpmapkit.counters import Outcomes
    from tcpmapkit.maps import Map
    from tcpmapkit.service import Service
    from tcpmapkit.serving import Serving

__all__ = ["parent_snapshot", "prepare", "snapshot"]

_CACHED: Final = {"found": "cache", "not_found": "negative", "temporary": "cache", "permanent": "cache"}
"""What an answer of the cache's is called, by its outcome."""


def prepare() -> None:
    """Import now what would hold everybody up at the first scrape, for a tenth of a second."""
    import prometheus_client  # noqa: F401


async def snapshot(serving: Serving, worker: int = 0) -> Snapshot:
    """What this process has done and holds, as JSON has it. `worker` is its number; what the parent of
    several knows better (`parent_snapshot`) is left to it."""
    samples = Samples()
    # Here, where nothing counts meanwhile, or what is the difference of two counters may go down; and in
    # many small parts, since a site with hundreds of maps has thousands of numbers.
    for _ in _read(samples, serving, worker):
        await asyncio.sleep(0)
    return await asyncio.to_thread(_finished, samples, str(worker))


def _read(samples: Samples, serving: Serving, worker: int) -> Iterator[None]:
    """Gather what belongs together between one yield and the next; a reload may come at any."""
    site, server, number = serving.site, serving.server, str(worker)
    services = server.services
    samples.add("worker_connections", sum(one.counters.connections_open for one in services), number)
    samples.add("config_loaded_timestamp_seconds", serving.loaded_at)
    samples.add("build_info", 1, _version())
    for plugin, failures in site.plugins.failures.items():
        samples.add("plugin_failures_total", failures, plugin)
    if server.accepts:
        alone = parent_snapshot({worker: (True, 0)}, attrs.asdict(serving.reloads), server.max_connections)
        samples.add_all(alone)
    else:
        samples.add("log_lines_lost_total", lost_lines())
    maps, steps = [*site.maps.maps.values()], [*site.maps.steps]
    yield
    for service in services:
        _add_listener(samples, service)
        yield
        for name, outcomes in [*service.counters.maps.items()]:
            _add_outcomes(samples, outcomes, name, service.name)
            yield
    for map in maps:
        _add_map(samples, map)
        yield
    for step in steps:
        _add_step(samples, step, held=step.place in serving.held)
        yield


def _finished(samples: Samples, number: str) -> Snapshot:
    _add_process(samples, number)
    return samples.snapshot()


def parent_snapshot(
    workers: Mapping[int, tuple[bool, int]], reloads: Mapping[str, int], max_connections: int
) -> Snapshot:
    """What the parent of workers knows: of each, by its number, whether it serves and how often it was
    replaced; how many reloads had which result; and what it has failed to log itself."""
    samples = Samples()
    for number, (up, restarts) in workers.items():
        samples.add("worker_up", int(up), str(number))
        samples.add("worker_restarts_total", restarts, str(number))
    for result, times in reloads.items():
        samples.add("reloads_total", times, result)
    samples.add("connections_limit", max_connections)
    samples.add("log_lines_lost_total", lost_lines())
    return samples.snapshot()


def _add_listener(samples: Samples, service: Service) -> None:
    listener, counters = service.name, service.counters
    unknown = counters.no_map
    samples.add("unknown_map_requests_total", unknown.permanent + unknown.temporary, listener)
    samples.add("malformed_requests_total", counters.refused, listener)
    samples.add("replies_too_long_total", counters.too_long, listener)
    samples.add("internal_errors_total", counters.errors, listener)
    samples.add("open_connections", counters.connections_open, listener)
    samples.add("connections_total", counters.connections, listener)
    samples.add("connections_refused_total", counters.connections_refused, listener)
    if isinstance(service.ready, ReadyReplies):
        samples.add("ready_replies", len(service.ready), listener)
        samples.add("ready_bytes", service.ready.size, listener)


def _add_outcomes(samples: Samples, outcomes: Outcomes, map: str, listener: str) -> None:
    ready = {"found": outcomes.ready_found, "not_found": outcomes.ready_not_found}
    for outcome in OUTCOMES:
        stale = outcomes.stale if outcome == "found" else 0
        cached, made = outcomes.cached[outcome], getattr(outcomes, outcome)
        for source, times in (
            ("fresh", made - cached),
            (_CACHED[outcome], cached - stale + ready.get(outcome, 0)),
        ):
            samples.add("lookups_total", times, map, listener, outcome, source)
        if outcome == "found":
            samples.add("lookups_total", stale, map, listener, outcome, "stale")
    quick = sum(ready.values())
    samples.add_histogram("lookup_duration_seconds", outcomes.latency, map, listener, quick=quick)


def _add_map(samples: Samples, map: Map) -> None:
    samples.add("lookups_waiting", len(map.current.flights), map.name)
    samples.add("lookups_joined_total", map.counters.joined, map.name)
    samples.add("stale_answers_total", map.counters.stale, map.name)
    if map.cache is None:
        return
    options = map.cache.options
    samples.add("cache_renewals_total", map.counters.renewals, map.name)
    for kind, entries, size, limit in zip(
        ("found", "not_found"),
        map.cache.count,
        map.cache.size,
        (options.max_size, options.negative_max_size),
        strict=True,
    ):
        samples.add("cache_entries", entries, map.name, kind)
        samples.add("cache_bytes", size, map.name, kind)
        samples.add("cache_max_bytes", limit, map.name, kind)
    for kind, times in map.counters.evicted.items():
        samples.add("cache_evictions_total", times, map.name, kind)


def _add_step(samples: Samples, built: BuiltStep, *, held: bool) -> None:
    counters, place = built.step.counters, built.place
    samples.add_histogram("step_duration_seconds", counters.latency, *place)
    samples.add("step_answers_total", counters.found, *place, "found")
    samples.add("step_answers_total", counters.missed, *place, "missed")
    for kind, times in counters.failures.items():
        samples.add("step_errors_total", times, *place, kind)
    if isinstance(built.step, WaitingStep):
        breaker = built.step.breaker
        if breaker is not None:
            samples.add("breaker_state", int(breaker.state == "open"), *place)
            samples.add("breaker_openings_total", counters.openings, *place)
    else:
        samples.add("slow_inline_calls_total", counters.slow_calls, *place)
    if built.rows is not None:
        samples.add("table_rows", built.rows, *place)
    if built.rows is not None or built.files:
        samples.add("table_held", int(held), *place)
        if built.loaded_at is not None:
            samples.add("table_loaded_timestamp_seconds", built.loaded_at, *place)


def _add_process(samples: Samples, worker: str) -> None:
    from prometheus_client import ProcessCollector

    for family in ProcessCollector(registry=None).collect():
        for sample in family.samples:
            if sample.name in METRICS:
                samples.add(sample.name, sample.value, worker)


@cache
def _version() -> str:
    return importlib.metadata.version("tcpmapkit")
