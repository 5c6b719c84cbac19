"""The circuit breaker of a step: a source that only fails is asked once a second until it answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import attrs

__all__ = ["PROBE_INTERVAL", "THRESHOLD", "Breaker"]

#: So many failures in a row open it.
THRESHOLD: Final = 20

#: Seconds between two lookups that are let through while it is open.
PROBE_INTERVAL: Final = 1.0


@attrs.define(eq=False)
class Breaker:
    """Whether a source is asked. `clock` gives seconds and never goes back.

    Only what is temporary counts as a failure; whatever else a source says, be it "permanently wrong",
    shows that it is there. A lookup that is let through while the breaker is open owes it nothing: one
    that hangs or is cancelled does not keep the next from being let through a second later. An answer
    closes it whenever its lookup began, since it comes now; failures of lookups that were under way when
    it opened change nothing.
    """

    clock: Callable[[], float]
    #: Failures since the last answer.
    failures: int = attrs.field(default=0, init=False)
    #: By the clock; None while it is closed.
    opened_at: float | None = attrs.field(default=None, init=False)
    _next_probe: float = attrs.field(default=0.0, init=False)

    @property
    def state(self) -> Literal["closed", "open"]:
        """``"open"`` while the source is asked once a second only."""
        return "closed" if self.opened_at is None else "open"

    def admits(self) -> bool:
        """Whether a lookup may ask the source now."""
        if self.opened_at is None:
            return True
        now = self.clock()
        if now >= self._next_probe:
            self._next_probe = now + PROBE_INTERVAL
            return True
        return False

    def failed(self) -> bool:
        """Note a failure; whether that opens it."""
        self.failures += 1
        if self.opened_at is not None or self.failures < THRESHOLD:
            return False
        self.opened_at = self.clock()
        self._next_probe = self.opened_at + PROBE_INTERVAL
        return True

    def answered(self) -> None:
        """Note an answer, which closes it."""
        self.failures = 0
        self.opened_at = None
