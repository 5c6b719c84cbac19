"""A worker, as the parent sees it."""

from __future__ import annotations

import contextlib
import resource
import socket
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import attrs

from tcpmapkit.workers.channel import Channel

if TYPE_CHECKING:
    from tcpmapkit.listener import Listener

__all__ = ["LATE", "Member"]

LATE: Final = 2.0
"""Seconds after which a worker that has not taken a connection gets no more while others do."""


@attrs.define(eq=False)
class Member:
    """Worker `number`, from 0, with its process and the channel to it.

    `started` is when, by the parent's clock.
    """

    number: int
    pid: int
    channel: Channel
    started: float
    ready: bool = False  # its tables are loaded
    served: bool = False  # it has been ready
    leaving: bool = False  # it takes nothing more, and ends
    unanswered: int = 0  # pings in a row
    killed: bool = False
    _taken: int = 0
    _open: int = 0
    _held: deque[tuple[Listener, socket.socket, float]] = attrs.field(factory=deque)

    @property
    def name(self) -> str:
        """For the log."""
        return f"worker {self.number} (pid {self.pid})"

    @property
    def connections(self) -> int:
        """How many it has, those on their way included."""
        return self._open + len(self._held)

    @property
    def can_take(self) -> bool:
        """Whether a connection can be sent to it."""
        return self.ready and not self.leaving and not self.channel.clogged and not self.channel.closed

    def is_late(self, now: float) -> bool:
        """Whether it lets connections wait for it, or pings."""
        return self.unanswered > 1 or (bool(self._held) and now - self._held[0][2] > LATE)

    def hold(self, listener: Listener, connection: socket.socket, now: float) -> None:
        """Keep a connection that was sent to it, until it says that it has it: should it die before that,
        another worker serves the connection, whose client notices nothing."""
        self._held.append((listener, connection, now))

    def report(self, message: dict[str, Any]) -> None:
        """It says how many connections it has taken, ever, and how many are open. Raises `ValueError`."""
        taken = int(message["taken"])
        while self._taken < taken and self._held:
            self._held.popleft()[1].close()
            self._taken += 1
        self._open = int(message["open"])

    def allow_as_many_files(self) -> None:
        """It may have as many files open as this process, whose limit may have been raised."""
        with contextlib.suppress(AttributeError, OSError, ValueError):
            resource.prlimit(self.pid, resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE))

    def give_back(self) -> list[tuple[Listener, socket.socket]]:
        """The connections that it never had."""
        held = [(listener, connection) for listener, connection, _ in self._held]
        self._held.clear()
        return held

    def close(self) -> None:
        """Close what this process has of it."""
        self.channel.close()
        for _, connection in self.give_back():
            connection.close()
