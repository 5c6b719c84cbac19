"""A map's chain: steps asked in the operator's order until one answers.

The first outcome wins; a failure ends the walk unless its step says ``on_error``; when every step
misses, so does the chain. Whether a chain can wait is decided when it is compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import attrs

from tcpmapkit.query import Failure, Found, Miss, NotFound, Outcome, PermFail, Query, TempFail
from tcpmapkit.step import MISS, InlineStep, Step, WaitingStep
from tcpmapkit.step_answer import NotAsked, StepAnswer

__all__ = ["InlineChain", "WaitingChain", "compile_chain"]


@attrs.define
class _Walk:
    """What a walk along the chain has gathered so far."""

    ttl: float | None = None
    failure: Failure | None = None
    failed: str = ""

    def take(self, step: Step, answer: StepAnswer, query: Query) -> Outcome | None:
        """Weigh one step's answer; an outcome ends the walk.

        A failure ends it too, unless the step says ``on_error = "next"``: then only `Found` counts
        from there on, and the first failure stands otherwise.
        """
        if type(answer) is NotAsked:
            return None
        if type(answer) is TempFail or type(answer) is PermFail:
            if self.failure is None:
                self.failure, self.failed = answer, step.name
            if step.on_error == "next":
                return None
            query.answered_by = self.failed
            return self.failure
        ttl = answer.ttl
        if ttl is not None and (self.ttl is None or ttl < self.ttl):
            self.ttl = ttl
        if type(answer) is Miss:
            return None
        if type(answer) is Found:
            query.answered_by = step.name
            return answer if answer.ttl == self.ttl else attrs.evolve(answer, ttl=self.ttl)
        if self.failure is not None:
            return None
        query.answered_by = step.name
        return NotFound(self.ttl)

    def end(self, query: Query) -> Failure | Miss:
        """What the chain answers when no step did."""
        query.answered_by = self.failed
        return self.failure if self.failure is not None else Miss(self.ttl)


@attrs.define(eq=False, repr=False)
class InlineChain:
    """Steps none of which can wait."""

    steps: tuple[InlineStep, ...]
    can_wait: Literal[False] = attrs.field(default=False, init=False)

    def resolve(self, query: Query) -> Outcome | Miss:
        """The first outcome, or a miss with the smallest TTL that a step gave; never raises."""
        steps = iter(self.steps)
        for step in steps:
            answer = step.resolve(query)
            if answer is MISS or type(answer) is NotAsked:
                continue  # leaves nothing to be weighed with what comes
            if type(answer) is Found:
                query.answered_by = step.name
                return answer
            walk = _Walk()
            outcome = walk.take(step, answer, query)
            while outcome is None:
                following = next(steps, None)
                if following is None:
                    return walk.end(query)
                outcome = walk.take(following, following.resolve(query), query)
            return outcome
        query.answered_by = ""
        return MISS


@attrs.define(eq=False, repr=False)
class WaitingChain:
    """Steps some of which can wait. The ones in front that cannot are asked without a task (`begin`)."""

    steps: tuple[InlineStep | WaitingStep, ...]
    can_wait: Literal[True] = attrs.field(default=True, init=False)

    def begin(self, query: Query) -> Outcome | Callable[[], Any]:
        """Ask the leading steps that cannot wait: the outcome, or a coroutine function for the rest."""
        walk = _Walk()
        for number, step in enumerate(self.steps):
            if isinstance(step, WaitingStep):
                return lambda: self._go_on(query, walk, number)
            outcome = walk.take(step, step.resolve(query), query)
            if outcome is not None:
                return outcome
        raise AssertionError("a waiting chain without a step that can wait")

    async def _go_on(self, query: Query, walk: _Walk, number: int) -> Outcome | Miss:
        for step in self.steps[number:]:
            answer = await step.resolve(query) if isinstance(step, WaitingStep) else step.resolve(query)
            outcome = walk.take(step, answer, query)
            if outcome is not None:
                return outcome
        return walk.end(query)

    async def resolve(self, query: Query) -> Outcome | Miss:
        """As `InlineChain.resolve`."""
        outcome = self.begin(query)
        return await outcome() if callable(outcome) else outcome


def compile_chain(steps: Sequence[InlineStep | WaitingStep]) -> InlineChain | WaitingChain:
    """The chain of these steps, in this order."""
    inline = tuple(step for step in steps if isinstance(step, InlineStep))
    return InlineChain(inline) if len(inline) == len(steps) else WaitingChain(tuple(steps))
