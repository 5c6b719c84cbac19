"""Ready replies: finished bytes by raw request, in front of a map's cache.

A hit is one dictionary look-up and one comparison of time and generation. It marks the cache entry
that the reply came from as used, which eviction and refresh-ahead go by.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from sys import getsizeof
from typing import Final, Protocol

from tcpmapkit.cache import Answer
from tcpmapkit.query import Found

__all__ = ["AnswersKeptReady", "ReadyReplies"]

#: Bytes that a reply costs beside its request and itself: the tuple, its numbers, its places in the
#: dictionary and the queue (a test holds it against tracemalloc).
_REPLY: Final = 260


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


class _Budget:
    """The requests of one kind in the order in which they came, and the bytes that they cost."""

    __slots__ = ("limit", "queue", "size")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self.queue: deque[tuple[bytes, int]] = deque()


class _OfMap:
    """What the replies of one map share: the map, its marks, what they may cost."""

    __slots__ = ("found", "map", "missing", "used")

    def __init__(self, map: AnswersKeptReady) -> None:
        self.map = map
        self.used = map.used
        found, missing = map.ready_sizes
        self.found = _Budget(found)
        self.missing = _Budget(missing)


class ReadyReplies:
    """The ready replies of one listener, for the maps that it serves. `clock` gives seconds."""

    def __init__(self, maps: Iterable[AnswersKeptReady], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._replies: dict[bytes, tuple[bytes, float, int, int, bool, _OfMap]] = {}
        self._maps = {map.name: _OfMap(map) for map in maps}

    def __len__(self) -> int:
        return len(self._replies)

    @property
    def size(self) -> int:
        """Bytes held."""
        return sum(one.found.size + one.missing.size for one in self._maps.values())

    def find(self, raw: bytes) -> bytes | None:
        """The reply to exactly this request, if one is ready and still holds."""
        ready = self._replies.get(raw)
        if ready is None or ready[1] <= self._clock() or ready[2] != ready[5].map.generation:
            return None
        ready[5].used[ready[3]] = 1
        return ready[0]

    def keep(self, name: str, raw: bytes, reply: bytes, answer: Answer) -> None:
        """Keep the reply that `answer` of the map of that name gave, when it may be kept
        (`Answer.expires`)."""
        if answer.expires <= 0.0:
            return
        found = type(answer.outcome) is Found
        whose = self._maps[name]
        budget = whose.found if found else whose.missing
        cost = _REPLY + getsizeof(raw) + getsizeof(reply)
        if cost > budget.limit:
            return
        known = self._replies.get(raw)
        self._replies[raw] = (reply, answer.expires, answer.generation, answer.mark, found, whose)
        if known is not None and known[4] is found and len(known[0]) >= len(reply):
            return  # it has its place in the queue, and that was paid for
        budget.queue.append((raw, cost))
        budget.size += cost
        while budget.size > budget.limit:
            oldest, paid = budget.queue.popleft()
            budget.size -= paid
            ready = self._replies.get(oldest)
            if ready is not None and ready[4] is found:
                del self._replies[oldest]
