"""Single flight: identical lookups under way are one lookup, whoever hangs up meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

from tcpmapkit.cache import Answer

__all__ = ["OVERDUE", "Answered", "Flight", "end_all"]

OVERDUE: Final = 0.25
"""Seconds past its deadline, or its cancellation, after which a lookup that ignores it is given up."""

_log = logging.getLogger(__name__)

#: Called once with the answer, from the event loop, never while the question is being asked.
Answered = Callable[[Answer], None]


class Flight:
    """One lookup that waits, and those who wait for it.

    Its task belongs to nobody's connection: it ends by itself or by `abandon`. What `after` has
    planned is called off when it lands.
    """

    __slots__ = ("_task", "_timers", "_waiters", "early", "landed")

    def __init__(self) -> None:
        self._waiters: list[Answered] = []
        self._timers: list[asyncio.TimerHandle] = []
        self._task: asyncio.Task[None] | None = None
        #: Whether those who wait were told something before the lookup was done.
        self.early = False
        #: Whether it is done, or was given up.
        self.landed = False

    def depart(self, lookup: Coroutine[Any, Any, None]) -> None:
        """Run the lookup in a task of its own; it ends by calling `land`."""
        self._task = asyncio.get_running_loop().create_task(lookup)

    def join(self, answered: Answered) -> None:
        """Wait for the answer too."""
        self._waiters.append(answered)

    @property
    def waiting(self) -> int:
        """How many wait for the answer."""
        return len(self._waiters)

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call something unless the lookup has landed by then."""
        self._timers.append(asyncio.get_running_loop().call_later(seconds, call))

    def tell(self, answer: Answer) -> None:
        """Answer everybody who waits now, while the lookup goes on."""
        self.early = True
        waiters, self._waiters = self._waiters, []
        for answered in waiters:
            try:
                answered(answer)
            except Exception:
                _log.exception("an answer could not be delivered")

    def land(self, answer: Answer) -> None:
        """The lookup is done, or was given up."""
        self.landed = True
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        self.tell(answer)

    def abandon(self) -> asyncio.Task[None] | None:
        """Cancel the lookup; the task, to be waited for by whoever cares."""
        if self._task is not None:
            self._task.cancel()
        return self._task


async def end_all(under_way: Iterable[Flight], answer: Answer) -> None:
    """End these; whoever waits for one that makes no answer of that is told `answer`."""
    flights = list(under_way)
    tasks = [task for flight in flights if (task := flight.abandon())]
    if tasks:
        await asyncio.wait(tasks, timeout=OVERDUE)
    for flight in flights:  # one had not begun, one ignores being cancelled
        if not flight.landed:
            flight.land(answer)
