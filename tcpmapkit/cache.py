"""Answers with a TTL.

Two LRU stores, found and not found apart, so that a dictionary attack evicts no real user; sizes
are bytes. Each entry knows until when it is fresh and until when it may be served stale; the times
are compared when it is read and nothing sweeps. Entries are tuples of str and float, which the
garbage collector does not track: a full cache costs it nothing.
"""

# ruff: noqa: RUF009  (`option` is attrs.field with a help text)
from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Final

import attrs

from tcpmapkit.cache_store import Marks, Store, entry_size
from tcpmapkit.counters import MapCounters
from tcpmapkit.option import Duration, Size, fraction, option, positive
from tcpmapkit.query import Failure, Found, NotFound, Outcome, PermFail, TempFail

__all__ = ["Answer", "AnswerCache", "CacheOptions"]

#: Entries that are freed at a time; with what the store does for each that is some milliseconds.
_DRAINED: Final = 500

#: Entries that were forgotten are freed so many at a time, for each that is kept.
_FREED: Final = 8

#: The longest time, in seconds, for which a source can ask not to be asked again (Retry-After).
_LONGEST_FAILURE: Final = 60.0

#: The last part of an entry's life in which ``refresh_ahead`` renews it when it is asked for.
_REFRESH_PART: Final = 0.1


@attrs.frozen
class CacheOptions:
    """The ``cache`` table of a map: times in seconds, sizes in bytes, `jitter` a fraction."""

    ttl: Duration = option("How long a value found is kept, at most.", 300.0)
    negative_ttl: Duration = option("How long it is kept that a key does not exist.", 30.0)
    error_ttl: Duration = option("How long a failure is kept; 0: never.", 2.0)
    max_size: Size = option("Memory for values found.", 64 << 20, validator=positive)
    negative_max_size: Size = option("Memory for keys that do not exist.", 16 << 20, validator=positive)
    stale: Duration = option("How long past its time a value may be served while the chain fails.", 0.0)
    stale_wait: Duration = option("How long to wait for the chain before serving a stale value.", 0.5)
    refresh_ahead: bool = option("Renew entries in use shortly before they expire.", False)
    jitter: float = option("Share of a TTL that may be cut off by chance.", 0.1, validator=fraction)


@attrs.define(eq=False)
class Answer:
    """An outcome on its way out. `expires` is until when its reply may be kept ready, 0 for not at
    all; `mark` names the cache entry it came from; `resolver` who answered; `matched` which kind of key
    of a search was found; `cached` that it is no answer of the chain's to this lookup."""

    outcome: Outcome
    expires: float = 0.0
    generation: int = 0
    mark: int = 0
    resolver: str = ""
    stale: bool = False
    refresh: bool = False
    matched: int = 0
    cached: bool = False


class AnswerCache:
    """The answers of one map. `clock` gives seconds; `chance` a number from 0 to 1, for the jitter."""

    def __init__(
        self,
        options: CacheOptions,
        clock: Callable[[], float],
        chance: Callable[[], float] = random.random,
        counters: MapCounters | None = None,
    ) -> None:
        self.options = options
        self._clock = clock
        self._chance = chance
        self._marks = Marks()
        self._found = Store(options.max_size, self._marks)
        self._missing = Store(options.negative_max_size, self._marks)
        self._thrown_away: list[Store] = []
        self._evicted = (counters or MapCounters()).evicted

    @property
    def used(self) -> bytearray:
        """The marks of the entries: ``used[answer.mark] = 1`` says that its ready reply was used."""
        return self._marks.used

    @property
    def size(self) -> tuple[int, int]:
        """Bytes held: what was found, and what was not."""
        return int(self._found.currsize), int(self._missing.currsize)

    @property
    def count(self) -> tuple[int, int]:
        """Entries held: what was found, and what was not (failures with it)."""
        return len(self._found), len(self._missing)

    def keys(self) -> list[Hashable]:
        """Of all entries."""
        return [*self._found, *self._missing]

    def drop(self, key: Hashable) -> bool:
        """Forget an entry; whether there was one."""
        known = key in self._found or key in self._missing
        self._found.drop(key)
        self._missing.drop(key)
        return known

    def forget(self) -> int:
        """Forget all entries; how many there were. They are freed as others come, a few at a time: many at
        once would hold everybody up."""
        forgotten = sum(self.count)
        self._thrown_away += [store for store in (self._found, self._missing) if store]
        self._found = Store(self.options.max_size, self._marks)
        self._missing = Store(self.options.negative_max_size, self._marks)
        return forgotten

    def drain(self) -> Iterator[None]:
        """Forget all entries, and free a few of them for each turn that is asked for."""
        self.forget()
        while self._thrown_away:
            self._free(_DRAINED)
            yield

    def _free(self, number: int) -> None:
        store = self._thrown_away[-1]
        for _ in range(min(number, len(store))):
            store.popitem()
        if not store:
            self._thrown_away.pop()

    def fresh(self, key: Hashable, generation: int) -> Answer | None:
        """What is known and still holds: found, not found, or a failure of a moment ago.

        `Answer.refresh` asks for it to be renewed in the background.
        """
        now = self._clock()
        entry = self._found.find(key)
        expired: Answer | None = None
        if entry is not None and entry[1] == generation:
            _, _, fresh_until, stale_until, refresh_at, value, values, separator, matched, mark = entry
            if now < fresh_until:
                outcome = Found(value, fresh_until - now, values=values, separator=separator)
                refresh = bool(now >= refresh_at) and self._not_known(key, generation, now) is None
                return Answer(
                    outcome, refresh_at, generation, mark, "cache", False, refresh, matched, cached=True
                )
            if now < stale_until:
                expired = self._stale(entry)
        entry = self._not_known(key, generation, now)
        if entry is None:
            return None
        _, _, fresh_until, reason, permanent, mark = entry
        if reason is None:
            return Answer(NotFound(fresh_until - now), fresh_until, generation, mark, "cache", cached=True)
        if expired is not None:
            return expired
        failure = PermFail if permanent else TempFail
        return Answer(failure(reason, fresh_until - now), resolver="cache", cached=True)

    def _not_known(self, key: Hashable, generation: int, now: float) -> tuple[Any, ...] | None:
        """The entry that says "not found" or "failed", while it holds."""
        entry = self._missing.find(key)
        return entry if entry is not None and entry[1] == generation and now < entry[2] else None

    def stale(self, key: Hashable, generation: int) -> Answer | None:
        """An expired `Found` that may still be told while the chain fails; its TTL is 0."""
        entry = self._found.find(key)
        if entry is None or entry[1] != generation or self._clock() >= entry[3]:
            return None
        return self._stale(entry)

    @staticmethod
    def _stale(entry: tuple[Any, ...]) -> Answer:
        _, _, _, _, _, value, values, separator, matched, _ = entry
        stale = Found(value, 0.0, values=values, separator=separator)
        return Answer(stale, resolver="cache", stale=True, matched=matched, cached=True)

    def keep(self, key: Hashable, answer: Answer) -> Answer:
        """Remember an outcome of the chain for as long as the options and its own TTL allow.

        A failure replaces no answer. Returns the answer with the time that it has, and with what a
        ready reply needs to know.
        """
        outcome = answer.outcome
        if isinstance(outcome, Found):
            self._missing.drop(key)
            self._keep_found(key, outcome, answer)
        elif isinstance(outcome, NotFound):
            self._found.drop(key)
            ttl = self._lifetime(self.options.negative_ttl, outcome.ttl)
            answer.outcome = NotFound(ttl)
            self._keep_missing(key, None, False, ttl, answer)
        else:
            known = self._not_known(key, answer.generation, self._clock())
            if known is None or known[3] is not None:
                self._keep_missing(
                    key, outcome.reason, isinstance(outcome, PermFail), self._pause(outcome), answer
                )
        return answer

    def _keep_found(self, key: Hashable, found: Found, answer: Answer) -> None:
        self._found.drop(key)
        ttl = self._lifetime(self.options.ttl, found.ttl)
        answer.outcome = Found(found.value, ttl, values=found.values, separator=found.separator)
        if ttl <= 0:
            return
        fresh_until = self._clock() + ttl
        refresh_at = fresh_until - ttl * _REFRESH_PART if self.options.refresh_ahead else fresh_until
        entry = (
            entry_size(key, found.value, found.separator, *found.values),
            answer.generation,
            fresh_until,
            fresh_until + self.options.stale,
            refresh_at,
            found.value,
            found.values,
            found.separator,
            answer.matched,
        )
        answer.mark = self._put(self._found, key, entry)
        if answer.mark:
            answer.expires = refresh_at

    def _keep_missing(
        self, key: Hashable, reason: str | None, permanent: bool, ttl: float, answer: Answer
    ) -> None:
        self._missing.drop(key)
        if ttl <= 0:
            return
        until = self._clock() + ttl
        entry = (entry_size(key, reason or ""), answer.generation, until, reason, permanent)
        mark = self._put(self._missing, key, entry)
        if mark and reason is None:
            answer.mark, answer.expires = mark, until

    def _put(self, store: Store, key: Hashable, entry: tuple[Any, ...]) -> int:
        """The new entry's mark; 0 when it is larger than the whole store."""
        if entry[0] > store.maxsize:
            return 0
        if self._thrown_away:
            self._free(_FREED)
        mark = self._marks.take()
        all_told = len(store) + 1
        store[key] = (*entry, mark)
        if len(store) < all_told:
            self._evicted["found" if store is self._found else "not_found"] += all_told - len(store)
        return mark

    def _lifetime(self, ttl: float, given: float | None) -> float:
        """The map's TTL, capped by the source's; the jitter only ever shortens it."""
        if given is not None and given < ttl:
            ttl = given
        return max(ttl, 0.0) * (1.0 - self.options.jitter * self._chance())

    def _pause(self, failure: Failure) -> float:
        """For how long a failure is remembered: as long as the source said, else ``error_ttl``."""
        ttl = self.options.error_ttl
        return ttl if failure.ttl is None or ttl <= 0 else min(failure.ttl, _LONGEST_FAILURE)
