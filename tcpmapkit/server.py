"""The server: its listeners, the connections they share room for, starting and stopping.

`bind` before tables are loaded, so that Postfix waits instead of being refused; `start` when the maps
answer; `stop` to finish what is in flight. Idle connections are found by one periodic sweep.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from tcpmapkit.connection import Connection
from tcpmapkit.counters import Counters
from tcpmapkit.listener import BACKLOG, Address, Listener, is_waiting
from tcpmapkit.listener_service import new_service
from tcpmapkit.process import drop_privileges, limit_connections
from tcpmapkit.seldom import Seldom

if TYPE_CHECKING:
    from tcpmapkit.config import ListenerConfig, ServerConfig
    from tcpmapkit.maps import Map

__all__ = ["IDLE_ENOUGH", "PAUSE", "SWEEP_INTERVAL", "Server"]

IDLE_ENOUGH: Final = 10.0
"""Seconds for which a connection must have been idle to make room for a new one."""

PAUSE: Final = 1.0
"""Seconds for which accepting pauses when there is no room, unless a connection closes before."""

SWEEP_INTERVAL: Final = 30.0
"""Seconds between two looks for connections that have been idle for too long."""

#: How many idle connections are picked out at once, so that a rush costs no search of all for each.
_PICKED: Final = 256

#: Seconds for connections that were dropped at the end of the grace to be gone.
_LAST_TURNS: Final = 1.0

_log = logging.getLogger(__name__)


class Server:
    """Serves each listener's maps. `clock` gives seconds."""

    def __init__(
        self,
        config: ServerConfig,
        listeners: Iterable[tuple[ListenerConfig, Sequence[Map]]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._clock = clock
        #: At most so many connections at a time; `bind` lowers it to what the open files allow.
        self.max_connections: int = config.max_connections
        self._connections: set[Connection] = set()
        self._leaving: set[Connection] = set()  # had to make room, and are not gone yet
        self._arriving: set[asyncio.Task[Any]] = set()
        self._idle: list[Connection] = []  # candidates for making room, the longest idle last
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._gone = asyncio.Event()
        self._accepting = False
        self._stopping = False
        self._said = Seldom()
        self.listeners = [self._listener(listener, maps) for listener, maps in listeners]

    def _listener(self, config: ListenerConfig, maps: Sequence[Map]) -> Listener:
        service = new_service(config, maps, self._clock, self._opened, self._closed)
        return Listener(config, service)

    @property
    def counters(self) -> list[Counters]:
        """What each listener has done, in the order of the configuration."""
        return [listener.service.counters for listener in self.listeners]

    @property
    def addresses(self) -> list[list[Address]]:
        """Host and port of each listener's sockets, or a unix socket's path, in the order of the
        configuration."""
        return [listener.addresses for listener in self.listeners]

    # Starting and stopping.

    def bind(self) -> None:
        """Make sure of the open files and bind every listener.

        Raises `StartError`, with nothing left bound.
        """
        self.max_connections = limit_connections(
            self._config.max_connections, written=self._config.max_connections_written
        )
        try:
            for listener in self.listeners:
                listener.bind()
        except BaseException:
            self.close()
            raise

    def drop_privileges(self) -> None:
        """Become the configured user and group; see `tcpmapkit.process.drop_privileges`."""
        drop_privileges(self._config.user, self._config.group)

    def close(self) -> None:
        """Give up the sockets bound by a server that never started."""
        for listener in self.listeners:
            listener.close()

    async def start(self) -> None:
        """Begin to accept connections."""
        self._resume()
        self._sweep_later()

    async def stop(self) -> None:
        """Accept nothing more, finish what is in flight, close; after the grace, drop the rest."""
        if self._stopping:
            return
        self._stopping = True
        if self._accepting:
            self._unwatch()
        self.close()
        for timer in self._timers.values():
            timer.cancel()
        if self._arriving:
            await asyncio.wait(self._arriving, timeout=_LAST_TURNS)
        for connection in list(self._connections):
            connection.finish()
        if not await self._all_gone(self._config.grace):
            rest = self._connections | self._leaving
            _log.warning("%d connections did not finish within the grace and are dropped", len(rest))
            for connection in rest:
                connection.abort()
            await self._all_gone(_LAST_TURNS)

    async def _all_gone(self, seconds: float) -> bool:
        self._gone.clear()
        if not self._connections and not self._leaving:
            return True
        try:
            async with asyncio.timeout(seconds):
                await self._gone.wait()
        except TimeoutError:
            return False
        return True

    # Accepting.

    def _acceptable(self, listener: Listener, listening: socket.socket) -> None:
        for _ in range(BACKLOG):
            if self._full():
                if is_waiting(listening):
                    open_now = len(self._connections)
                    self._say("full", "%d connections and none of them idle: accepting pauses", open_now)
                    self._pause()
                return
            try:
                connection = listener.accept(listening)
            except OSError as error:
                self._say("resources", "cannot accept connections: %s", error.strerror)
                self._pause()
                return
            if connection is None:
                return
            self._make_room()
            listener.service.counters.connections += 1
            served = Connection(listener.service)
            self._connections.add(served)
            arriving = asyncio.get_running_loop().create_task(self._serve(served, connection))
            self._arriving.add(arriving)
            arriving.add_done_callback(self._arriving.discard)

    async def _serve(self, served: Connection, connection: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: served, connection)
        except OSError as error:
            _log.debug("%s: connection lost before it was served: %s", served.service.name, error)
            connection.close()
            self._forget(served)

    def _full(self) -> bool:
        """Whether there is no room and none can be made."""
        return len(self._connections) >= self.max_connections and self._longest_idle() is None

    def _make_room(self) -> None:
        if len(self._connections) >= self.max_connections:
            longest = self._longest_idle()
            if longest is not None:
                self._idle.pop()
                self._connections.discard(longest)
                self._leaving.add(longest)
                longest.finish()

    def _longest_idle(self) -> Connection | None:
        """The connection to make room, last in `_idle`; first those whose clients reconnect unasked."""
        latest = self._clock() - IDLE_ENOUGH
        for again in (True, False):
            while self._idle:
                connection = self._idle[-1]
                if connection in self._connections and self._is_idle(connection, latest):
                    return connection
                self._idle.pop()
            if again:
                self._idle = heapq.nsmallest(
                    _PICKED,
                    (connection for connection in self._connections if self._is_idle(connection, latest)),
                    key=lambda connection: (
                        not connection.service.gives_way,
                        connection.last_active,
                    ),
                )[::-1]
        return None

    @staticmethod
    def _is_idle(connection: Connection, latest: float) -> bool:
        return connection.last_active <= latest and not connection.in_flight

    def _pause(self) -> None:
        """Accept nothing until a connection closes, or for a second: one may have become idle by then."""
        self._unwatch()
        self._timers["accept"] = asyncio.get_running_loop().call_later(PAUSE, self._resume)

    def _unwatch(self) -> None:
        self._accepting = False
        for listener in self.listeners:
            listener.unwatch()

    def _resume(self) -> None:
        if self._accepting or self._stopping:
            return
        self._accepting = True
        timer = self._timers.pop("accept", None)
        if timer is not None:
            timer.cancel()
        for listener in self.listeners:
            listener.watch(self._acceptable)

    def _say(self, subject: str, text: str, *args: object) -> None:
        """Warn, once a minute for each subject."""
        self._said.log(_log, logging.WARNING, subject, self._clock(), text, *args)

    # Connections.

    def _opened(self, connection: Connection) -> None:
        connection.service.counters.connections_open += 1
        if self._stopping:
            connection.finish()

    def _closed(self, connection: Connection) -> None:
        connection.service.counters.connections_open -= 1
        self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._leaving.discard(connection)
        if self._stopping and not self._connections and not self._leaving:
            self._gone.set()
        elif not self._accepting and "accept" in self._timers:
            self._resume()

    def sweep(self) -> None:
        """Close the connections that have been idle for longer than their protocol allows."""
        now = self._clock()
        for connection in list(self._leaving):
            connection.close_idle()
        for connection in list(self._connections):
            if now - connection.last_active >= connection.service.idle_timeout:
                connection.close_idle()

    def _sweep_later(self) -> None:
        self._timers["sweep"] = asyncio.get_running_loop().call_later(SWEEP_INTERVAL, self._sweep)

    def _sweep(self) -> None:
        self.sweep()
        self._sweep_later()
