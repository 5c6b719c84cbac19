"""``pipe``: each answer is the next step's key, as Postfix's pipemap does.

A member that misses makes the pipe miss, one that fails makes it fail. The answer is the last
member's; its TTL is the smallest that a member gave.
"""

from __future__ import annotations

from typing import Annotated, Any

import attrs

from tcpmapkit import Chain, Found, Miss, NotFound, hookimpl

Members = Annotated[tuple[Chain, ...], "help: the steps, the first of which is asked the key itself"]


@attrs.define(eq=False)
class _Pipe:
    members: tuple[Chain, ...]

    @staticmethod
    def next_query(query: Any, answer: Any, least: float | None) -> tuple[Any, float | None]:
        """The query for the next member, and the smallest TTL so far."""
        return query.with_key(answer.value), _least(least, answer.ttl)


def _least(one: float | None, other: float | None) -> float | None:
    return min((ttl for ttl in (one, other) if ttl is not None), default=None)


def _with_ttl(answer: Any, least: float | None) -> Any:
    if answer is None:
        return Miss(least)
    ttl = _least(least, answer.ttl)
    if isinstance(answer, (Found, NotFound, Miss)) and ttl != answer.ttl:
        return attrs.evolve(answer, ttl=ttl)
    return answer


class InlinePipe(_Pipe):
    """A pipe none of whose members can wait."""

    def resolve(self, query: Any) -> Any:
        """The last member's answer; the first member's that is not found."""
        least, answer = None, None
        for number, member in enumerate(self.members):
            if number:
                query, least = self.next_query(query, answer, least)
            answer = member.resolve(query)
            if type(answer) is not Found:
                break
        return _with_ttl(answer, least)


class WaitingPipe(_Pipe):
    """A pipe with members that can wait."""

    async def resolve(self, query: Any) -> Any:
        """As `InlinePipe.resolve`."""
        least, answer = None, None
        for number, member in enumerate(self.members):
            if number:
                query, least = self.next_query(query, answer, least)
            answer = await member.resolve(query) if member.can_wait else member.resolve(query)
            if type(answer) is not Found:
                break
        return _with_ttl(answer, least)


def pipe(resolvers: Members) -> _Pipe:
    """The pipe through these members."""
    waits = any(member.can_wait for member in resolvers)
    return WaitingPipe(resolvers) if waits else InlinePipe(resolvers)


@hookimpl
def register_resolvers(register: Any) -> None:
    register("pipe", pipe)
