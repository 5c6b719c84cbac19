"""How much work one lookup may be: no key, whatever stands in it, stalls the server.

A lookup may ask several tables, by a chain, a union, a pipe, other maps, the conditions of a policy. What
matching patterns has taken is therefore kept with the lookup (`Query.work`), not with a table.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import attrs

__all__ = ["MATCH_LIMIT", "Effort", "MatchFailed", "TooMuchEffort", "Work"]

#: Steps that one pattern may take over one key, unless the operator says otherwise.
MATCH_LIMIT = 1_000_000

# The parts of a limit that are spent at once, and so many limits a lookup has.
_PARTS = 16
_LIMITS = 2

# No step is counted where no pattern comes near its limit, so many that are tried are timed: in seconds, and
# for a table of very many rules three times what an ordinary one takes. The time of the thread is dear to
# ask for, and asked only when so much time has passed by the clock that costs nothing.
_SECONDS = 0.02
_SECONDS_PER_RULE = 3e-6
_SECONDS_UNTIMED = 0.005
_BETWEEN_CLOCKS = 4

_passing: Callable[[], float] = time.perf_counter
_of_thread: Callable[[], float] = time.thread_time


class MatchFailed(Exception):
    """The engine gave up on this key, at its match limit: neither a match nor none."""


class TooMuchEffort(Exception):
    """The patterns that a lookup tries take too long over its key, each within its limit."""


@attrs.define(eq=False)
class Work:
    """What matching patterns has taken of one lookup so far, while it waited for something else aside.

    `spent` is in parts of a limit. `left` is how many patterns may be tried before `look` is called.
    """

    spent: int = 0
    left: int = _BETWEEN_CLOCKS
    used_up: str = ""
    _tried: int = 0
    _seconds: float = 0.0
    _clock: Callable[[], float] | None = None
    _since: float = 0.0

    def begin(self) -> None:
        """A table is asked. Raises `TooMuchEffort` when nothing is left for it."""
        if self.used_up:
            raise TooMuchEffort(self.used_up)
        if self._clock is not None:
            self._since = self._clock()

    def end(self) -> None:
        """The table has answered."""
        if self._clock is not None:
            self._seconds += self._clock() - self._since

    def look(self, scale: float) -> None:
        """Called for every few patterns. Raises `TooMuchEffort` when those so far took too long."""
        self._tried += _BETWEEN_CLOCKS
        self.left = _BETWEEN_CLOCKS
        if self._clock is None:
            self._time_by(_passing)
            return
        seconds = self._seconds + self._clock() - self._since
        if self._clock is _passing:
            if seconds > _SECONDS_UNTIMED:
                self._time_by(_of_thread)
        elif seconds > max(_SECONDS * scale, _SECONDS_PER_RULE * self._tried):
            self._fail("the patterns tried take too long together")

    def spend(self, parts: int, scale: float) -> None:
        """Called before so many parts of a limit are spent on one pattern. Raises `TooMuchEffort`."""
        self.spent += parts
        if self.spent > _LIMITS * _PARTS:
            self._fail(f"several patterns need more than {_LIMITS} times the match limit together")
        if self._clock is not _of_thread:
            self._time_by(_of_thread)
        self.look(scale)

    def _time_by(self, clock: Callable[[], float]) -> None:
        self._clock, self._since, self._seconds = clock, clock(), 0.0

    def _fail(self, reason: str) -> None:
        self.used_up = reason
        raise TooMuchEffort(reason)


@attrs.define(eq=False)
class Effort:
    """What a table's patterns may take: `match_limit` steps each, and together what `work`, which is the
    present lookup's, has left."""

    match_limit: int = MATCH_LIMIT
    work: Work = attrs.field(factory=Work, init=False)

    def begin(self, query: Any) -> Work:
        """The table is asked, in the lookup that `query` belongs to; call `end` of what is returned.
        Raises `TooMuchEffort` when nothing is left for it."""
        first = query.origin or query
        work: Work | None = first.work
        if work is None:
            work = first.work = Work()
        else:
            work.begin()
        self.work = work
        return work

    @property
    def scale(self) -> float:
        """How many times the usual time patterns may take, since the operator gave them more steps."""
        return max(1.0, self.match_limit / MATCH_LIMIT)

    def look(self) -> None:
        """As `Work.look`."""
        self.work.look(self.scale)

    def tried(self) -> None:
        """One more pattern is tried. Raises `TooMuchEffort`."""
        work = self.work
        work.left -= 1
        if work.left <= 0:
            work.look(self.scale)

    def spend(self, parts: int) -> int:
        """Called before `parts` sixteenths of the limit are spent: how many steps that is. Raises
        `TooMuchEffort`."""
        self.work.spend(parts, self.scale)
        return self.match_limit * parts // _PARTS
