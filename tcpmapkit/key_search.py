"""A chain asked one key after another, as a map's search order says: the whole chain for each.

What was found ends the search, and so does a failure; a key that is not found leads to the next one.
To the map it looks like a chain: one search is one lookup.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import attrs

from tcpmapkit.chain import InlineChain, WaitingChain
from tcpmapkit.query import Failure, Found, Miss, NotFound, Outcome, Query
from tcpmapkit.search import SearchKey

__all__ = ["InlineSearch", "KeyTrace", "Keys", "WaitingSearch", "search_with"]

#: The keys to ask for a query's key, in order.
Keys = Callable[[str], Iterable[SearchKey]]


@attrs.frozen
class KeyTrace:
    """One key that was asked, for ``query --explain``; the steps that saw it follow in the trace.

    `map` is the name of the map whose search order it is of: a step may ask another map, which
    searches too.
    """

    key: SearchKey
    map: str = ""


class _Walk:
    """A search under way: the keys that are left, and the smallest TTL so far."""

    __slots__ = ("_left", "_query", "_ttl", "kind")

    def __init__(self, keys: Keys, query: Query) -> None:
        self._query = query
        self._left: Iterator[SearchKey] = iter(keys(query.key))
        self._ttl: float | None = None
        self.kind = 0

    def next(self) -> Query | None:
        """The query for the next key; None when all were asked."""
        key = next(self._left, None)
        if key is None:
            return None
        query, self.kind = self._query, key.kind
        if query.trace is not None:
            query.trace.append(KeyTrace(key, query.map))
        asked = query.with_key(key.key)
        asked.partial = query.partial or key.partial
        return asked

    def take(self, answer: Outcome | Miss, asked: Query) -> Found | Failure | None:
        """Weigh the chain's answer for one key; an outcome ends the search."""
        if isinstance(answer, Found | NotFound | Miss):
            ttl = answer.ttl
            if ttl is not None and (self._ttl is None or ttl < self._ttl):
                self._ttl = ttl
            if not isinstance(answer, Found):
                return None
            if answer.ttl != self._ttl:
                answer = attrs.evolve(answer, ttl=self._ttl)
            self._query.matched = self.kind
        self._query.answered_by = asked.answered_by
        return answer

    def end(self) -> Miss:
        return Miss(self._ttl)


@attrs.define(eq=False)
class InlineSearch:
    """A search along a chain that cannot wait."""

    chain: InlineChain
    keys: Keys
    can_wait: Literal[False] = attrs.field(default=False, init=False)

    def resolve(self, query: Query) -> Outcome | Miss:
        """The first outcome that is found or fails, or a miss; never raises."""
        walk = _Walk(self.keys, query)
        while (asked := walk.next()) is not None:
            outcome = walk.take(self.chain.resolve(asked), asked)
            if outcome is not None:
                return outcome
        return walk.end()


@attrs.define(eq=False)
class WaitingSearch:
    """A search along a chain that can wait."""

    chain: WaitingChain
    keys: Keys
    can_wait: Literal[True] = attrs.field(default=True, init=False)

    def begin(self, query: Query) -> Outcome | Miss | Callable[[], Any]:
        """As `WaitingChain.begin`: what the steps in front have for the first keys needs no task."""
        walk = _Walk(self.keys, query)
        while (asked := walk.next()) is not None:
            begun = self.chain.begin(asked)
            if callable(begun):
                return _rest(self.chain, walk, asked, begun)
            outcome = walk.take(begun, asked)
            if outcome is not None:
                return outcome
        return walk.end()

    async def resolve(self, query: Query) -> Outcome | Miss:
        """As `InlineSearch.resolve`."""
        begun = self.begin(query)
        if not callable(begun):
            return begun
        outcome: Outcome | Miss = await begun()
        return outcome


def _rest(chain: WaitingChain, walk: _Walk, asked: Query, begun: Callable[[], Any]) -> Callable[[], Any]:
    """The part of a search that waits, from the key at which it first has to."""

    async def go_on() -> Outcome | Miss:
        outcome = walk.take(await begun(), asked)
        while outcome is None and (following := walk.next()) is not None:
            outcome = walk.take(await chain.resolve(following), following)
        return outcome if outcome is not None else walk.end()

    return go_on


def search_with(chain: InlineChain | WaitingChain, keys: Keys) -> InlineSearch | WaitingSearch:
    """The chain, asked for these keys."""
    return InlineSearch(chain, keys) if isinstance(chain, InlineChain) else WaitingSearch(chain, keys)
