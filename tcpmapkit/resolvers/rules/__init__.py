"""``rules``: the first rule whose conditions all hold answers a policy request with its action.

Conditions are about the request's attributes; the key is never looked at. An attribute that the
request has not is an empty one: Postfix sends every attribute, empty when it is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import attrs

from tcpmapkit import ConfigError, Found, Map, Miss, PermFail, TempFail, hookimpl
from tcpmapkit.resolvers.regex.effort import MatchFailed, TooMuchEffort
from tcpmapkit.resolvers.rules.conditions import Condition, Test


def _action(instance: object, attribute: Any, value: str) -> None:
    Found(value)
    if not value.strip():
        raise ValueError("an action is not blank")


@attrs.define(eq=False)
class Rule:
    """One rule; without conditions it always holds."""

    action: str = attrs.field(validator=_action, metadata={"help": "what Postfix is told, as in access(5)"})
    when: tuple[Condition, ...] = attrs.field(
        default=(), metadata={"help": "the conditions, which must all hold; none always do"}
    )


@attrs.frozen
class _Compiled:
    """A rule as it is walked: the conditions that need no asking first, whatever their order in the
    file, so that no map is asked, and none can fail, for a rule that cannot hold."""

    number: int
    tests: tuple[tuple[str, Test], ...]
    maps: tuple[tuple[str, Map], ...]
    answer: Found

    @classmethod
    def of(cls, number: int, rule: Rule) -> _Compiled:
        return cls(
            number,
            tuple((one.attribute, one.test) for one in rule.when if one.test is not None),
            tuple((one.attribute, one.map) for one in rule.when if one.map is not None),
            Found(rule.action),
        )


@attrs.define(eq=False)
class _Rules:
    """`gave_up` counts the patterns that reached the match limit, `too_much` the requests that failed
    since several did."""

    rules: tuple[_Compiled, ...]
    gave_up: int = attrs.field(default=0, init=False)
    too_much: int = attrs.field(default=0, init=False)
    _context: Any = attrs.field(default=None, init=False, repr=False)

    async def start(self, context: Any) -> None:
        """Take the log."""
        self._context = context

    def left(self, query: Any) -> Iterable[_Compiled]:
        """The rules whose conditions hold, those on maps aside. Raises `TooMuchEffort`."""
        attributes = query.attributes
        for rule in self.rules:
            try:
                for name, test in rule.tests:
                    if not test(attributes.get(name, ""), query):
                        break
                else:
                    yield rule
            except MatchFailed as error:
                self._give_up(rule, error)

    def _give_up(self, rule: _Compiled, error: MatchFailed) -> None:
        self.gave_up += 1
        self._warn("rule %d: %s: the rule did not hold (%d so far)", rule.number, error, self.gave_up)

    def fail(self, error: TooMuchEffort) -> TempFail:
        """The answer to a request that takes too much."""
        self.too_much += 1
        self._warn("%s: the lookup failed (%d so far)", error, self.too_much)
        return TempFail("the rules take too long over this request")

    def _warn(self, text: str, *args: object) -> None:
        if self._context is not None:
            self._context.warn_seldom(text, text, *args)


def _question(query: Any, attribute: str) -> Any:
    """The query whose key is an attribute's value, which is no part of another key."""
    question = query.with_key(query.attributes.get(attribute, ""))
    question.partial = False
    return question


def _least(ttl: float | None, answer: Any) -> float | None:
    other = answer.ttl if answer is not None else None
    return ttl if other is None else other if ttl is None else min(ttl, other)


def _holds(rule: _Compiled, ttl: float | None) -> Found:
    return rule.answer if ttl is None else attrs.evolve(rule.answer, ttl=ttl)


class InlineRules(_Rules):
    """Rules that ask no map that can wait."""

    def resolve(self, query: Any) -> Any:
        """The action of the first rule that holds, or a miss; the first failure of a map ends it. Its
        TTL is the smallest that a map gave."""
        try:
            return self._first(query)
        except TooMuchEffort as error:
            return self.fail(error)

    def _first(self, query: Any) -> Any:
        ttl = None
        for rule in self.left(query):
            for attribute, map in rule.maps:
                answer = map.resolve(_question(query, attribute))
                if isinstance(answer, (TempFail, PermFail)):
                    return answer
                ttl = _least(ttl, answer)
                if not isinstance(answer, Found):
                    break
            else:
                return _holds(rule, ttl)
        return Miss(ttl)


class WaitingRules(_Rules):
    """Rules that ask maps that can wait, one after the other."""

    async def resolve(self, query: Any) -> Any:
        """As `InlineRules.resolve`."""
        try:
            return await self._first(query)
        except TooMuchEffort as error:
            return self.fail(error)

    async def _first(self, query: Any) -> Any:
        ttl = None
        for rule in self.left(query):
            for attribute, map in rule.maps:
                question = _question(query, attribute)
                answer = await map.resolve(question) if map.can_wait else map.resolve(question)
                if isinstance(answer, (TempFail, PermFail)):
                    return answer
                ttl = _least(ttl, answer)
                if not isinstance(answer, Found):
                    break
            else:
                return _holds(rule, ttl)
        return Miss(ttl)


def rules(
    rules: Annotated[tuple[Rule, ...], "help: the rules in order; the first that holds answers"],
) -> _Rules:
    """These rules. Raises `ConfigError` when there are none."""
    if not rules:
        raise ConfigError("there are no rules in it", path=("rules",))
    compiled = tuple(_Compiled.of(number, rule) for number, rule in enumerate(rules, 1))
    waits = any(map.can_wait for rule in compiled for _, map in rule.maps)
    return WaitingRules(compiled) if waits else InlineRules(compiled)


@hookimpl
def register_resolvers(register: Any) -> None:
    """Offer the type."""
    register("rules", rules, folded=True, in_memory=True, special_keys=True)
