"""A map as a step of another map's chain sees it, and its complement: each a `tcpmapkit.Map`."""

from __future__ import annotations

from typing import Any

import attrs

from tcpmapkit.generation import Generation
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
    """A map as a step of another one sees it: of the generation it was built with, so that one
    lookup never sees two states of a table."""

    map: Map
    generation: Generation

    def _question(self, query: Query) -> Query:
        own = self.map.query(query.key, query.protocol, query.attributes)
        if self.generation.attributes is None:  # a lookup of this query alone
            own.deadline = min(own.deadline, query.deadline)
        # Any other may be shared, and what becomes of it is remembered: somebody in a hurry must not make
        # it fail for all. He stops waiting by himself, and the answer that comes late is there next time.
        own.partial = query.partial
        own.trace = query.trace
        return own


@attrs.define(eq=False)
class InlineMap(_Reference):
    """A `tcpmapkit.Map` that answers at once."""

    can_wait: bool = attrs.field(default=False, init=False)

    def resolve(self, query: Query) -> Outcome | Miss:
        """The other map's outcome, its cache included; what it has not found is a miss of the step."""
        answer = self.map.ask(self._question(query), lambda answer: None, self.generation)
        assert answer is not None
        return _or_miss(answer.outcome)


@attrs.define(eq=False)
class WaitingMap(_Reference):
    """A `tcpmapkit.Map` that can wait."""

    can_wait: bool = attrs.field(default=True, init=False)

    async def resolve(self, query: Query) -> Outcome | Miss:
        """As `InlineMap.resolve`."""
        return _or_miss(await self.map.lookup(self._question(query), self.generation))


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
    """The map as it is now, for the chain of another."""
    reference = WaitingMap if map.current.chain.can_wait else InlineMap
    return reference(map, map.current)
