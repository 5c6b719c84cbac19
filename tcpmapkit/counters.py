"""What a listener has done: plain integers, which cost a request next to nothing."""

from __future__ import annotations

import attrs

__all__ = ["Counters", "Outcomes"]


@attrs.define(eq=False)
class Outcomes:
    """How often a listener has told each outcome of one map.

    `ready_found` and `ready_not_found` count the replies that were found ready, the others those made
    from a lookup.
    """

    ready_found: int = 0
    ready_not_found: int = 0
    found: int = 0
    not_found: int = 0
    temporary: int = 0
    permanent: int = 0


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
