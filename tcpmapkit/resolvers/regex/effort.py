"""How much work one lookup may be: no key, whatever stands in it, stalls the server."""

from __future__ import annotations

import time
from collections.abc import Callable

import attrs

__all__ = ["MATCH_LIMIT", "Effort", "MatchFailed", "TooMuchEffort"]

#: Steps that one pattern may take over one key, unless the operator says otherwise.
MATCH_LIMIT = 1_000_000

# What a lookup that tries many rules may cost in seconds of CPU time, and for each rule beside that: ten
# times what an ordinary rule takes. No step is counted where no rule reaches its limit, hence the clock.
_SECONDS = 0.03
_SECONDS_PER_RULE = 10e-6


class MatchFailed(Exception):
    """The engine gave up on this key, at its match limit: neither a match nor none."""


class TooMuchEffort(Exception):
    """The rules of a table take too long over this key, each within its limit."""


@attrs.define(eq=False)
class Effort:
    """The work of one lookup after the other, over all its rules.

    As many steps as two rules may take are spent on rules that need many; with those the lookup ends.
    """

    match_limit: int = MATCH_LIMIT
    spent: int = attrs.field(default=0, init=False)
    _clock: Callable[[], float] = time.thread_time
    _until: float = attrs.field(default=0.0, init=False)

    def begin(self) -> None:
        """A lookup begins."""
        self.spent = 0

    def begin_many(self) -> None:
        """A lookup begins that may try many rules; `tried` is called now and then."""
        self.spent = 0
        self._until = self._clock() + _SECONDS

    def spend(self, steps: int) -> None:
        """Called before `steps` steps are taken. Raises `TooMuchEffort`."""
        self.spent += steps
        if self.spent > 2 * self.match_limit:
            raise TooMuchEffort(f"its rules need more than {2 * self.match_limit} steps together")

    def tried(self, rules: int) -> None:
        """So many rules have been tried. Raises `TooMuchEffort` when they took too long."""
        if self._clock() > self._until + rules * _SECONDS_PER_RULE:
            raise TooMuchEffort("its rules took too long")
