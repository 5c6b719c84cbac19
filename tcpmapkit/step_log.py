"""What is logged of a step: that it began to fail and that it has recovered, not each lookup that failed."""

from __future__ import annotations

import logging
from typing import Final

import attrs

from tcpmapkit.query import Failure, Query
from tcpmapkit.seldom import Seldom
from tcpmapkit.shown import texts_of
from tcpmapkit.step_failures import in_full

__all__ = ["StepLog"]

#: A wait of so many seconds is named when the lookup was slow.
_LONG: Final = 0.1

_FAILING: Final = "%s is failing: %s"
_OPEN: Final = "%s has failed %d times in a row: it is asked once a second until it answers; the last was: %s"
_RECOVERED: Final = "%s has recovered after %.1f s; failed lookups: %d"


@attrs.define(eq=False)
class StepLog:
    """The log of one step; each kind of line once a minute at most, with a count of the rest.

    A source that fails now and then has two lines a minute: that it is failing, and that it has
    recovered. One that begins to fail less than a minute after the last such line has its line when the
    minute is over and it has not recovered meanwhile.
    """

    name: str
    logger: logging.Logger
    #: Since when the source has failed without an answer, by the query's clock; None while it works.
    failing_since: float | None = attrs.field(default=None, init=False)
    _failures: int = attrs.field(default=0, init=False)
    _told: bool = attrs.field(default=False, init=False)
    _said: Seldom = attrs.field(factory=Seldom, init=False)

    def say(
        self,
        level: int,
        subject: str,
        query: Query,
        text: str,
        *args: object,
        exc_info: BaseException | None = None,
        **fields: object,
    ) -> bool:
        """Log it unless there was a line about `subject` within the last minute; whether it was logged.

        The texts of `query` are hidden in the line. `fields` are those of a JSON line.
        """
        now = query.clock()
        if self._said.leaves_out(subject, now):
            return False
        hidden = tuple(texts_of(query))
        extra = {"map": query.map, "step": self.name, "hidden": hidden, **fields}
        return self._said.log(self.logger, level, subject, now, text, *args, exc_info=exc_info, extra=extra)

    def bug(self, query: Query, text: str, *args: object, error: BaseException | None = None) -> None:
        """A mistake of the resolver's: a line for each type of exception, with its traceback."""
        subject = "rubbish" if error is None else type(error).__name__
        self._told |= self.say(logging.ERROR, subject, query, text, self.name, *args, exc_info=error)

    def held_up(self, query: Query, elapsed: float) -> None:
        """A call that should be quick held up everybody for `elapsed` seconds."""
        text = "%s held up the server for %.0f ms"
        self.say(logging.WARNING, "slow", query, text, self.name, elapsed * 1000, elapsed=round(elapsed, 3))

    def waited(self, query: Query, elapsed: float) -> None:
        """It took `elapsed` seconds: noted for the line about the whole lookup, if that was slow."""
        if elapsed > _LONG:
            whole = query.origin or query
            whole.waited += ((query.map, self.name, elapsed),)

    def failed_lookup(self, failure: Failure, query: Query) -> None:
        """A failure that is this lookup's own and says nothing of others."""
        text = "%s: a lookup failed: %s"
        outcome = type(failure).__name__
        self.say(logging.WARNING, outcome, query, text, self.name, in_full(failure), outcome=outcome)

    def failed(self, failure: Failure, query: Query) -> None:
        """The source failed: a line when it had worked before."""
        if self.failing_since is None:
            self.failing_since = query.clock()
        self._failures += 1
        self.logger.debug("%s: a lookup failed: %s", self.name, in_full(failure))
        if not self._told:
            outcome = type(failure).__name__
            self._told = self.say(
                logging.WARNING, "failing", query, _FAILING, self.name, in_full(failure), outcome=outcome
            )

    def not_asked(self) -> None:
        """A lookup failed since the breaker is open."""
        self._failures += 1

    def opened(self, failure: Failure, times: int, query: Query) -> None:
        """The breaker has opened."""
        self._told |= self.say(logging.WARNING, "open", query, _OPEN, self.name, times, in_full(failure))

    def answered(self, query: Query) -> None:
        """The source answers: a line when it was said to be failing."""
        if self.failing_since is None:
            return
        elapsed = query.clock() - self.failing_since
        if self._told:
            extra = {"map": query.map, "step": self.name, "elapsed": round(elapsed, 3)}
            self.logger.warning(_RECOVERED, self.name, elapsed, self._failures, extra=extra)
        self.failing_since, self._failures, self._told = None, 0, False
