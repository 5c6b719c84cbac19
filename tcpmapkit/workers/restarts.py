"""How soon a worker that died is replaced. Pure."""

from __future__ import annotations

from typing import Final

import attrs

__all__ = ["LONGEST_WAIT", "LONGEST_WAIT_AFTER_SERVING", "LONG_ENOUGH", "Restarts"]

LONG_ENOUGH: Final = 10.0
"""Seconds after which a worker's death says nothing about the next one's."""

LONGEST_WAIT: Final = 5.0
"""Seconds until the next try, when workers die before they can serve: a table is broken, say."""

LONGEST_WAIT_AFTER_SERVING: Final = 1.0
"""The same when the worker had served: mail waits for it, and one that is killed again and again for
want of memory starts no faster for being left alone."""

_FIRST_WAIT: Final = 0.1


@attrs.define
class Restarts:
    """What became of one worker's predecessors: `count` of them were replaced, of which `early` in a row
    died before they had run for `LONG_ENOUGH`."""

    count: int = 0
    early: int = 0

    def wait(self, ran: float, *, served: bool, last: bool) -> float:
        """Seconds until a worker that `ran` for so many seconds is replaced.

        `served`: it had been ready. `last`: no other serves, so that all mail waits.
        """
        self.count += 1
        if ran >= LONG_ENOUGH:
            self.early = 0
            return 0.0
        self.early += 1
        longest = (_FIRST_WAIT if last else LONGEST_WAIT_AFTER_SERVING) if served else LONGEST_WAIT
        return float(min(_FIRST_WAIT * 2 ** min(self.early - 1, 10), longest))
