"""``union``: all members' answers joined, equal ones once.

Postfix's unionmap keeps equal ones and separates by a comma, as this does by default. A member that
misses adds nothing; one that fails makes the whole fail, since half an answer is a wrong one.
"""

from __future__ import annotations

from typing import Annotated, Any

import attrs

from tcpmapkit import Chain, ConfigError, Found, Miss, PermFail, TempFail, hookimpl

Members = Annotated[tuple[Chain, ...], "help: the steps that are all asked"]
Separator = Annotated[str, "help: what stands between two answers"]


@attrs.define(eq=False)
class _Union:
    members: tuple[Chain, ...]
    separator: str

    def join(self, answers: list[Any]) -> Any:
        """One answer made of all of them."""
        values = [
            value
            for answer in answers
            if isinstance(answer, Found)
            for value in answer.values or (answer.value,)
        ]
        ttl = min((answer.ttl for answer in answers if answer and answer.ttl is not None), default=None)
        return Found.joined(values, self.separator, ttl) if values else Miss(ttl)


class InlineUnion(_Union):
    """A union none of whose members can wait."""

    def resolve(self, query: Any) -> Any:
        """All answers joined; the first failure ends it."""
        answers = []
        for member in self.members:
            answer = member.resolve(query)
            if isinstance(answer, (TempFail, PermFail)):
                return answer
            answers.append(answer)
        return self.join(answers)


class WaitingUnion(_Union):
    """A union with members that can wait; they are asked one after the other, as unionmap does."""

    async def resolve(self, query: Any) -> Any:
        """As `InlineUnion.resolve`."""
        answers = []
        for member in self.members:
            answer = await member.resolve(query) if member.can_wait else member.resolve(query)
            if isinstance(answer, (TempFail, PermFail)):
                return answer
            answers.append(answer)
        return self.join(answers)


def union(resolvers: Members, separator: Separator = ",") -> _Union:
    """The union of these members. Raises `ConfigError` for a separator that no reply can carry."""
    if not {"\0", "\r", "\n"}.isdisjoint(separator):
        raise ConfigError("a separator has no NUL, CR or LF", path=("separator",))
    waits = any(member.can_wait for member in resolvers)
    return WaitingUnion(resolvers, separator) if waits else InlineUnion(resolvers, separator)


@hookimpl
def register_resolvers(register: Any) -> None:
    register("union", union)
