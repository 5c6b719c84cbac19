"""Accepting connections: a loop of our own over non-blocking sockets, because it has to pause: when there
is no room for another connection, and when the system has no descriptor left."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from functools import partial
from typing import Final, Generic, TypeVar

from tcpmapkit.listener import BACKLOG, Listener, is_waiting
from tcpmapkit.seldom import Seldom

__all__ = ["PAUSE", "Accepting"]

PAUSE: Final = 1.0
"""Seconds for which accepting pauses when there is no room, unless a connection closes before."""

_log = logging.getLogger(__name__)


_Serves = TypeVar("_Serves")


class Accepting(Generic[_Serves]):
    """Accepts for listeners that are bound. `full` gives how many connections there are when there is no
    room and none can be made, else 0; `welcome` takes a connection, and what serves those of its listener;
    `clock` gives seconds."""

    def __init__(
        self,
        full: Callable[[], int],
        welcome: Callable[[_Serves, socket.socket], None],
        clock: Callable[[], float],
    ) -> None:
        self._full = full
        self._welcome = welcome
        self._clock = clock
        self._listeners: dict[Listener, _Serves] = {}
        #: Whether it accepts just now.
        self.going = False
        self._stopped = False
        self._pausing: asyncio.TimerHandle | None = None
        self._said = Seldom()

    def add(self, listener: Listener, service: _Serves) -> None:
        """Accept for this listener too; what it accepts is served by `service`."""
        self._listeners[listener] = service
        if self.going:
            listener.watch(partial(self._acceptable, service))

    def remove(self, listener: Listener) -> None:
        """Accept for this listener no more."""
        if self._listeners.pop(listener, None) is not None:
            listener.unwatch()

    def start(self) -> None:
        """Accept, from now on or again."""
        if self.going or self._stopped:
            return
        self.going = True
        if self._pausing is not None:
            self._pausing.cancel()
            self._pausing = None
        for listener, service in self._listeners.items():
            listener.watch(partial(self._acceptable, service))

    def stop(self) -> None:
        """Accept nothing more, for good."""
        self._stopped = True
        self._unwatch()
        if self._pausing is not None:
            self._pausing.cancel()

    def room_was_made(self) -> None:
        """End a pause: a connection is gone."""
        if self._pausing is not None:
            self.start()

    def _acceptable(self, service: _Serves, listener: Listener, listening: socket.socket) -> None:
        for _ in range(BACKLOG):
            full = self._full()
            if full:
                if is_waiting(listening):
                    self._pause("full", "%d connections and none of them idle: accepting pauses", full)
                return
            try:
                connection = listener.accept(listening)
            except OSError as error:
                self._pause("resources", "cannot accept connections: %s", error.strerror)
                return
            if connection is None:
                return
            self._welcome(service, connection)

    def _pause(self, subject: str, text: str, *args: object) -> None:
        """Accept nothing until a connection closes, or for a second: one may have become idle by then."""
        self._said.log(_log, logging.WARNING, subject, self._clock(), text, *args)
        self._unwatch()
        self._pausing = asyncio.get_running_loop().call_later(PAUSE, self.start)

    def _unwatch(self) -> None:
        if self.going:
            self.going = False
            for listener in self._listeners:
                listener.unwatch()
