"""Conditions on one attribute of a policy request; what is written is compiled when it is read."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Annotated, Any

import attrs

from tcpmapkit import ConfigError, Map
from tcpmapkit.resolvers.cidr import FirstMatch, parse_address, parse_network
from tcpmapkit.resolvers.regex.effort import MATCH_LIMIT, Effort
from tcpmapkit.resolvers.regex.engine import best_engine
from tcpmapkit.resolvers.regex.rules import Condition as Matching
from tcpmapkit.resolvers.regex.rules import check_no_delimiters, compile_pattern
from tcpmapkit.resolvers.regex.tree import PatternError, Untranslatable

__all__ = ["Condition", "Test"]

#: Whether a condition holds for an attribute's value, asked in the lookup that the query belongs to. Raises
#: `MatchFailed` (regex) when that cannot be said, and `TooMuchEffort`.
Test = Callable[[str, Any], bool]

_OPERATORS: dict[str, Callable[[int, int], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    "==": operator.eq,
    ">=": operator.ge,
    ">": operator.gt,
}
_COMPARISON = re.compile(r"([! ]*)(<=|>=|==|<|>|=) *([+-]?[0-9]{1,18}) *")
# More digits than any number has, and fewer than int() refuses.
_NUMBER = re.compile(r"[+-]?[0-9]{1,1000}")


def _negatable(text: str) -> tuple[bool, str]:
    """Whether an odd number of ``!`` stands in front, and what follows them."""
    rest = text.lstrip("!")
    return (len(text) - len(rest)) % 2 == 1, rest


def equal(text: str) -> Test:
    """Equality without regard to case, as of the keys of Postfix's tables."""
    negate, rest = _negatable(text)
    wanted = rest.casefold()
    return lambda value, query: (value.casefold() == wanted) is not negate


def matching(text: str) -> Test:
    """A match of a regular expression as pcre_table(5) has it. Raises `ConfigError`."""
    negate, pattern = _negatable(text)
    if not pattern or "\0" in pattern:
        raise ConfigError("NUL in a pattern" if pattern else "there is no regular expression in it")
    latin = pattern.encode().decode("latin-1")
    effort = Effort(MATCH_LIMIT)
    try:
        check_no_delimiters(pattern)
        compiled = compile_pattern(latin, "", "pcre", best_engine(effort), captures=False)
    except PatternError as error:
        raise ConfigError(str(error)) from None
    except Untranslatable as error:
        raise ConfigError(f"cannot be run as Postfix runs it: {error}") from None
    holds = Matching(compiled, negate, 0).holds

    def test(value: str, query: Any) -> bool:
        work = effort.begin(query)
        try:
            effort.tried()
            # Bytes that are not UTF-8 have become lone surrogates; no value may raise here.
            return holds(value.encode(errors="surrogatepass"))
        finally:
            work.end()

    return test


def inside(written: str | tuple[str, ...]) -> Test:
    """Whether the value is an address in one of some networks. Raises `ConfigError`."""
    negations, networks, errors = set(), [], []
    for index, text in enumerate((written,) if isinstance(written, str) else written):
        negate, network = _negatable(text.strip())
        negations.add(negate)
        try:
            networks.append(parse_network(network.strip()))
        except ValueError as error:
            errors.append(ConfigError(str(error), path=() if isinstance(written, str) else (index,)))
    if not negations:
        errors.append(ConfigError("there is no network in it"))
    if len(negations) > 1:
        errors.append(
            ConfigError(
                "some of the networks are negated and some are not",
                hint="write two conditions, one with those inside and one with those outside",
            )
        )
    if errors:
        raise ConfigError.several(errors)
    (negate,) = negations
    families = {
        family: FirstMatch.of(
            [one.intervals for one in networks if one.family == family], [0] * len(networks)
        )
        for family in {one.family for one in networks}
    }

    def test(value: str, query: Any) -> bool:
        try:
            family, number = parse_address(value)
        except ValueError:
            return negate
        found = families.get(family)
        return (found is not None and found.find(number) is not None) is not negate

    return test


def comparing(text: str) -> Test:
    """A comparison with a whole number. Raises `ConfigError`."""
    match = _COMPARISON.fullmatch(text)
    if match is None:
        raise ConfigError("not a comparison with a whole number", hint='such as "> 50", ">= 1", "= 0"')
    negate = match[1].count("!") % 2 == 1
    compare, limit = _OPERATORS[match[2]], int(match[3])
    is_number = _NUMBER.fullmatch
    return lambda value, query: (is_number(value) is not None and compare(int(value), limit)) is not negate


def _attribute(instance: object, attribute: Any, name: str) -> None:
    if not name or "=" in name or " " in name or not name.isprintable():
        raise ValueError("an attribute's name is one word without =")


def _compiled_by(compile: Callable[[Any], Test]) -> Any:  # noqa: A002
    def validate(instance: object, attribute: Any, written: Any) -> None:
        if written is not None:
            compile(written)

    return validate


@attrs.define(eq=False)
class Condition:
    """`attribute`, and exactly one of the others. `test` says whether it holds; None for a `map`, which
    has to be asked. Raises `ConfigError`."""

    attribute: Annotated[str, "attribute"] = attrs.field(
        validator=_attribute, metadata={"help": "the attribute of the request; an absent one is empty"}
    )
    equals: str | None = attrs.field(
        default=None, metadata={"help": "the text that it is, in upper or lower case"}
    )
    regex: str | None = attrs.field(
        default=None,
        validator=_compiled_by(matching),
        metadata={"help": "a regular expression that matches it, as in pcre_table(5)"},
    )
    cidr: str | tuple[str, ...] | None = attrs.field(
        default=None,
        validator=_compiled_by(inside),
        metadata={"help": "the network that it is an address of, or several"},
    )
    compare: str | None = attrs.field(
        default=None,
        validator=_compiled_by(comparing),
        metadata={"help": "<, <=, =, >= or > and a whole number"},
    )
    map: Annotated[Map | None, "negatable"] = attrs.field(
        default=None, metadata={"help": "the map that it is found in"}
    )
    test: Test | None = attrs.field(init=False, default=None, repr=False)

    def __attrs_post_init__(self) -> None:
        written = [self.equals, self.regex, self.cidr, self.compare, self.map]
        if sum(one is not None for one in written) != 1:
            raise ConfigError("a condition has exactly one of equals, regex, cidr, compare and map")
        if self.equals is not None:
            self.test = equal(self.equals)
        elif self.regex is not None:
            self.test = matching(self.regex)
        elif self.cidr is not None:
            self.test = inside(self.cidr)
        elif self.compare is not None:
            self.test = comparing(self.compare)
