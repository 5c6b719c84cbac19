"""One state of a map: what a lookup takes once and keeps to its end."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable

import attrs

from tcpmapkit.cache import Answer
from tcpmapkit.chain import InlineChain, WaitingChain
from tcpmapkit.flight import Flight
from tcpmapkit.key_search import InlineSearch, WaitingSearch
from tcpmapkit.keys import fold
from tcpmapkit.query import Found, LookupTempFail, Outcome, Query, TempFail
from tcpmapkit.search import SearchOrder

__all__ = ["Generation"]


@attrs.define(eq=False)
class Generation:
    """One state of a map: its chain, what follows from the chain's steps, the lookups under way.

    `conversion` is what a key goes through before all else. `chain` asks for each key of the search
    order in turn where there is one; `rewriting` is that order when it makes the answer of the value
    found and the key, which is done behind the cache. `folded`: the cache may go by the folded key.
    `attributes`: the request attributes that the chain reads; None when it may read any, which makes the
    map uncacheable. `in_memory`: every step answers the same until reloaded, so nothing is cached but
    ready replies; `at_once`: it cannot wait either, so there is nothing but to ask the chain. `plain`: a key
    is asked and an answer told as it is. `number` counts a map's generations from 1. Only `flights` ever
    changes: the lookups that wait, by what they have in common.
    """

    chain: InlineChain | WaitingChain | InlineSearch | WaitingSearch
    conversion: Callable[[str], str] | None = None
    rewriting: SearchOrder | None = None
    folded: bool = True
    attributes: tuple[str, ...] | None = ()
    in_memory: bool = False
    number: int = 0
    flights: dict[Hashable, Flight] = attrs.Factory(dict)
    plain: bool = attrs.field(init=False)
    at_once: bool = attrs.field(init=False)

    @plain.default
    def _is_plain(self) -> bool:
        return self.conversion is None and self.rewriting is None

    @at_once.default
    def _answers_at_once(self) -> bool:
        return self.in_memory and not self.chain.can_wait

    @property
    def blind_to_case(self) -> bool:
        """Whether keys that differ in nothing but capitals (or what folding makes equal) are answered alike:
        whoever asks this map may then go by the folded key too."""
        return self.folded and self.plain

    def cache_key(self, query: Query) -> Hashable:
        """What identical lookups have in common; None when that cannot be said."""
        if self.attributes is None:
            return None
        key = fold(query.key) if self.folded else query.key
        # A partial key is not asked of every step.
        mark = (None,) if query.partial else ()
        if not self.attributes:
            return (key, *mark) if mark else key
        return (key, *mark, *(query.attributes.get(name, "") for name in self.attributes))

    def known_as(self, query: Query, known: Callable[[], Iterable[Hashable]]) -> list[Hashable]:
        """The cache keys that lookups of this query's key may have; where they have attributes too, those of
        them that are among `known`, all of which are looked at."""
        key = fold(query.key) if self.folded else query.key
        if self.attributes == ():
            return [key, (key, None)]
        return [one for one in known() if isinstance(one, tuple) and one[0] == key]

    def rewritten(self, answer: Answer, key: str) -> Answer:
        """What was found, as the search order answers it to `key`, which is as the client sent it."""
        order, found = self.rewriting, answer.outcome
        if order is None or not isinstance(found, Found):
            return answer
        try:
            outcome: Outcome = attrs.evolve(
                found,
                value=order.rewritten(found.value, key, answer.matched),
                values=tuple(order.rewritten(value, key, answer.matched) for value in found.values),
            )
        except LookupTempFail as failure:
            return attrs.evolve(answer, outcome=TempFail(failure.reason), expires=0.0)
        return attrs.evolve(answer, outcome=outcome)
