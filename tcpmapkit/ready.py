"""Ready replies: finished bytes by raw request, in front of a map's cache.

A hit is one dictionary look-up and one comparison of time and generation. It marks the cache entry
that the reply came from as used, which eviction and refresh-ahead go by.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable
from sys import getsizeof
from typing import Any, Final, Protocol

from tcpmapkit.cache import Answer
from tcpmapkit.counters import Outcomes
from tcpmapkit.query import Found

__all__ = ["AnswersKeptReady", "ReadyReplies"]

#: Bytes that a reply costs beside its request and itself: the tuple, its numbers, its places in the
#: dictionary and the queue (a test holds it against tracemalloc).
_REPLY: Final = 260

#: Replies thrown away are freed so many at a time, for each that is kept.
_FREED: Final = 8


class AnswersKeptReady(Protocol):
    """What ready replies need to know of a map: its name, its generation now, the marks of its cache's
    entries (always the same object), and the two sizes in bytes (0: nothing is kept)."""

    @property
    def name(self) -> str: ...

    @property
    def generation(self) -> int: ...

    @property
    def used(self) -> bytearray: ...

    @property
    def ready_sizes(self) -> tuple[int, int]: ...


class _Nobody:
    """Stands for a map that has no replies any more."""

    name = ""
    generation = -1
    used = bytearray()
    ready_sizes = (0, 0)


_NOBODY: Final = _Nobody()


class _Kind:
    """The replies of one map that tell of one kind of outcome: found, or not found.

    The requests in the order in which they came, the bytes that they cost and may cost, and what a
    reply that is found has to do with.
    """

    __slots__ = ("found", "limit", "map", "outcomes", "queue", "size", "used")

    def __init__(self, map: AnswersKeptReady, outcomes: Outcomes, found: bool) -> None:
        self.map: AnswersKeptReady = map
        self.used = map.used
        self.outcomes = outcomes
        self.found = found
        self.limit = map.ready_sizes[0 if found else 1]
        self.size = 0
        self.queue: deque[tuple[bytes, int]] = deque()


class ReadyReplies:
    """The ready replies of one listener, for the maps that it serves. `clock` gives seconds.

    `outcomes` counts, by the map's name, the replies that were found.
    """

    def __init__(self, maps: Iterable[AnswersKeptReady], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._replies: dict[bytes, tuple[bytes, float, int, int, _Kind]] = {}
        self._thrown_away: list[dict[bytes, Any]] = []
        self.outcomes: dict[str, Outcomes] = {}
        self._kinds: dict[str, tuple[_Kind, _Kind]] = {}
        self.serve(maps)

    def serve(self, maps: Iterable[AnswersKeptReady]) -> None:
        """Keep replies of these maps from now on: those there are go, the outcomes of maps that stay are
        counted on."""
        if self._replies:
            self._thrown_away.append(self._replies)
            self._replies = {}
        for kind in itertools.chain.from_iterable(self._kinds.values()):
            kind.map = _NOBODY  # replies that are freed later keep no map and no table from being freed now
        self._kinds = {}
        for map in maps:
            outcomes = self.outcomes.setdefault(map.name, Outcomes())
            self._kinds[map.name] = _Kind(map, outcomes, True), _Kind(map, outcomes, False)
        for name in self.outcomes.keys() - self._kinds.keys():
            del self.outcomes[name]

    def __len__(self) -> int:
        return len(self._replies)

    @property
    def size(self) -> int:
        """Bytes held."""
        return sum(found.size + missing.size for found, missing in self._kinds.values())

    def find(self, raw: bytes) -> bytes | None:
        """The reply to exactly this request, if one is ready and still holds; it is counted."""
        ready = self._replies.get(raw)
        if ready is None:
            return None
        reply, expires, generation, mark, kind = ready
        if expires <= self._clock() or generation != kind.map.generation:
            return None
        kind.used[mark] = 1
        if kind.found:
            kind.outcomes.ready_found += 1
        else:
            kind.outcomes.ready_not_found += 1
        return reply

    def keep(self, name: str, raw: bytes, reply: bytes, answer: Answer) -> None:
        """Keep the reply that `answer` of the map of that name gave, when it may be kept
        (`Answer.expires`)."""
        if answer.expires <= 0.0 or name not in self._kinds:
            return
        if self._thrown_away:
            self._free_some()
        found, missing = self._kinds[name]
        kind = found if type(answer.outcome) is Found else missing
        cost = _REPLY + getsizeof(raw) + getsizeof(reply)
        if cost > kind.limit:
            return
        known = self._replies.get(raw)
        self._replies[raw] = (reply, answer.expires, answer.generation, answer.mark, kind)
        if known is not None and known[4] is kind and len(known[0]) >= len(reply):
            return  # it has its place in the queue, and that was paid for
        kind.queue.append((raw, cost))
        kind.size += cost
        while kind.size > kind.limit:
            oldest, paid = kind.queue.popleft()
            kind.size -= paid
            ready = self._replies.get(oldest)
            if ready is not None and ready[4] is kind:
                del self._replies[oldest]

    def _free_some(self) -> None:
        """Free a few of the replies that went: all at once would hold everybody up."""
        old = self._thrown_away[0]
        for _ in range(min(_FREED, len(old))):
            old.popitem()
        if not old:
            self._thrown_away.pop(0)
