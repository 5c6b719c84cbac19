"""A map as a step of another map's chain sees it, and its complement: each a `tcpmapkit.Map`."""

from __future__ import annotations

from typing import Any

import attrs

from tcpmapkit.maps import Map
from tcpmapkit.query import Found, Miss, NotFound, Outcome, Query

__all__ = [
    "InlineComplement",
    "InlineMap",
    "WaitingComplement",
    "WaitingMap",
    "complement_of",
    "refer_to",
]


@attrs.define(eq=False)
class _Reference:
    """A map as a step of another one sees it. When its tables or options change, another map takes its
    place, and another chain that of whoever refers to it: one lookup never sees two states of a table."""

    map: Map

    def _question(self, query: Query) -> Query:
        own = self.map.query(query.key, query.protocol, query.attributes)
        if self.map.current.attributes is None:  # a lookup of this query alone
            own.deadline = min(own.deadline, query.deadline)
        # Any other may be shared, and what becomes of it is remembered: somebody in a hurry must not make
        # it fail for all. He stops waiting by himself, and the answer that comes late is there next time.
        own.partial = query.partial
        own.trace = query.trace
        own.origin = query.origin or query
        return own


@attrs.define(eq=False)
class InlineMap(_Reference):
    """A `tcpmapkit.Map` that answers at once."""

    can_wait: bool = attrs.field(default=False, init=False)

    def resolve(self, query: Query) -> Outcome | Miss:
        """The other map's outcome, its cache included; what it has not found is a miss of the step."""
        answer = self.map.ask(self._question(query), lambda answer: None, inner=True)
        assert answer is not None
        return _or_miss(answer.outcome)


@attrs.define(eq=False)
class WaitingMap(_Reference):
    """A `tcpmapkit.Map` that can wait."""

    can_wait: bool = attrs.field(default=True, init=False)

    async def resolve(self, query: Query) -> Outcome | Miss:
        """As `InlineMap.resolve`."""
        return _or_miss(await self.map.lookup(self._question(query), inner=True))


def _or_miss(outcome: Outcome) -> Outcome | Miss:
    return Miss(outcome.ttl) if isinstance(outcome, NotFound) else outcome


@attrs.define(eq=False)
class _Complement:
    name: str
    map: Any

    def _other(self, outcome: Outcome | Miss | None) -> Outcome | Miss:
        if type(outcome) is Found:
            return NotFound(outcome.ttl)
        if outcome is None or type(outcome) is NotFound or type(outcome) is Miss:
            return Found(f"not in {self.name}", outcome.ttl if outcome is not None else None)
        return outcome


@attrs.define(eq=False)
class InlineComplement(_Complement):
    """A `tcpmapkit.Map` of the keys that another one has not, which answers at once."""

    can_wait: bool = attrs.field(default=False, init=False)

    def resolve(self, query: Query) -> Outcome | Miss:
        """`NotFound` for a key that is found there, `Found` for any other; a failure stays one."""
        return self._other(self.map.resolve(query))


@attrs.define(eq=False)
class WaitingComplement(_Complement):
    """A `tcpmapkit.Map` of the keys that another one has not, which can wait."""

    can_wait: bool = attrs.field(default=True, init=False)

    async def resolve(self, query: Query) -> Outcome | Miss:
        """As `InlineComplement.resolve`."""
        return self._other(await self.map.resolve(query))


def complement_of(map: Any, name: str) -> InlineComplement | WaitingComplement:
    """The complement of a `tcpmapkit.Map` of this name."""
    return (WaitingComplement if map.can_wait else InlineComplement)(name, map)


def refer_to(map: Map) -> InlineMap | WaitingMap:
    """The map for the chain of another."""
    return (WaitingMap if map.current.chain.can_wait else InlineMap)(map)
