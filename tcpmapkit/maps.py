"""A map: a name that Postfix asks, with its keys, its cache and its chain.

A map is one reference to an immutable `Generation`: a chain with its tables bound in. A lookup
takes it once and keeps it to its end; replacing it touches nothing under way. Entries of the cache
carry their generation, and one of another generation does not exist.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Final

import attrs

from tcpmapkit import keys
from tcpmapkit.cache import Answer, AnswerCache, CacheOptions
from tcpmapkit.counters import MapCounters
from tcpmapkit.flight import OVERDUE, Answered, Flight, end_all
from tcpmapkit.generation import Generation
from tcpmapkit.map_log import MapLog
from tcpmapkit.observing import Observer, observed
from tcpmapkit.query import Address, Miss, NotFound, Outcome, PermFail, Query, TempFail
from tcpmapkit.step_failures import INTERNAL_ERROR

__all__ = ["Map"]

#: Every generation of every map has a number of its own: a reply that was made of one is told from those of a
#: map that has taken its map's place.
_numbers = itertools.count(1)

_TIMED_OUT: Final = TempFail("timed out")
_STOPPED: Final = TempFail("shutting down")


class Map:
    """A named lookup table.

    `deadline` is in seconds, and so is `slow`, after which a lookup is logged; `cache` None switches
    the cache and the ready replies off; `split` cuts a key into its parts; `clock` gives seconds and is
    the loop's in a server.
    """

    def __init__(
        self,
        name: str,
        generation: Generation,
        *,
        deadline: float = 5.0,
        cache: CacheOptions | None = None,
        split: Callable[[str], Address] = keys.split_address,
        clock: Callable[[], float] = time.monotonic,
        observer: Observer | None = None,
        counters: MapCounters | None = None,
        slow: float = 1.0,
    ) -> None:
        self.name = name
        self.deadline = deadline
        self.clock = clock
        self.observer = observer
        self._split = split
        self.options = cache
        self.counters = counters or MapCounters()
        self._cache = AnswerCache(cache, clock, counters=self.counters) if cache is not None else None
        self._current = attrs.evolve(generation, number=next(_numbers))
        self._log = MapLog(name, clock, slow)
        self._under_way: set[Flight] = set()

    @property
    def generation(self) -> int:
        """The number of the generation that new lookups take."""
        return self._current.number

    @property
    def current(self) -> Generation:
        """The generation that new lookups take."""
        return self._current

    @property
    def used(self) -> bytearray:
        """The marks of the cache's entries (see `AnswerCache.used`)."""
        return self._cache.used if self._cache is not None else bytearray(1)

    @property
    def cache(self) -> AnswerCache | None:
        """Where its answers are kept, if anywhere."""
        return self._cache

    @property
    def ready_sizes(self) -> tuple[int, int]:
        """How many bytes of ready replies a listener may keep: found, and not found."""
        if self.options is None or self.observer is not None or self._current.attributes != ():
            return 0, 0
        return self.options.max_size, self.options.negative_max_size

    def replace(self, generation: Generation) -> Generation:
        """Take a new generation for the lookups to come; the old one, which those under way keep."""
        old = self._current
        self._current = attrs.evolve(generation, number=next(_numbers), flights={})
        return old

    def forget(self, key: str | None = None) -> int:
        """Forget what is known of a key, or everything; how many entries that was. Lookups under way are
        answered and not remembered. Ready replies are the listeners' (`Server.forget_ready`)."""
        generation, cache = self._current, self._cache
        if key is None:
            self.replace(generation)
            return cache.forget() if cache is not None else 0
        query = self.query(key if generation.conversion is None else generation.conversion(key))
        known = generation.known_as(query, lambda: (*generation.flights, *(cache.keys() if cache else ())))
        forgotten = 0
        for one in known:
            generation.flights.pop(one, None)
            forgotten += cache.drop(one) if cache is not None else 0
        return forgotten

    def query(
        self,
        key: str,
        protocol: str = "",
        attributes: Mapping[str, str] | None = None,
        began: float | None = None,
    ) -> Query:
        """A question to this map, with its deadline set; `began` is now by its clock, for who knows it."""
        clock = self.clock
        until = (clock() if began is None else began) + self.deadline
        return Query(key, self.name, protocol, attributes or {}, until, clock, self._split)

    def ask(self, query: Query, answered: Answered, *, inner: bool = False) -> Answer | None:
        """The answer at once; or None, and `answered` is called with it later, exactly once, from
        the loop. An `inner` lookup is part of another map's, and not observed by itself."""
        if self.observer is None or inner:
            generation = self._current
            if generation.plain:
                return self._ask(query, answered, generation)
            return self._rewrite(query, answered, generation)
        observe = observed(query, self.observer)
        answer = self._rewrite(query, lambda answer: answered(observe(answer)), self._current)
        return observe(answer) if answer is not None else None

    def _rewrite(self, query: Query, answered: Answered, generation: Generation) -> Answer | None:
        """As `_ask`, the key converted first and the answer rewritten where the map's options say so."""
        key, rewritten = query.key, generation.rewritten
        if generation.conversion is not None:
            query = query.with_key(generation.conversion(key))
        if generation.rewriting is None:
            return self._ask(query, answered, generation)
        answer = self._ask(query, lambda answer: answered(rewritten(answer, key)), generation)
        return rewritten(answer, key) if answer is not None else None

    def _ask(self, query: Query, answered: Answered, generation: Generation) -> Answer | None:
        chain = generation.chain
        if generation.at_once:
            assert not chain.can_wait
            return self._settle(chain.resolve(query), query, None, generation)
        key = generation.cache_key(query)
        cache = None if generation.in_memory or key is None else self._cache
        if cache is not None:
            answer = cache.fresh(key, generation.number)
            if answer is not None:
                if answer.refresh and chain.can_wait and key not in generation.flights:
                    self._renew(query, key, generation)
                return self._note(answer)
        if not chain.can_wait:
            return self._note(self._settle(chain.resolve(query), query, key, generation))
        flight = generation.flights.get(key) if key is not None else None
        if flight is not None:
            answer = cache.stale(key, generation.number) if flight.early and cache is not None else None
            if answer is None:
                self.counters.joined += 1
                flight.join(answered)
                return None
            return self._note(answer)
        begun = chain.begin(query)
        if not callable(begun):
            return self._note(self._settle(begun, query, key, generation))
        self._depart(query, key, generation, begun).join(answered)
        return None

    def _settle(self, outcome: Outcome | Miss, query: Query, key: Hashable, generation: Generation) -> Answer:
        """The chain's outcome as the map's answer, remembered as the cache's options say."""
        if type(outcome) is Miss:
            outcome = NotFound(outcome.ttl)
        # In their order: by name they take twice as long.
        answer = Answer(outcome, 0.0, generation.number, 0, query.answered_by, False, False, query.matched)
        failed = type(outcome) is TempFail or type(outcome) is PermFail
        if generation.in_memory:
            if not failed and self.options is not None:
                answer.expires = float("inf")
            return answer
        cache = self._cache
        if cache is None or key is None:
            return answer
        if generation is self._current:
            answer = cache.keep(key, answer)
        if failed:
            return cache.stale(key, generation.number) or answer
        return answer

    def _depart(self, query: Query, key: Hashable, generation: Generation, rest: Callable[[], Any]) -> Flight:
        """Let the part of the lookup that waits run on its own."""
        flight, began = Flight(), self.clock()
        place: Hashable = key if key is not None else flight  # not to be joined, but known to `stop`
        generation.flights[place] = flight
        self._under_way.add(flight)

        async def lookup() -> None:
            outcome: Outcome | Miss = _STOPPED
            try:
                outcome = await rest()
            except Exception as error:
                self._log.raised(error)
                outcome = INTERNAL_ERROR
            finally:
                land(outcome)

        def land(outcome: Outcome | Miss) -> None:
            if flight.landed:
                return
            self._under_way.discard(flight)
            joined = generation.flights.get(place) is flight
            if joined:
                del generation.flights[place]
            # What was forgotten while it was under way is told, and not remembered.
            answer = self._settle(outcome, query, key if joined else None, generation)
            self._log.landed(query, answer, began)
            flight.land(self._note(answer, flight.waiting))

        def give_up() -> None:
            self._log.given_up()
            flight.abandon()
            land(_TIMED_OUT)

        flight.depart(lookup())
        flight.after(max(query.time_left(), 0.0) + OVERDUE, give_up)
        cache = self._cache
        if cache is not None and self.options is not None and cache.stale(key, generation.number) is not None:

            def tell_stale() -> None:
                stale = cache.stale(key, generation.number)
                if stale is not None:
                    flight.tell(self._note(stale, flight.waiting))

            flight.after(self.options.stale_wait, tell_stale)
        return flight

    def _renew(self, query: Query, key: Hashable, generation: Generation) -> None:
        """Ask the chain again in the background for an entry that is about to expire."""
        assert generation.chain.can_wait
        again = self.query(query.key, query.protocol, query.attributes)
        again.partial, again.origin = query.partial, query.origin or query
        self.counters.renewals += 1
        begun = generation.chain.begin(again)
        if callable(begun):
            self._depart(again, key, generation, begun)
        else:
            self._settle(begun, again, key, generation)

    def _note(self, answer: Answer, times: int = 1) -> Answer:
        """Count and log an answer that is told `times` times, if it is a stale one."""
        if answer.stale and times:
            self.counters.stale += times
            self._log.stale()
        return answer

    async def lookup(self, query: Query, *, inner: bool = False) -> Outcome:
        """The outcome, waited for."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def answered(answer: Answer) -> None:
            if not future.done():
                future.set_result(answer.outcome)

        answer = self.ask(query, answered, inner=inner)
        return answer.outcome if answer is not None else await future

    async def finish(self) -> None:
        """Wait for the lookups under way, which end by their deadline."""
        while self._under_way:
            landed: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
            next(iter(self._under_way)).join(landed.set_result)
            await landed

    async def stop(self) -> None:
        """End the lookups under way; whoever waits for one is told of a temporary failure."""
        await end_all(self._under_way, Answer(_STOPPED))
        self._under_way.clear()
        self._current.flights.clear()

    async def dismantle(self) -> None:
        """Free what a map that serves no more has cached, without holding anybody up."""
        if self._cache is not None:
            for _ in self._cache.drain():
                await asyncio.sleep(0)
