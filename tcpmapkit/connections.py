"""The connections that are open, of all listeners: room for new ones, those idle for too long, the end."""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from tcpmapkit.connection import Connection

if TYPE_CHECKING:
    from tcpmapkit.service import Service

__all__ = ["IDLE_ENOUGH", "Connections"]

IDLE_ENOUGH: Final = 10.0
"""Seconds for which a connection must have been idle to make room for a new one."""

#: How many idle connections are picked out at once, so that a rush costs no search of all for each.
_PICKED: Final = 256

#: How many connections over the limit are closed in one turn of the loop.
_CLOSED: Final = 64

#: Seconds for connections that were dropped at the end of the grace to be gone.
_LAST_TURNS: Final = 1.0

_log = logging.getLogger(__name__)


class Connections:
    """At most `limit` connections. `clock` gives seconds; `forgotten` is called when one is gone."""

    def __init__(self, limit: int, clock: Callable[[], float], forgotten: Callable[[], None]) -> None:
        self.limit = limit
        self._clock = clock
        self.forgotten = forgotten
        self._open: set[Connection] = set()
        self._leaving: set[Connection] = set()  # had to make room, and are not gone yet
        self._idle: list[Connection] = []  # candidates for making room, the longest idle last
        self._gone = asyncio.Event()

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._open))

    def add(self, connection: Connection) -> None:
        """One more, which makes room for itself where there is none."""
        if len(self._open) >= self.limit:
            self.make_room()
        self._open.add(connection)

    def forget(self, connection: Connection) -> None:
        """One is gone."""
        self._open.discard(connection)
        self._leaving.discard(connection)
        if not self._open and not self._leaving:
            self._gone.set()
        self.forgotten()

    # Room.

    def full(self) -> int:
        """How many there are when there is no room and none can be made; else 0."""
        if len(self._open) > self.limit:
            self.shrink()
        over = len(self._open) - self.limit
        return len(self._open) if over > 0 or (over == 0 and self._longest_idle() is None) else 0

    def shrink(self) -> None:
        """Come down to a limit that was lowered, as far as there are connections that are idle enough."""
        for _ in range(_CLOSED):
            if len(self._open) <= self.limit or not self.make_room():
                return
        asyncio.get_running_loop().call_soon(self.shrink)

    def make_room(self) -> bool:
        """Close the connection that has been idle longest; whether there is one that is idle enough."""
        longest = self._longest_idle()
        if longest is None:
            return False
        self._idle.pop()
        self._open.discard(longest)
        self._leaving.add(longest)
        longest.finish()
        return True

    @property
    def longest_idle(self) -> tuple[bool, float] | None:
        """Of the connection that would make room: whether its client reconnects unasked, and since when it is
        idle; None when there is none."""
        longest = self._longest_idle()
        return (longest.service.gives_way, longest.last_active) if longest is not None else None

    def _longest_idle(self) -> Connection | None:
        """The connection to make room, last in `_idle`; first those whose clients reconnect unasked."""
        latest = self._clock() - IDLE_ENOUGH
        for again in (True, False):
            while self._idle:
                connection = self._idle[-1]
                if connection in self._open and self._is_idle(connection, latest):
                    return connection
                self._idle.pop()
            if again:
                self._idle = heapq.nsmallest(
                    _PICKED,
                    (connection for connection in self._open if self._is_idle(connection, latest)),
                    key=lambda connection: (
                        not connection.service.gives_way,
                        connection.last_active,
                    ),
                )[::-1]
        return None

    @staticmethod
    def _is_idle(connection: Connection, latest: float) -> bool:
        return connection.last_active <= latest and not connection.in_flight

    def sweep(self) -> None:
        """Close the connections that have been idle for longer than their protocol allows."""
        now = self._clock()
        self.shrink()
        for connection in list(self._leaving):
            connection.close_idle()
        for connection in list(self._open):
            if now - connection.last_active >= connection.service.idle_timeout:
                connection.close_idle()

    # The end.

    def finish(self, service: Service | None = None) -> None:
        """Let them, or those of one service, answer what they have received and close."""
        for connection in list(self._open):
            if service is None or connection.service is service:
                connection.finish()

    async def finish_all(self, grace: float) -> None:
        """Finish them all; drop those that have not finished after `grace` seconds."""
        self.finish()
        if not await self._all_gone(grace):
            rest = self._open | self._leaving
            _log.warning("%d connections did not finish within the grace and are dropped", len(rest))
            for connection in rest:
                connection.abort()
            await self._all_gone(_LAST_TURNS)

    async def _all_gone(self, seconds: float) -> bool:
        self._gone.clear()
        if not self._open and not self._leaving:
            return True
        try:
            async with asyncio.timeout(seconds):
                await self._gone.wait()
        except TimeoutError:
            return False
        return True
