"""One step of a chain: what a line of TOML makes of a resolver.

A step is a line of TOML around a resolver object: what it is asked (folding, special and partial
keys, ``domains``, the ``key`` template), for how long, and what its answer means (``result``,
``authoritative``, ``on_error``). A step never raises. Whether one can wait is decided when the
chain is built; nobody asks "is this awaitable?" for a query.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final, Literal

import attrs

from tcpmapkit.breaker import Breaker
from tcpmapkit.counters import LOWEST, FailureKind, StepCounters
from tcpmapkit.hookspecs import hookimpl
from tcpmapkit.keys import SPECIAL_KEYS, covered
from tcpmapkit.query import Failure, Found, Miss, NotFound, Outcome, PermFail, Query, TempFail
from tcpmapkit.step_answer import NotAsked, StepAnswer, StepTrace
from tcpmapkit.step_failures import INTERNAL_ERROR, NO_VALUE, NOT_ASKED, TIMED_OUT, meaning
from tcpmapkit.step_log import StepLog
from tcpmapkit.template import Template
from tcpmapkit.threads import SmallPool

__all__ = ["MISS", "SLOW_CALL", "InlineStep", "OnError", "Step", "WaitingStep"]

OnError = Literal["fail", "next", "ignore"]

#: An inline call over this many seconds holds up every other client: it is logged and counted.
SLOW_CALL: Final = 0.020

#: What shows that a source is there.
_ANSWERS: Final = frozenset({type(None), Found, NotFound, Miss, PermFail})

#: A miss of which no more is known: what a bare None means. The common case, so it is told by identity.
MISS: Final = Miss()

#: What a resolver lets escape by mistake: a cancellation of something of its own, which nobody asked
#: this lookup to take, or an exit, which is not a resolver's to ask for.
_STRAY: Final = (asyncio.CancelledError, SystemExit)


_PARTIAL: Final = NotAsked("partial key")
_SPECIAL: Final = NotAsked("special key")
_ELSEWHERE: Final = NotAsked("not in its domains")


@attrs.define(eq=False, repr=False)
class Step:
    """What both kinds of step have; `resolver` is the object, the rest its line of TOML.

    `fold` is what the key goes through first, None for a type that gets it as it came; `domains`
    is None for all; `key` and `result` are None where the template changes nothing; `timeout` is
    in seconds; `leaf` is false for a resolver made of steps or maps, whose failures are logged where
    they come from.
    """

    name: str
    resolver: Any
    logger: logging.Logger
    fold: Callable[[str], str] | None = None
    partial_keys: bool = True
    special_keys: bool = True
    domains: frozenset[str] | None = None
    bare_is_domain: bool = False
    key: Template | None = None
    result: Template | None = None
    on_error: OnError = "fail"
    authoritative: bool = False
    timeout: float | None = None
    leaf: bool = True
    counters: StepCounters = attrs.Factory(StepCounters)
    log: StepLog = attrs.field(init=False)
    _asked_all: bool = attrs.field(init=False)  # every key there is, folded or not

    @_asked_all.default
    def _is_asked_all(self) -> bool:
        return self.partial_keys and self.special_keys and self.domains is None

    @log.default
    def _make_log(self) -> StepLog:
        return StepLog(self.name, self.logger)

    def _prepare(self, query: Query) -> Query | NotAsked:
        """The query as this step's templates see it: its key folded; or that it is not for this step."""
        key = query.key
        if query.partial and not self.partial_keys:
            return _PARTIAL
        if not self.special_keys and key in SPECIAL_KEYS:
            return _SPECIAL
        if self.domains is not None and not covered(key, self.domains, self.bare_is_domain):
            return _ELSEWHERE
        fold = self.fold
        if fold is not None and query.unchanged_by is not fold:
            folded = fold(key)
            if folded != key:
                return query.with_key(folded)
            query.unchanged_by = fold
        return query

    def _to_ask(self, own: Query) -> Query | None:
        """What the resolver is asked; None when the ``key`` template has no text for this query."""
        if self.key is None:
            return own
        key = self.key(own)
        if key is None:
            return None
        # An attribute of a request comes in the client's case.
        return own.with_key(key if self.fold is None else self.fold(key))

    def _finish(self, answer: object, own: Query) -> Outcome | Miss:
        """The resolver's answer as the chain takes it."""
        if type(answer) is Found:
            if self.result is not None:
                return self._apply_result(self.result, answer, own)
            self.counters.found += 1
            return answer
        if answer is None:
            return NotFound() if self.authoritative else MISS
        if type(answer) is Miss:
            return NotFound(answer.ttl) if self.authoritative else answer
        if type(answer) is NotFound:
            return answer
        if type(answer) is TempFail:
            return self._fail(answer, "temporary", own)
        if type(answer) is PermFail:
            return self._fail(answer, "permanent", own)
        self.log.bug(own, "%s answered a %s, which is no outcome: a bug of it", type(answer).__name__)
        return self._fail(INTERNAL_ERROR, "internal", own)

    def _apply_result(self, result: Template, found: Found, own: Query) -> Outcome | Miss:
        texts = [result.result(own, value) for value in found.values or (found.value,)]
        try:
            joined = Found.joined((text for text in texts if text), found.separator, found.ttl)
        except ValueError:
            self.log.failed_lookup(NO_VALUE, own)
            return self._count(NO_VALUE, "temporary")
        if type(joined) is Found:
            self.counters.found += 1
            return joined
        return NotFound(found.ttl) if self.authoritative else Miss(found.ttl)

    def _fail(self, failure: Failure, kind: FailureKind, own: Query) -> Outcome | Miss:
        """A failure of the resolver's, as the chain takes it."""
        if self.leaf and kind != "internal":
            self.log.failed_lookup(failure, own)
        return self._count(failure, kind)

    def _count(self, failure: Failure, kind: FailureKind) -> Outcome | Miss:
        self.counters.failures[kind] += 1
        return MISS if self.on_error == "ignore" else failure

    def _raised(self, error: BaseException, own: Query) -> Outcome | Miss:
        """An exception as the failure that it means."""
        meant = meaning(error)
        if meant is not None:
            return self._fail(*meant, own)
        self.log.bug(own, "%s raised %s", type(error).__name__, error=error)
        return self._fail(INTERNAL_ERROR, "internal", own)

    def _traced(self, query: Query, asked: Query | None, answer: StepAnswer, began: float) -> StepAnswer:
        assert query.trace is not None
        key = asked.key if asked is not None else query.key
        query.trace.append(StepTrace(self.name, key, answer, query.clock() - began, query.map))
        return answer


@attrs.define(eq=False, repr=False)
class InlineStep(Step):
    """A step that answers at once."""

    @hookimpl
    def resolve(self, query: Query) -> StepAnswer:
        """An outcome, a miss, or that this step was not asked; never raises."""
        clock = query.clock
        began = clock()
        own = query if self._asked_all and query.unchanged_by is self.fold else self._prepare(query)
        asked: Query | None = None
        answer: StepAnswer
        if type(own) is NotAsked:
            answer = own
        else:
            try:
                asked = own if self.key is None else self._to_ask(own)
                given = self.resolver.resolve(asked) if asked is not None else None
                answer = MISS if given is None and not self.authoritative else self._finish(given, own)
            except Exception as error:
                answer = self._raised(error, own)
            except _STRAY as error:
                answer = self._raised(error, own)
            elapsed = clock() - began
            latency = self.counters.latency
            if elapsed <= LOWEST:
                latency.quick += 1
                latency.total += elapsed
            else:
                latency.observe(elapsed)
                if elapsed > SLOW_CALL:
                    self.counters.slow_calls += 1
                    self.log.held_up(own, elapsed)
        return answer if query.trace is None else self._traced(query, asked, answer, began)


@attrs.define(eq=False, repr=False)
class WaitingStep(Step):
    """A step that can wait: an ``async def resolve``, or a blocking one in threads (`pool`). `breaker`
    spares a source that only fails."""

    pool: SmallPool | None = None
    breaker: Breaker | None = None
    #: Seconds past its time for a resolver made of steps: theirs are up by then, but those that cannot
    #: wait are still to be asked.
    grace: float = 0.0

    @hookimpl
    async def resolve(self, query: Query) -> StepAnswer:
        """As `InlineStep.resolve`, within the step's time-out."""
        began = query.clock()
        own = self._prepare(query)
        asked: Query | None = None
        answer: StepAnswer
        if isinstance(own, NotAsked):
            answer = own
        else:
            asked = self._to_ask(own)
            answer = self._finish(None, own) if asked is None else await self._ask(asked, own, began)
        return answer if query.trace is None else self._traced(query, asked, answer, began)

    async def _ask(self, asked: Query, own: Query, began: float) -> Outcome | Miss:
        left = asked.time_left()
        limit = left
        if self.timeout is not None:
            limit = min(left, self.timeout)
        elif self.on_error != "fail":
            limit = left / 2  # a source that hangs must not starve its fallback
        if limit <= 0 and not self.grace:
            self.counters.not_called += 1
            return self._count(TIMED_OUT, "timed_out")  # by those before it, which have told
        if self.breaker is not None and not self.breaker.admits():
            self.log.not_asked()
            self.counters.not_called += 1
            return self._count(NOT_ASKED, "breaker")
        if limit < left:
            asked = asked.with_deadline(asked.clock() + limit)
        try:
            async with asyncio.timeout(max(limit, 0.0) + self.grace if limit != float("inf") else None):
                if self.pool is not None:
                    answer = await self.pool.run(self.resolver.resolve, asked)
                else:
                    answer = await self.resolver.resolve(asked)
        except Exception as error:
            taken = self._raised(error, own)
        except _STRAY as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            taken = self._raised(error, own)
        else:
            if type(answer) in _ANSWERS:
                self._answered(own)
            taken = self._finish(answer, own)
        elapsed = asked.clock() - began
        self.counters.latency.observe(elapsed)
        if self.leaf:
            self.log.waited(own, elapsed)
        return taken

    def _answered(self, own: Query) -> None:
        """The source is there."""
        if self.breaker is not None:
            self.breaker.answered()
        if self.log.failing_since is not None:
            self.log.answered(own)

    def _fail(self, failure: Failure, kind: FailureKind, own: Query) -> Outcome | Miss:
        if type(failure) is PermFail:
            self._answered(own)
            return super()._fail(failure, kind, own)
        if self.leaf:
            self.log.failed(failure, own)
        # Threads that are all taken say nothing of a source, which may be quick.
        if self.breaker is not None and kind != "busy" and self.breaker.failed():
            self.counters.openings += 1
            self.log.opened(failure, self.breaker.failures, own)
        return self._count(failure, kind)
