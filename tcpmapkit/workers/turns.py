"""The parent's loop: descriptors, timers and signals, by `selectors`. No thread, and nothing that a fork
would have to be careful of."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

import attrs

__all__ = ["Timer", "Turns"]

#: Calls that may fail before there is a turn in which none does.
_MOST_FAILED: Final = 20

_log = logging.getLogger(__name__)


@attrs.define(eq=False)
class Timer:
    """Something to do later, unless it is cancelled."""

    call: Callable[[], None] | None

    def cancel(self) -> None:
        """Do nothing then."""
        self.call = None


class Turns:
    """Calls what is to be called, one after another. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        self._wake, self._woken = socket.socketpair()
        for end in (self._wake, self._woken):
            end.setblocking(False)
        self._before: dict[int, Any] = {}
        self._wakeup_before: int | None = None
        self._watched: dict[int, object] = {}
        self._ended = False
        self._failed = 0

    def watch(
        self, what: Any, readable: Callable[[], None], writable: Callable[[], None] | None = None
    ) -> None:
        """Have `readable` called whenever `what` can be read; and `writable`, when given, whenever it can
        be written. Replaces what was said of it before."""
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if writable else 0)
        self.unwatch(what)
        key = self._selector.register(what, events, (readable, writable))
        self._watched[key.fd] = key.data

    def unwatch(self, what: Any) -> None:
        """Call nothing for it any more."""
        with contextlib.suppress(KeyError, ValueError):
            del self._watched[self._selector.unregister(what).fd]

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call it once in so many seconds."""
        timer = Timer(call)
        heapq.heappush(self._timers, (self.clock() + seconds, next(self._numbers), timer))
        return timer

    def on_signals(self, numbers: Iterable[signal.Signals], call: Callable[[int], None]) -> None:
        """Call it, in its turn, with each of these signals that comes; `close` gives them back."""

        signals: deque[int] = deque()

        def came() -> None:
            with contextlib.suppress(BlockingIOError):
                self._woken.recv(4096)  # it only wakes: one that is full holds no more
            while signals:
                self._call(partial(call, signals.popleft()))

        self.watch(self._woken, came)
        self._wakeup_before = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        for number in numbers:
            self._before[number] = signal.signal(number, lambda number, _: signals.append(number))

    def run(self) -> None:
        """Go on until `end` is called."""
        while not self._ended:
            self.turn()

    def end(self) -> None:
        """Have `run` return after this turn."""
        self._ended = True

    def turn(self) -> None:
        """Wait for the next thing to do, and do all that there is to do then."""
        while self._timers and self._timers[0][2].call is None:
            heapq.heappop(self._timers)
        timeout = max(0.0, self._timers[0][0] - self.clock()) if self._timers else None
        failed = self._failed
        for key, events in self._selector.select(timeout):
            readable, writable = key.data
            if events & selectors.EVENT_WRITE and self._watched.get(key.fd) is key.data:
                self._call(writable)
            if events & selectors.EVENT_READ and self._watched.get(key.fd) is key.data:
                self._call(readable)
        now = self.clock()
        while self._timers and self._timers[0][0] <= now:
            call = heapq.heappop(self._timers)[2].call
            if call is not None:
                self._call(call)
        if self._failed == failed:
            self._failed = 0

    def _call(self, call: Callable[[], None]) -> None:
        """A bug in what is to be done now must not end what else there is to do, which is all mail; unless
        there is one in every turn."""
        try:
            call()
        except Exception:
            self._failed += 1
            if self._failed >= _MOST_FAILED:
                raise
            _log.critical("a bug of ours", exc_info=True)

    def close(self) -> None:
        """Give everything back."""
        if self._wakeup_before is not None:
            signal.set_wakeup_fd(self._wakeup_before)
        for number, before in self._before.items():
            signal.signal(number, before)
        self.abandon()

    def abandon(self) -> None:
        """Close what a forked process has of its parent's loop; that one's goes on."""
        self._selector.close()
        self._wake.close()
        self._woken.close()
