"""One pass over the keys: what is asked next, until when, and what comes of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs

from tcpmapkit.bench.figures import Figures
from tcpmapkit.protocols.framing import ProtocolError
from tcpmapkit.query import Found, NotFound, Outcome, TempFail

__all__ = ["Keys", "Pass"]

#: Seconds between two looks at how far it is.
_LOOK: Final = 0.1


@attrs.define(eq=False)
class Keys:
    """The keys as they were given, and as the requests in which they are asked.

    `expected` is what each key in it shall give, None for "not found".
    """

    keys: Sequence[str]
    requests: Sequence[bytes]
    expected: Mapping[str, str | None] = attrs.Factory(dict)


class Pass:
    """A pass over `keys` in the order of the numbers `order`, from its beginning again when it is through.

    It is over after `limit` lookups, `seconds` of time, or `stop`. `decode` says what a reply means;
    `watch` is told every tenth of a second. `clock` gives seconds.
    """

    def __init__(
        self,
        keys: Keys,
        order: Sequence[int],
        *,
        limit: int,
        seconds: float,
        decode: Callable[[bytes], Outcome],
        slowest: int = 10,
        watch: Callable[[Pass], Any] = lambda _: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.requests = keys.requests
        self.clock = clock
        self.figures = Figures(slowest)
        self.asked = 0
        self._keys = keys
        self._order = order
        self._limit = limit
        self._seconds = seconds
        self._decode = decode
        self._watch = watch
        self._began = clock()
        self._look = self._began + _LOOK
        self._own = 0.0
        self._since: float | None = None  # when it began to do work of its own
        self._stopped = False

    def next(self) -> int | None:
        """The number of the key that is to be asked now; None when the pass is over."""
        if self.over:
            return None
        number = self._order[self.asked % len(self._order)]
        self.asked += 1
        return number

    def begin(self) -> float:
        """The time now, when a key is asked; what was done since the last reply is no part of the pass."""
        now = self.clock()
        if self._since is not None:
            self._own += now - self._since
            self._since = None
        return now

    def stop(self) -> None:
        """Ask nothing more."""
        self._stopped = True

    @property
    def over(self) -> bool:
        """Whether nothing more is to be asked."""
        return self._stopped or self.asked >= self._limit or self.clock() - self._began >= self._seconds

    def take(self, number: int, began: float, reply: bytes, source: str = "") -> None:
        """Count the reply to a key that was asked at `began`."""
        ended = self._since = self.clock()
        try:
            outcome = self._decode(reply)
        except ProtocolError as error:
            outcome = TempFail(f"malformed reply: {error}")
        self._note(number, ended - began, outcome, source)

    def fail(self, number: int, began: float, reason: str) -> None:
        """Count a key that has had no reply."""
        self._note(number, self.clock() - began, TempFail(reason), "")

    def _note(self, number: int, seconds: float, outcome: Outcome, source: str) -> None:
        key = self._keys.keys[number]
        self.figures.note(key, seconds, outcome, source)
        if key in self._keys.expected and isinstance(outcome, Found | NotFound):
            expected = self._keys.expected[key]
            value = outcome.value if isinstance(outcome, Found) else None
            if value != expected:
                self.figures.note_wrong(key, f"{_said(value)}, not {_said(expected)}")
        if self.clock() >= self._look:
            self._look = self.clock() + _LOOK
            self._watch(self)

    def end(self, *, alone: bool) -> Figures:
        """The figures. `alone`: nobody else worked meanwhile, so what the pass did itself is not time."""
        self.figures.elapsed = self.begin() - self._began - (self._own if alone else 0.0)
        return self.figures

    @property
    def progress(self) -> float:
        """How much of it is done, from 0 to 1."""
        by_time = (self.clock() - self._began) / self._seconds if self._seconds else 1.0
        return min(max(by_time, self.asked / self._limit if self._limit else 1.0), 1.0)


def _said(value: str | None) -> str:
    return "not found" if value is None else repr(value)
