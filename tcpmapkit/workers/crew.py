"""The workers there are: started, listened to, found stuck, replaced when they die."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from tcpmapkit.workers.channel import Channel, ChannelError
from tcpmapkit.workers.dealing import fewest
from tcpmapkit.workers.member import Member
from tcpmapkit.workers.restarts import Restarts

if TYPE_CHECKING:
    import socket

    from tcpmapkit.listener import Listener
    from tcpmapkit.workers.turns import Turns

__all__ = ["PING_INTERVAL", "STUCK_AFTER", "Crew", "Spawn"]

Spawn = Callable[[int], tuple[int, Channel]]
"""Starts worker number N: its process, the channel to it."""

PING_INTERVAL: Final = 1.0
"""Seconds between two questions whether a worker is alive."""

STUCK_AFTER: Final = 10
"""Pings in a row without an answer, after which a worker is killed. What a worker does itself never holds
up its loop for 10 seconds; and Postfix, which waits for a reply for 100, has asked another worker long before
that. Pings are counted, not seconds: while the whole machine sleeps none is sent."""

_ENDS_WITHIN: Final = 5.0
"""Seconds that a process may need to end after it has closed its channel."""

_log = logging.getLogger(__name__)


class Crew:
    """`count` workers, started by `spawn`. Whoever uses it says what is done with each kind of message
    (`on`), when a worker can serve (`on_ready`), when one is gone (`on_gone`), and with the connections that
    were sent to one which has not taken them and never will (`on_given_back`)."""

    def __init__(self, turns: Turns, spawn: Spawn) -> None:
        self._turns = turns
        self._spawn = spawn
        self.members: list[Member] = []
        self.restarts: dict[int, Restarts] = {}
        self.on: dict[str, Callable[[Member, dict[str, Any]], None]] = {
            "pong": self._ponged,
            "ready": self._became_ready,
            "leaving": self._leaves,
        }
        self.on_ready: list[Callable[[Member], None]] = []
        self.on_gone: list[Callable[[Member], None]] = []
        #: Called when one can take connections again that could take no more.
        self.on_able: Callable[[], None] = lambda: None
        self.on_given_back: Callable[[list[tuple[Listener, socket.socket]]], None] = lambda given_back: None
        #: What is done with a connection that a worker which stops has left.
        self.on_left: Callable[[socket.socket], None] = lambda connection: connection.close()
        #: Called when a worker dies before it could serve, with what became of it; True: that is the end.
        self.on_failed_start: Callable[[Member, str], bool] = lambda member, fate: False
        self.count = 0
        self._stopping = False
        self._last = -1

    # Starting and stopping.

    def start(self, count: int) -> None:
        """Start so many workers, and have as many from now on."""
        self.count = count
        for number in range(count):
            self.restarts[number] = Restarts()
            self._start(number)
        self._turns.later(PING_INTERVAL, self._ping)

    def _start(self, number: int) -> None:
        if self._stopping or self._of(number) is not None:
            return
        try:
            pid, channel = self._spawn(number)
        except OSError as error:
            wait = self.restarts[number].wait(0.0, served=False, last=False)
            _log.error("worker %d cannot be started: %s", number, error.strerror)
            self._turns.later(wait, partial(self._start, number))
            return
        member = Member(number, pid, channel, self._turns.clock())
        self.members.append(member)
        self._watch(member)

    def _of(self, number: int) -> Member | None:
        return next((one for one in self.members if one.number == number and not one.leaving), None)

    def renew(self, member: Member) -> None:
        """Have another in the place of one that serves nobody yet, and starts from what is outdated."""
        member.leaving = True
        self.kill(member)
        self._start(member.number)

    def stop(self, *, leave: bool) -> None:
        """Tell all to finish what is in flight and to end, and start none any more. `leave`: have them hand
        over the connections that can be left (`on_left`)."""
        self._stopping = True
        for member in self.members:
            member.leaving = True
            self.tell(member, {"stop": True, "leave": leave})

    def kill(self, member: Member) -> None:
        """End a worker by SIGKILL; `reap` finds it."""
        member.killed = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(member.pid, signal.SIGKILL)

    def end(self) -> None:
        """Leave nothing behind."""
        self._stopping = True
        for member in self.members:
            self.kill(member)
        for member in self.members:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(member.pid, 0)
            self._turns.unwatch(member.channel)
            member.close()
        self.members.clear()

    # Talking.

    @property
    def ready(self) -> list[Member]:
        """Those that serve."""
        return [member for member in self.members if member.ready and not member.leaving]

    @property
    def connections(self) -> int:
        """Of all workers."""
        return sum(member.connections for member in self.members)

    def tell(self, member: Member, message: dict[str, Any], connection: socket.socket | None = None) -> None:
        """Send a message; what the worker does not take now waits."""
        member.channel.send(message, connection)
        if member.channel.clogged:
            self._watch(member)

    @property
    def can_take(self) -> bool:
        """Whether a connection can be sent to any of them."""
        return any(member.can_take for member in self.members)

    def next_in_turn(self) -> Member | None:
        """The worker for the next connection; None when none can take one."""
        able = [member for member in self.members if member.can_take]
        if not able:
            return None
        now = self._turns.clock()
        able = [member for member in able if not member.is_late(now)] or able
        self._last = fewest({member.number: member.connections for member in able}, self._last)
        return next(member for member in able if member.number == self._last)

    def _watch(self, member: Member) -> None:
        readable = partial(self._readable, member)
        self._turns.watch(
            member.channel, readable, partial(self._flush, member) if member.channel.clogged else None
        )

    def _flush(self, member: Member) -> None:
        member.channel.flush()
        if not member.channel.clogged:
            self._watch(member)
            self.on_able()

    def _readable(self, member: Member) -> None:
        try:
            for message, connection in member.channel.receive():
                self._told(member, message, connection)
        except EOFError:
            self._turns.unwatch(member.channel)
            member.ready = False
            member.channel.closed = True
            self._turns.later(_ENDS_WITHIN, partial(self._kill_what_is_left, member))
        except (ChannelError, KeyError, TypeError, ValueError) as error:
            _log.error("%s sends what it should not, and is killed: %r", member.name, error)
            self._turns.unwatch(member.channel)
            self.kill(member)

    def _told(self, member: Member, message: dict[str, Any], connection: socket.socket | None) -> None:
        if connection is not None:
            self.on_left(connection)
            return
        for kind, call in self.on.items():
            if kind in message:
                call(member, message)

    def _kill_what_is_left(self, member: Member) -> None:
        if member in self.members:
            self.kill(member)

    def _became_ready(self, member: Member, message: dict[str, Any]) -> None:
        member.ready = member.served = True
        for call in self.on_ready:
            call(member)

    def _leaves(self, member: Member, message: dict[str, Any]) -> None:
        """Somebody has told it to stop (SIGTERM): another takes its place while it finishes."""
        if member.leaving:
            return
        member.leaving = True
        _log.info("%s was told to stop: another takes its place", member.name)
        self.on_given_back(member.give_back())  # from now on it takes none
        self.restarts[member.number].count += 1
        self._start(member.number)

    # Life and death.

    def _ping(self) -> None:
        self._turns.later(PING_INTERVAL, self._ping)
        self.reap()  # a signal of which the system has told another may be lost
        for member in self.members:
            if not member.ready or member.killed:
                continue
            if member.unanswered >= STUCK_AFTER:
                seconds = STUCK_AFTER * PING_INTERVAL
                _log.error("%s has not answered for %g s, and is killed", member.name, seconds)
                self.kill(member)
                continue
            member.unanswered += 1
            if not member.channel.clogged:
                self.tell(member, {"ping": True})

    def _ponged(self, member: Member, message: dict[str, Any]) -> None:
        member.unanswered = 0

    def reap(self) -> None:
        """Find those that have ended (SIGCHLD)."""
        for member in list(self.members):
            try:
                pid, status = os.waitpid(member.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = member.pid, 0
            if pid:
                self._ended(member, os.waitstatus_to_exitcode(status))

    def _ended(self, member: Member, code: int) -> None:
        with contextlib.suppress(EOFError, ChannelError, KeyError, TypeError, ValueError):
            while messages := member.channel.receive():
                for message, connection in messages:
                    self._told(member, message, connection)
        member.ready = False
        self._turns.unwatch(member.channel)
        self.members.remove(member)
        # Before another is started, which would have these too, and keep them open.
        self.on_given_back(member.give_back())
        member.close()
        fate = f"killed by {signal.Signals(-code).name}" if code < 0 else f"status {code}"
        if not self._stopping and not member.leaving:
            _log.error("%s has ended: %s", member.name, fate)
            self._replace(member, fate)
        for call in self.on_gone:
            call(member)

    def _replace(self, member: Member, fate: str) -> None:
        if not member.served and self.on_failed_start(member, fate):
            return
        ran = self._turns.clock() - member.started
        restarts = self.restarts[member.number]
        wait = restarts.wait(ran, served=member.served, last=not self.ready)
        if wait:
            self._turns.later(wait, partial(self._start, member.number))
        else:
            self._start(member.number)

    def abandon(self) -> None:
        """Close what a forked process has of the workers of its parent."""
        for member in self.members:
            member.close()

    def describe(self, member: Member) -> dict[str, Any]:
        """A worker for the operator: number, process, how often its like was replaced."""
        return {
            "number": member.number,
            "pid": member.pid,
            "restarts": self.restarts[member.number].count,
        }
