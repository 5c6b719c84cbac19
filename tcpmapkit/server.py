"""The server: its listeners, the connections they share room for, starting, changing and stopping.

`bind` before tables are loaded, so that Postfix waits instead of being refused; `start` when the maps
answer; `stop` to finish what is in flight. Idle connections are found by one periodic sweep.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import attrs

from tcpmapkit.accepting import Accepting
from tcpmapkit.connection import Connection
from tcpmapkit.connections import Connections
from tcpmapkit.counters import Counters
from tcpmapkit.listener import Address, Listener, those_there
from tcpmapkit.listener_service import new_service, update_service
from tcpmapkit.process import drop_privileges, limit_connections
from tcpmapkit.service import Service

if TYPE_CHECKING:
    from tcpmapkit.config import ListenerConfig, ServerConfig
    from tcpmapkit.maps import Map

__all__ = ["SWEEP_INTERVAL", "ListenerChange", "Server"]

SWEEP_INTERVAL: Final = 30.0
"""Seconds between two looks for connections that have been idle for too long."""

#: Seconds for connections that were being accepted when the server was told to stop.
_LAST_TURNS: Final = 1.0

_log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class _Served:
    """A listener, and the service of its connections."""

    listener: Listener
    service: Service


@attrs.frozen(eq=False)
class ListenerChange:
    """Listeners as another configuration has them, ready to be taken: each with its maps and, where its
    endpoint is served already, with what serves it now. `added` are bound."""

    config: ServerConfig
    max_connections: int
    listeners: list[tuple[ListenerConfig, Sequence[Map], _Served | None]]
    added: dict[int, Listener]


class Server:
    """Serves each listener's maps. `clock` gives seconds. Without `accepts` it is given the connections
    (`serve_connection`), and binds nothing."""

    def __init__(
        self,
        config: ServerConfig,
        listeners: Iterable[tuple[ListenerConfig, Sequence[Map]]],
        *,
        clock: Callable[[], float] = time.monotonic,
        accepts: bool = True,
    ) -> None:
        self._config = config
        self._clock = clock
        self._accepts = accepts
        self._accepting = Accepting(lambda: self._connections.full(), self._welcome, clock)
        self._connections = Connections(config.max_connections, clock, self._accepting.room_was_made)
        self._arriving: set[asyncio.Task[Any]] = set()
        self._sweeping: asyncio.TimerHandle | None = None
        self._stopping = False
        self._served = [self._new(listener, maps) for listener, maps in listeners]

    def _new(self, config: ListenerConfig, maps: Sequence[Map], bound: Listener | None = None) -> _Served:
        service = new_service(config, maps, self._clock, self._opened, self._closed)
        listener = bound or Listener(config)
        listener.refused = partial(self._note_refused, service)
        return _Served(listener, service)

    @property
    def max_connections(self) -> int:
        """At most so many connections at a time; `bind` lowers it to what the open files allow."""
        return self._connections.limit

    @property
    def accepting(self) -> bool:
        """Whether connections are accepted just now."""
        return self._accepting.going

    @property
    def connections(self) -> Connections:
        """Those that are open."""
        return self._connections

    @property
    def accepts(self) -> bool:
        """Whether it listens itself; else it is given its connections."""
        return self._accepts

    @property
    def services(self) -> list[Service]:
        """What serves the connections of each listener, in the order of the configuration."""
        return [served.service for served in self._served]

    @property
    def counters(self) -> list[Counters]:
        """What each listener has done, in the order of the configuration."""
        return [served.service.counters for served in self._served]

    @property
    def listeners(self) -> list[Listener]:
        """In the order of the configuration."""
        return [served.listener for served in self._served]

    @property
    def addresses(self) -> list[list[Address]]:
        """As `Listener.addresses`, in the order of the configuration."""
        return [served.listener.addresses for served in self._served]

    # Starting and stopping.

    def bind(self) -> None:
        """Make sure of the open files and bind every listener.

        Raises `StartError`, with nothing left bound.
        """
        self._connections.limit = _limit(self._config)
        try:
            for served in self._served:
                served.listener.bind()
        except BaseException:
            self.close()
            raise

    def drop_privileges(self) -> None:
        """Become the configured user and group; see `tcpmapkit.process.drop_privileges`."""
        drop_privileges(self._config.user, self._config.group)

    def close(self) -> None:
        """Give up the sockets bound by a server that never started."""
        for served in self._served:
            served.listener.close()

    async def start(self) -> None:
        """Begin to accept connections."""
        for served in self._served:
            self._accepting.add(served.listener, served.service)
        self._accepting.start()
        self._sweep_later()

    async def stop(self) -> None:
        """Accept nothing more, finish what is in flight, close; after the grace, drop the rest."""
        if self._stopping:
            return
        self._stopping = True
        self._accepting.stop()
        self.close()
        if self._sweeping is not None:
            self._sweeping.cancel()
        if self._arriving:
            await asyncio.wait(self._arriving, timeout=_LAST_TURNS)
        await self._connections.finish_all(self._config.grace)

    # Other listeners, other maps.

    def prepare(
        self, config: ServerConfig, listeners: Iterable[tuple[ListenerConfig, Sequence[Map]]]
    ) -> ListenerChange:
        """Bind what a new configuration adds, and change nothing else.

        Raises `StartError` (and `ConfigError` as `Listener.bind` does), with nothing more bound than before.
        """
        asked = list(listeners)
        there = those_there([config for config, _ in asked], self.listeners)
        served: dict[Listener | None, _Served] = {one.listener: one for one in self._served}
        wanted = [(config, maps, served.get(one)) for (config, maps), one in zip(asked, there, strict=True)]
        added: dict[int, Listener] = {}
        try:
            for index, (listener, _, same) in enumerate(wanted):
                if same is None:
                    added[index] = Listener(listener)
                    if self._accepts:
                        added[index].bind()
                elif (anew := same.listener.bound_anew(listener)) is not None:
                    added[index] = anew
            limit = self.max_connections
            if config != self._config:
                limit = _limit(config) if self._accepts else config.max_connections
        except BaseException:
            for bound in added.values():
                bound.close()
            raise
        return ListenerChange(config, limit, wanted, added)

    def discard(self, change: ListenerChange) -> None:
        """Give up what `prepare` has bound."""
        for bound in change.added.values():
            bound.close()

    def take(self, change: ListenerChange) -> None:
        """Serve as `change` says from now on: no connection of a listener that stays is closed; those of one
        that goes close when what is in flight is answered."""
        if self._stopping:
            self.discard(change)
            return
        before, self._served = self._served, []
        kept: set[Listener] = set()
        for index, (config, maps, served) in enumerate(change.listeners):
            if served is None:
                served = self._new(config, maps, change.added[index])
                self._accepting.add(served.listener, served.service)
            else:
                if index in change.added:
                    served = _Served(change.added[index], served.service)
                    self._accepting.add(served.listener, served.service)
                kept.add(served.listener)
                served.listener.take(config)
                if served.service.protocol == config.protocol:
                    update_service(served.service, config, maps)
                else:
                    served = self._new(config, maps, served.listener)
                    self._accepting.add(served.listener, served.service)
            self._served.append(served)
        for old in before:
            if old.listener not in kept:
                self._accepting.remove(old.listener)
                old.listener.close()
            if old.service not in [served.service for served in self._served]:
                self._connections.finish(old.service)
        self._config = change.config
        self._connections.limit = change.max_connections
        self._connections.shrink()

    def forget_ready(self, map: str) -> None:
        """Forget what the listeners of a map keep ready, their other maps' replies included."""
        for service in self.services:
            if any(served.name == map for served in service.maps.values()):
                service.forget_ready()

    # Connections.

    def serve_connection(self, listener: int, connection: socket.socket) -> None:
        """Serve a connection that was accepted for the listener of that number, from 0."""
        self._welcome(self._served[listener].service, connection)

    def _welcome(self, service: Service, connection: socket.socket) -> None:
        service.counters.connections += 1
        served = Connection(service)
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
            self._connections.forget(served)

    def _note_refused(self, service: Service, host: str) -> None:
        service.counters.connections_refused += 1
        text = "%s: connection from %s closed: not in allow"
        service.said.log(_log, logging.WARNING, "refused", self._clock(), text, service.name, host)

    def _opened(self, connection: Connection) -> None:
        connection.service.counters.connections_open += 1
        if self._stopping:
            connection.finish()

    def _closed(self, connection: Connection) -> None:
        connection.service.counters.connections_open -= 1
        self._connections.forget(connection)

    def sweep(self) -> None:
        """Close the connections that have been idle for longer than their protocol allows."""
        self._connections.sweep()

    def _sweep_later(self) -> None:
        self._sweeping = asyncio.get_running_loop().call_later(SWEEP_INTERVAL, self._sweep)

    def _sweep(self) -> None:
        self.sweep()
        self._sweep_later()


def _limit(config: ServerConfig) -> int:
    return limit_connections(config.max_connections, written=config.max_connections_written)
