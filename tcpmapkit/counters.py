"""What listeners, maps and steps have done: plain integers, which cost a request next to nothing.

They only ever grow, gauges excepted. Nothing here knows who reads them.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final, Literal, get_args

import attrs

__all__ = [
    "BOUNDS",
    "FAILURE_KINDS",
    "KNOWN",
    "LOWEST",
    "OUTCOMES",
    "Counters",
    "FailureKind",
    "Histogram",
    "Known",
    "MapCounters",
    "Outcomes",
    "StepCounters",
]

BOUNDS: Final = (
    *(0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25),
    *(0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 100.0),
)
"""The buckets of every histogram: a time in seconds belongs to the first that is not less. A lookup in memory
stays below the first, the longest deadline allowed is below the last."""

LOWEST: Final = BOUNDS[0]

FailureKind = Literal["temporary", "permanent", "timed_out", "busy", "internal", "breaker"]
"""How a step failed: its source said so, for now or for good; its time was up; all its threads were taken; a
bug of the resolver; it was not asked, since its breaker is open."""

FAILURE_KINDS: Final[tuple[FailureKind, ...]] = get_args(FailureKind)


OUTCOMES: Final = ("found", "not_found", "temporary", "permanent")
"""The outcomes of a lookup, as counters call them."""

Known = Literal["found", "not_found"]
"""What an entry of the cache says of its key; a remembered failure counts as the second."""

KNOWN: Final[tuple[Known, ...]] = get_args(Known)


class Histogram:
    """How long something took. Most of what there is to count belongs to the lowest bucket, and costs two
    additions: whoever counts often may write them itself, as `observe` does.

    `quick` is what is in the lowest bucket, `total` the sum in seconds.
    """

    __slots__ = ("_others", "quick", "total")

    def __init__(self) -> None:
        self.quick = 0
        self.total = 0.0
        self._others = [0] * len(BOUNDS)

    def observe(self, seconds: float) -> None:
        """Count one that took so long."""
        self.total += seconds
        if seconds <= LOWEST:
            self.quick += 1
        else:
            self._others[bisect_left(BOUNDS, seconds) - 1] += 1

    @property
    def counts(self) -> list[int]:
        """How many are in the bucket of each of `BOUNDS`, and how many took longer."""
        return [self.quick, *self._others]


@attrs.define(eq=False)
class StepCounters:
    """What a step was asked and what became of it.

    `latency` has every call of the resolver; `found` those that gave a value, `failures` those that failed,
    also when ``on_error = "ignore"`` made that a miss, of them `not_called` without a call; the others were
    misses. `slow_calls` counts the inline calls that held up the server, `openings` how often its breaker
    opened.
    """

    found: int = 0
    slow_calls: int = 0
    openings: int = 0
    failures: dict[FailureKind, int] = attrs.Factory(lambda: dict.fromkeys(FAILURE_KINDS, 0))
    not_called: int = 0
    latency: Histogram = attrs.Factory(Histogram)

    @property
    def asked(self) -> int:
        """How often the resolver was asked."""
        return sum(self.latency.counts)

    @property
    def failed(self) -> int:
        """How often it failed, in whatever way."""
        return sum(self.failures.values())

    @property
    def missed(self) -> int:
        """How often it knew nothing, "not found" included."""
        return self.asked - self.found - (self.failed - self.not_called)


@attrs.define(eq=False)
class MapCounters:
    """What a map has done beside what its listeners count (`Outcomes`).

    `stale` answers were served in place of a failure; `joined` lookups waited for one that was under way;
    `renewals` were begun ahead of an entry's end; `evicted` entries of the cache made room for others.
    """

    stale: int = 0
    joined: int = 0
    renewals: int = 0
    evicted: dict[Known, int] = attrs.Factory(lambda: dict.fromkeys(KNOWN, 0))


@attrs.define(eq=False)
class Outcomes:
    """How often a listener has told each outcome of one map.

    `ready_found` and `ready_not_found` count the replies that were found ready, the others those made
    from a lookup. Of these, `cached` came from the map's cache, and of those found `stale` ones past their
    time. `latency` is of those made from a lookup.
    """

    ready_found: int = 0
    ready_not_found: int = 0
    found: int = 0
    not_found: int = 0
    temporary: int = 0
    permanent: int = 0
    stale: int = 0
    cached: dict[str, int] = attrs.Factory(lambda: dict.fromkeys(OUTCOMES, 0))
    latency: Histogram = attrs.Factory(Histogram)


@attrs.define(eq=False)
class Counters:
    """What a listener has done since it started, and how many connections it has now.

    `maps` has the outcomes by the map's name, `no_map` those of requests for a map that there is not;
    `refused` counts the requests that reached no map; `too_long` the values that no reply holds (they
    are in `found`); `errors` our own bugs (they are in `temporary`).
    """

    maps: dict[str, Outcomes] = attrs.Factory(dict)
    no_map: Outcomes = attrs.Factory(Outcomes)
    refused: int = 0
    too_long: int = 0
    errors: int = 0
    connections: int = 0
    connections_open: int = 0
    connections_refused: int = 0

    def of(self, map: str) -> Outcomes:
        """The outcomes of the map of that name."""
        return self.maps.setdefault(map, Outcomes())

    def _sum(self, *names: str) -> int:
        return sum(getattr(one, name) for one in (*self.maps.values(), self.no_map) for name in names)

    @property
    def ready(self) -> int:
        """Replies that were found ready, of all maps."""
        return self._sum("ready_found", "ready_not_found")

    @property
    def found(self) -> int:
        """Lookups that found a value, of all maps; the same below."""
        return self._sum("found")

    @property
    def not_found(self) -> int:
        return self._sum("not_found")

    @property
    def temporary(self) -> int:
        return self._sum("temporary")

    @property
    def permanent(self) -> int:
        return self._sum("permanent")

    @property
    def requests(self) -> int:
        """Requests answered; each has had one reply."""
        return self.ready + self._sum("found", "not_found", "temporary", "permanent") + self.refused
