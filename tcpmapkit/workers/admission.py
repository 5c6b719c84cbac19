"""Who is let in: the parent's listeners, the limit on connections, and the worker that each one goes to."""

from __future__ import annotations

import logging
import socket
from collections import Counter, deque
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from tcpmapkit.listener import Listener, is_waiting
from tcpmapkit.seldom import Seldom
from tcpmapkit.workers.dealing import makes_room

if TYPE_CHECKING:
    from tcpmapkit.workers.crew import Crew
    from tcpmapkit.workers.member import Member
    from tcpmapkit.workers.turns import Timer, Turns

__all__ = ["ADMIN", "PAUSE", "Admission"]

ADMIN: Final = -1
"""The number of the listener of ``[admin]``; those of the configuration count from 0."""

PAUSE: Final = 1.0
"""Seconds for which accepting pauses when there is no room, unless a connection closes before."""

#: Connections accepted in a row from one socket before others have their turn.
_IN_A_ROW: Final = 64

_log = logging.getLogger(__name__)


class Admission:
    """Accepts for `listeners` (and `admin`), at most `limit` connections at a time, and deals them out to the
    workers; what the clients send is theirs to read."""

    def __init__(
        self, turns: Turns, crew: Crew, listeners: Sequence[Listener], admin: Listener | None, limit: int
    ) -> None:
        self._turns = turns
        self._crew = crew
        self.listeners: list[Listener] = []
        self.admin = admin
        self.limit = limit
        self._turned_away: Counter[Listener] = Counter()  # that no worker has been told of yet
        self._waiting: deque[tuple[Listener, socket.socket]] = deque()  # nobody could take them
        self._accepting = False
        self._open = False
        self._paused: Timer | None = None
        # While room is made: the workers that are yet to say what is idle, what the others have said, and who
        # is to close one.
        self._asked: set[int] = set()
        self._idle: dict[int, tuple[bool, float]] = {}
        self._closing: int | None = None
        self._said = Seldom()
        crew.on_able = self._deal_what_waits
        crew.on_ready.append(self._worker_came)
        crew.on_given_back = self._given_back
        crew.on.update(taken=self._reported, idle=self._told_of_idle, room=self._told_of_room)
        self.replace(listeners)

    def replace(self, listeners: Sequence[Listener]) -> None:
        """Accept for these from now on; those that are not among them any more are closed."""
        for old in self.listeners:
            if old not in listeners:
                self._unwatch(old)
                self._waiting = deque(one for one in self._waiting if not self._dropped(old, *one))
                old.close()
        self.listeners = list(listeners)
        for listener in listeners:
            listener.refused = partial(self._turn_away, listener)
        if self._accepting:
            for listener in listeners:
                self._watch(listener)

    @property
    def _all(self) -> list[Listener]:
        return [*self.listeners, *([self.admin] if self.admin is not None else ())]

    @staticmethod
    def _dropped(gone: Listener, listener: Listener, connection: socket.socket) -> bool:
        if listener is gone:
            connection.close()
        return listener is gone

    def bind(self) -> None:
        """Listen: from now on clients wait instead of being refused. Raises what `Listener.bind` does."""
        for listener in self._all:
            listener.bind()

    def start(self) -> None:
        """Begin to accept."""
        self._open = True
        self._resume()

    def close(self) -> None:
        """Accept nothing more, and listen no more."""
        self._open = False
        self._pause(None)
        for listener in self._all:
            self._unwatch(listener)
            listener.close()
        for _, connection in self._waiting:
            connection.close()
        self._waiting.clear()

    def abandon(self) -> None:
        """Close what a forked process has of this; the sockets of its parent go on listening."""
        for listener in self._all:
            for listening in listener.sockets:
                listening.close()
        for _, connection in self._waiting:
            connection.close()

    # Accepting.

    def _watch(self, listener: Listener) -> None:
        for listening in listener.sockets:
            self._turns.watch(listening, partial(self._acceptable, listener, listening))

    def _unwatch(self, listener: Listener) -> None:
        for listening in listener.sockets:
            self._turns.unwatch(listening)

    def _acceptable(self, listener: Listener, listening: socket.socket) -> None:
        for _ in range(_IN_A_ROW):
            if listener is not self.admin and self.connections >= self.limit:
                if is_waiting(listening):
                    self._ask_for_room()
                return
            if self._waiting or not self._crew.can_take:
                self._pause(PAUSE)
                return
            try:
                connection = listener.accept(listening)
            except OSError as error:
                self._say("resources", "cannot accept connections: %s", error.strerror)
                self._pause(PAUSE)
                return
            if connection is None:
                return
            self.deal(listener, connection)

    @property
    def connections(self) -> int:
        """How many there are."""
        return self._crew.connections + len(self._waiting)

    def deal(self, listener: Listener, connection: socket.socket) -> None:
        """Give a connection of this listener's to a worker; as soon as there is one, if there is none now."""
        worker = self._first_ready() if listener is self.admin else self._crew.next_in_turn()
        if worker is None:
            self._waiting.append((listener, connection))
            return
        number = ADMIN if listener is self.admin else self.listeners.index(listener)
        worker.hold(listener, connection, self._turns.clock())
        self._crew.tell(worker, {"deal": number}, connection)

    def _first_ready(self) -> Member | None:
        able = [member for member in self._crew.members if member.can_take]
        prompt = [member for member in able if not member.is_late(self._turns.clock())]
        return min(prompt or able, key=lambda member: member.number, default=None)

    def _pause(self, seconds: float | None, *, full: bool = False) -> None:
        """Accept nothing for so many seconds, or until something changes; None: for good. The operator is
        let in when it is `full`."""
        self._accepting = False
        for listener in self.listeners if full else self._all:
            self._unwatch(listener)
        if self._paused is not None:
            self._paused.cancel()
        self._paused = self._turns.later(seconds, self._resume) if seconds is not None else None

    def _resume(self) -> None:
        if self._paused is not None:
            self._paused.cancel()
            self._paused = None
        self._asked, self._idle, self._closing = set(), {}, None
        if not self._open or self._accepting:
            return
        self._accepting = True
        for listener in self._all:
            self._watch(listener)

    # Room.

    def _ask_for_room(self) -> None:
        """Ask each worker since when which of its connections has been idle, and have the longest of all
        closed. Accepting pauses meanwhile."""
        self._pause(PAUSE, full=True)
        now = self._turns.clock()
        self._asked = {
            member.number for member in self._crew.ready if member.connections and not member.is_late(now)
        }
        for member in self._crew.ready:
            if member.number in self._asked:
                self._crew.tell(member, {"idle": True})

    def _told_of_idle(self, member: Member, message: dict[str, Any]) -> None:
        if member.number in self._asked:
            self._asked.discard(member.number)
            if message["idle"] is not None:
                gives_way, since = message["idle"]
                self._idle[member.number] = bool(gives_way), float(since)
            if not self._asked:
                self._have_one_closed()

    def _have_one_closed(self) -> None:
        while self._idle:
            self._closing = number = makes_room(self._idle)
            del self._idle[number]
            for member in self._crew.ready:
                if member.number == number:
                    self._crew.tell(member, {"room": True})
                    return
        text = "%d connections and none of them idle: accepting pauses"
        self._say("full", text, self.connections)

    def _told_of_room(self, member: Member, message: dict[str, Any]) -> None:
        if member.number != self._closing:
            return
        self._closing = None
        if message["room"]:
            self._resume()
        else:
            self._have_one_closed()

    # Workers.

    def _reported(self, member: Member, message: dict[str, Any]) -> None:
        member.report(message)
        self._deal_what_waits()
        if self._paused is not None and self.connections < self.limit and self._crew.can_take:
            self._resume()

    def _deal_what_waits(self) -> None:
        while self._waiting and self._crew.can_take:
            self.deal(*self._waiting.popleft())

    def _worker_came(self, member: Member) -> None:
        self._deal_what_waits()
        if self._paused is not None:
            self._resume()

    def _given_back(self, given_back: list[tuple[Listener, socket.socket]]) -> None:
        for listener, connection in given_back:
            if self._open and (listener in self.listeners or listener is self.admin):
                self.deal(listener, connection)
            else:
                connection.close()
        if self._paused is not None:
            self._resume()

    # Words.

    def _turn_away(self, listener: Listener, host: str) -> None:
        """Somebody from elsewhere was closed: it is counted with what the workers count."""
        if not self._turned_away:
            self._turns.later(1.0, self._tell_of_turned_away)
        self._turned_away[listener] += 1
        endpoint = listener.config.endpoint
        self._say(f"refused {endpoint}", "%s: connection from %s closed: not in allow", endpoint, host)

    def _tell_of_turned_away(self) -> None:
        worker = self._first_ready()
        if worker is not None:
            times = [self._turned_away[listener] for listener in self.listeners]
            self._crew.tell(worker, {"turned_away": times})
        self._turned_away.clear()

    def _say(self, subject: str, text: str, *args: object) -> None:
        """Warn, once a minute for each subject."""
        self._said.log(_log, logging.WARNING, subject, self._turns.clock(), text, *args)
