"""Every metric there is: name, meaning, labels, and what the values of several workers make together.

Labels have names of the configuration, never a key: there are as many series as the configuration has
listeners, maps and steps.
"""

from __future__ import annotations

from typing import Final, Literal

import attrs

__all__ = ["CATALOGUE", "METRICS", "Kind", "Merge", "Metric"]

Kind = Literal["counter", "gauge", "histogram"]

Merge = Literal["sum", "max", "min"]


@attrs.frozen
class Metric:
    """A metric: its `name` without the prefix, what it says (`help`), its `labels`. `merge` makes one value
    of those that several workers give for the same labels."""

    bare_name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    merge: Merge = "sum"
    prefix: str = "tcpmapkit_"

    @property
    def name(self) -> str:
        """As Prometheus has it."""
        return self.prefix + self.bare_name


_STEP: Final = ("map", "step")


def _of_process(kind: Kind, name: str, help_text: str) -> Metric:
    return Metric(name, kind, help_text, ("worker",), prefix="process_")


CATALOGUE: Final = (
    # Lookups.
    Metric(
        "lookups_total",
        "counter",
        "Lookups answered. source: fresh (the chain was asked), cache, stale (in place of a failure), "
        "negative (the cache knew that the key does not exist).",
        ("map", "listener", "outcome", "source"),
    ),
    Metric(
        "lookup_duration_seconds",
        "histogram",
        "Time from a request to its reply. Ready replies are in the lowest bucket and add nothing to the "
        "sum.",
        ("map", "listener"),
    ),
    Metric("lookups_waiting", "gauge", "Lookups under way that wait for a source.", ("map",)),
    Metric("lookups_joined_total", "counter", "Lookups that waited for one already under way.", ("map",)),
    Metric(
        "malformed_requests_total",
        "counter",
        "Requests answered without a lookup: malformed, or with a key that is too long.",
        ("listener",),
    ),
    Metric(
        "unknown_map_requests_total",
        "counter",
        "Requests for a map that the listener does not serve.",
        ("listener",),
    ),
    Metric(
        "replies_too_long_total",
        "counter",
        "Values found that no reply of the protocol can hold; the client was told of a failure.",
        ("listener",),
    ),
    Metric("internal_errors_total", "counter", "Bugs of tcpmapkit met by a lookup.", ("listener",)),
    # Steps.
    Metric("step_duration_seconds", "histogram", "Time that a call of a step's resolver took.", _STEP),
    Metric(
        "step_answers_total",
        "counter",
        "What a step answered when it did not fail: found or missed.",
        (*_STEP, "answer"),
    ),
    Metric(
        "step_errors_total",
        "counter",
        "How a step failed: temporary, permanent, timed_out, busy (no thread was free), internal (a bug of "
        "its resolver), breaker (it was not asked: the breaker is open).",
        (*_STEP, "kind"),
    ),
    Metric("slow_inline_calls_total", "counter", "Calls that held up the server for over 20 ms.", _STEP),
    Metric(
        "breaker_state",
        "gauge",
        "1 while a step is asked only once a second because it fails, in any worker; else 0.",
        _STEP,
        "max",
    ),
    Metric("breaker_openings_total", "counter", "How often a step's breaker opened.", _STEP),
    # Tables.
    Metric("table_rows", "gauge", "Rows, rules or networks that a table has loaded.", _STEP, "max"),
    Metric(
        "table_loaded_timestamp_seconds",
        "gauge",
        "When the table that is served was loaded; the oldest of all workers.",
        _STEP,
        "min",
    ),
    Metric(
        "table_held",
        "gauge",
        "1 while a table keeps older contents because its file is wrong, in any worker; else 0.",
        _STEP,
        "max",
    ),
    # The cache.
    Metric("cache_bytes", "gauge", "Memory of cached answers. kind: found, not_found.", ("map", "kind")),
    Metric("cache_max_bytes", "gauge", "Memory that cached answers may have.", ("map", "kind")),
    Metric("cache_entries", "gauge", "Cached answers.", ("map", "kind")),
    Metric("cache_evictions_total", "counter", "Cached answers that made room for others.", ("map", "kind")),
    Metric("cache_renewals_total", "counter", "Answers renewed ahead of their end.", ("map",)),
    Metric("stale_answers_total", "counter", "Answers served past their time.", ("map",)),
    Metric("ready_replies", "gauge", "Finished replies kept by request.", ("listener",)),
    Metric("ready_bytes", "gauge", "Memory of ready replies.", ("listener",)),
    # Connections.
    Metric("open_connections", "gauge", "Connections open.", ("listener",)),
    Metric("connections_total", "counter", "Connections accepted.", ("listener",)),
    Metric(
        "connections_refused_total",
        "counter",
        "Connections from where `allow` lets nobody connect.",
        ("listener",),
    ),
    Metric("connections_limit", "gauge", "Connections that may be open, of all listeners together."),
    # The process.
    Metric("reloads_total", "counter", "Reloads of the configuration. result: good, bad.", ("result",)),
    Metric(
        "config_loaded_timestamp_seconds",
        "gauge",
        "When the configuration that is served was taken; the oldest of all workers.",
        (),
        "min",
    ),
    Metric("log_lines_lost_total", "counter", "Log lines that could not be written: nobody reads them."),
    Metric("plugin_failures_total", "counter", "Exceptions of a plugin's `query_resolved`.", ("plugin",)),
    Metric("worker_up", "gauge", "1 while the worker serves; there is only 0 without workers.", ("worker",)),
    Metric("worker_connections", "gauge", "Connections that the worker has.", ("worker",)),
    Metric("worker_restarts_total", "counter", "How often a worker was replaced.", ("worker",)),
    Metric("build_info", "gauge", "1; the version that runs.", ("version",), "max"),
    _of_process("gauge", "virtual_memory_bytes", "Virtual memory."),
    _of_process("gauge", "resident_memory_bytes", "Resident memory."),
    _of_process("gauge", "start_time_seconds", "When the process began."),
    _of_process("counter", "cpu_seconds_total", "Processor time, user and system."),
    _of_process("gauge", "open_fds", "Open file descriptors."),
    _of_process("gauge", "max_fds", "File descriptors that may be open."),
)
"""Every metric, in the order in which they are shown."""

METRICS: Final = {metric.name: metric for metric in CATALOGUE}
"""The same by name."""
