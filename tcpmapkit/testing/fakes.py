"""Fakes: a resolver that answers what it is told to, a clock that stands still."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import attrs

from tcpmapkit.query import Found, Query

__all__ = ["FakeClock", "FakeResolver", "FakeWaitingResolver"]

#: Seconds to wait for what a test says will happen, before it fails.
_PATIENCE: Final = 10.0


class FakeClock:
    """A clock that stands still until `advance`; give it where a clock is taken.

    >>> clock = FakeClock()
    >>> question = query("a", time_left=5, clock=clock)
    >>> clock.advance(4)
    >>> question.time_left()
    1.0
    """

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


@attrs.define(eq=False)
class FakeResolver:
    """Answers from `answers`, at once, and notes in `asked` which keys it was asked.

    An answer is whatever a resolver may return, a str for `Found`, or an exception to be raised;
    every other key is a miss.

    >>> fake = FakeResolver({"a": "1", "b": NotFound(), "c": OSError("bug")})
    >>> ask_now(fake, "other"), fake.asked
    (Miss(ttl=None), ['other'])
    """

    answers: Mapping[str, Any] = attrs.Factory(dict)
    asked: list[str] = attrs.field(factory=list, init=False)

    def resolve(self, query: Query) -> Any:
        """The answer meant for this key."""
        self.asked.append(query.key)
        return self._answer(query.key)

    def _answer(self, key: str) -> Any:
        answer = self.answers.get(key)
        if isinstance(answer, BaseException):
            raise answer
        return Found(answer) if isinstance(answer, str) else answer


@attrs.define(eq=False)
class FakeWaitingResolver(FakeResolver):
    """As `FakeResolver`, but able to wait: a key in `gates` is answered when its event is set.

    slow = FakeWaitingResolver({"a": "1"}, gates={"a": (gate := asyncio.Event())})
    lookup = asyncio.create_task(ask(slow, "a"))
    await slow.was_asked()
    gate.set()
    """

    gates: Mapping[str, asyncio.Event] = attrs.Factory(dict)
    _news: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)

    async def resolve(self, query: Query) -> Any:
        """The answer meant for this key, once its gate is open."""
        self.asked.append(query.key)
        self._news.set()
        if query.key in self.gates:
            await self.gates[query.key].wait()
        return self._answer(query.key)

    async def was_asked(self, times: int = 1) -> None:
        """Wait until it has been asked so many times."""
        async with asyncio.timeout(_PATIENCE):
            while len(self.asked) < times:
                self._news.clear()
                await self._news.wait()
