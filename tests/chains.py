"""Steps and chains for the tests of the core, without configuration or plugins around them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from tcpmapkit.chain import compile_chain
from tcpmapkit.generation import Generation
from tcpmapkit.keys import split_address
from tcpmapkit.maps import Map
from tcpmapkit.query import Miss, Outcome, Query
from tcpmapkit.step import InlineStep, Step, WaitingStep
from tcpmapkit.testing import FakeClock

LOGGER = logging.getLogger("tcpmapkit.tests")


class Says:
    """A resolver that gives one answer to everything: a value, what a function of the query gives, or
    an exception, which it raises. `queries` are those that it was asked."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.queries: list[Query] = []

    @property
    def keys(self) -> list[str]:
        return [query.key for query in self.queries]

    def resolve(self, query: Query) -> Any:
        self.queries.append(query)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer(query) if callable(self.answer) else self.answer


class SaysLater(Says):
    """The same, after one turn of the event loop and when `gate` is open."""

    def __init__(self, answer: Any = None) -> None:
        super().__init__(answer)
        self.gate = asyncio.Event()
        self.gate.set()

    async def resolve(self, query: Query) -> Any:
        self.queries.append(query)
        await asyncio.sleep(0)
        await self.gate.wait()
        self.queries.pop()
        return super().resolve(query)


class Hangs(SaysLater):
    """Never answers, until it is cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.gate.clear()


def inline(answer: Any = None, name: str = "inline", **options: Any) -> InlineStep:
    resolver = answer if hasattr(answer, "resolve") else Says(answer)
    return InlineStep(name=name, resolver=resolver, logger=LOGGER, **options)


def waiting(answer: Any = None, name: str = "waiting", **options: Any) -> WaitingStep:
    resolver = answer if hasattr(answer, "resolve") else SaysLater(answer)
    return WaitingStep(name=name, resolver=resolver, logger=LOGGER, **options)


def question(
    key: str = "joe@example.org",
    time_left: float = 5.0,
    clock: Callable[[], float] | None = None,
    **about: Any,
) -> Query:
    clock = clock or FakeClock()
    return Query(key, "test", deadline=clock() + time_left, clock=clock, split=split_address, **about)


async def walk(steps: Sequence[Step], query: Query | None = None) -> Outcome | Miss:
    """What the chain of these steps answers."""
    chain = compile_chain(steps)
    query = query or question()
    answer: Any = chain.resolve(query)
    return await answer if chain.can_wait else answer


def a_map(
    *steps: Step,
    clock: FakeClock,
    name: str = "test",
    generation: dict[str, Any] | None = None,
    **options: Any,
) -> Map:
    return Map(
        name,
        Generation(compile_chain(steps), **(generation or {})),
        clock=clock,
        split=split_address,
        **options,
    )


async def turns(times: int = 20) -> None:
    """Let the event loop run what is ready."""
    for _ in range(times):
        await asyncio.sleep(0)
