"""What is logged of a map: nothing of a lookup that goes well."""

from __future__ import annotations

import logging
from collections.abc import Callable

import attrs

from tcpmapkit.cache import Answer
from tcpmapkit.query import Query
from tcpmapkit.seldom import Seldom
from tcpmapkit.shown import shown_key

__all__ = ["MapLog"]


@attrs.define(eq=False)
class MapLog:
    """The log of the map `name`, each kind of line once a minute at most with a count of the rest.

    A lookup that waited for more than `slow` seconds is told of; 0: none is.
    """

    name: str
    clock: Callable[[], float]
    slow: float = 1.0
    _logger: logging.Logger = attrs.field(init=False)
    _said: Seldom = attrs.field(factory=Seldom, init=False)

    @_logger.default
    def _get_logger(self) -> logging.Logger:
        return logging.getLogger(f"tcpmapkit.map.{self.name}")

    def stale(self) -> None:
        """A stale answer is served."""
        self._say(
            logging.WARNING, "stale", "map %s: the chain fails, and a stale answer is served", self.name
        )

    def given_up(self) -> None:
        """A lookup goes on after its end."""
        text = "map %s: a lookup ignored its deadline and was given up"
        self._say(logging.ERROR, "given up", text, self.name)

    def raised(self, error: BaseException) -> None:
        """A bug of ours."""
        text = "map %s: a chain raised, which no chain may"
        self._say(logging.ERROR, type(error).__name__, text, self.name, exc_info=error)

    def landed(self, query: Query, answer: Answer, began: float) -> None:
        """A lookup that waited since `began` is over: a line when it was slow, with what took long."""
        elapsed = self.clock() - began
        if elapsed <= self.slow or not self.slow:
            return
        key, outcome = shown_key(query.key), type(answer.outcome).__name__
        by = query.answered_by or "no step"
        end = f"a stale answer, after a failure of {by}" if answer.stale else f"{outcome} of {by}"
        where = ", ".join(
            f"{step} {seconds:.2f} s" if map == self.name else f"{map}/{step} {seconds:.2f} s"
            for map, step, seconds in query.waited
        )
        text = "map %s: the lookup of %s took %.2f s and ended with %s (%s)"
        extra = {
            "map": self.name,
            "step": answer.resolver if answer.stale else query.answered_by,
            "key": key,
            "outcome": outcome,
            "elapsed": round(elapsed, 3),
        }
        where = where or "no step took long"
        self._say(logging.WARNING, "slow", text, self.name, key, elapsed, end, where, extra=extra)

    def _say(
        self,
        level: int,
        subject: str,
        text: str,
        *args: object,
        exc_info: BaseException | None = None,
        extra: dict[str, object] | None = None,
    ) -> None:
        extra = extra or {"map": self.name}
        self._said.log(
            self._logger, level, subject, self.clock(), text, *args, exc_info=exc_info, extra=extra
        )
