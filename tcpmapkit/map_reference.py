"""A map as a step of another map's chain sees it: a `tcpmapkit.Map`."""

from __future__ import annotations

import attrs

from tcpmapkit.maps import Generation, Map
from tcpmapkit.query import Miss, NotFound, Outcome, Query

__all__ = ["InlineMap", "WaitingMap", "refer_to"]


@attrs.define(eq=False)
class _Reference:
    """A map as a step of another one sees it: of the generation it was built with, so that one
    lookup never sees two states of a table."""

    map: Map
    generation: Generation

    def _question(self, query: Query) -> Query:
        own = self.map.query(query.key, query.protocol, query.attributes)
        own.deadline = min(own.deadline, query.deadline)
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


def refer_to(map: Map) -> InlineMap | WaitingMap:
    """The map as it is now, for the chain of another."""
    reference = WaitingMap if map.current.chain.can_wait else InlineMap
    return reference(map, map.current)
