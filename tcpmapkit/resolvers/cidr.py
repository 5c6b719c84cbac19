"""``cidr``: the first network that holds the address; a cidr_table(5) file or inline rules."""

from __future__ import annotations

import heapq
import re
import socket
from bisect import bisect_right
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import attrs

from tcpmapkit import ConfigError, Found, PermFail, TempFail, hookimpl
from tcpmapkit.resolvers.postfix_lines import WHITE_SPACE, logical_lines, read_table, table_answer

Answer = Found | TempFail | PermFail

#: First and last address, both included.
Interval = tuple[int, int]

_BITS: dict[int, int] = {socket.AF_INET: 32, socket.AF_INET6: 128}
_KEYWORD = re.compile(r"(if|endif)(?![0-9a-z])", re.ASCII | re.IGNORECASE)
_NEGATIONS = re.compile(r"[!\s]*", re.ASCII)


def parse_address(text: str) -> tuple[int, int]:
    """The family (AF_INET, AF_INET6) of an address and its number; as inet_pton(3), no names, no ``%eth0``.

    Raises `ValueError` when it is none.
    """
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        return family, int.from_bytes(socket.inet_pton(family, text))
    except OSError:
        raise ValueError(f"no address: {text!r}") from None


@attrs.frozen
class Addresses:
    """The addresses, all of one family, that a pattern or a nest of ``if`` stands for."""

    family: int
    intervals: tuple[Interval, ...]

    def negated(self) -> Addresses:
        """Every other address of the family."""
        gaps, begin = [], 0
        for first, last in self.intervals:
            if begin < first:
                gaps.append((begin, first - 1))
            begin = last + 1
        end = (1 << _BITS[self.family]) - 1
        return Addresses(self.family, (*gaps, (begin, end)) if begin <= end else tuple(gaps))

    def within(self, other: Addresses | None) -> Addresses:
        """Those that are in `other` too; None is every address there is."""
        if other is None:
            return self
        if other.family != self.family:
            return Addresses(self.family, ())
        both = ((max(a, c), min(b, d)) for a, b in self.intervals for c, d in other.intervals)
        return Addresses(self.family, tuple((first, last) for first, last in both if first <= last))


def parse_network(text: str) -> Addresses:
    """A network or address as cidr_table(5) writes it, ``[`` and ``]`` around the address allowed.

    Raises `ValueError` with the mistake.
    """
    if text.startswith("["):
        pattern, bracket, rest = text[1:].partition("]")
        if not bracket:
            raise ValueError(f"missing ']' character after \"{text}\"")
        if rest and not rest.startswith("/"):
            raise ValueError(f'garbage after "[{pattern}]"')
        if rest:
            slash, mask = "/", rest[1:]
        else:
            pattern, slash, mask = pattern.partition("/")
    else:
        pattern, slash, mask = text.partition("/")
    if not slash:
        try:
            family, number = parse_address(pattern)
        except ValueError:
            raise ValueError(f'bad address pattern: "{pattern}"') from None
        return Addresses(family, ((number, number),))
    network = f'"{pattern}/{mask}"'
    if not (mask.isascii() and mask.isdigit()):
        raise ValueError(f"bad mask value in {network}")
    bits = _BITS[socket.AF_INET6 if ":" in pattern else socket.AF_INET]
    # Postfix keeps the length in one byte (cidr_match.h): /264 is a /8 to it, so it is one here.
    length = min(int(mask.lstrip("0")[:20] or "0"), 2**63 - 1) & 0xFF
    if length > bits:
        raise ValueError(f"bad mask length in {network}")
    try:
        family, number = parse_address(pattern)
    except ValueError:
        raise ValueError(f"bad network value in {network}") from None
    hosts = (1 << (bits - length)) - 1
    if number & hosts:
        meant = socket.inet_ntop(family, (number & ~hosts).to_bytes(bits // 8))
        raise ValueError(
            f'non-null host address bits in {network}, perhaps you should use "{meant}/{length}" instead'
        )
    return Addresses(family, ((number, number + hosts),))


def _negatable(text: str) -> tuple[bool, str]:
    """Whether an odd number of ``!`` stands before the pattern, and the pattern."""
    signs = _NEGATIONS.match(text).group()  # type: ignore[union-attr]  # it matches the empty text too
    return signs.count("!") % 2 == 1, text[len(signs) :]


def _pattern(negate: bool, text: str) -> Addresses:
    if not text:
        raise ValueError("no address pattern")
    network = parse_network(text)
    return network.negated() if negate else network


def read_rules(text: str, warn: Callable[[int, str], object]) -> list[tuple[Addresses, str]]:
    """The rules of a cidr_table(5), each with the addresses for which it is asked, and its result.

    What Postfix skips is skipped; `warn` is told the line and why.
    """
    rules: list[tuple[Addresses, str]] = []
    nest: list[tuple[int, Addresses]] = []
    for number, line in logical_lines(text, warn):
        keyword = _KEYWORD.match(line)
        around = nest[-1][1] if nest else None
        try:
            if keyword is None:
                negate, rest = _negatable(line)
                parts = re.split(r"\s+", rest.rstrip(WHITE_SPACE), maxsplit=1, flags=re.ASCII)
                addresses = _pattern(negate, parts[0])
                if len(parts) < 2:
                    raise ValueError("no lookup result")
                rules.append((addresses.within(around), parts[1]))
                continue
            rest = line[keyword.end() :]
            if keyword.group().lower() == "if":
                negate, rest = _negatable(rest)
                nest.append((number, _pattern(negate, rest.rstrip(WHITE_SPACE)).within(around)))
            elif rest.strip(WHITE_SPACE):
                raise ValueError("garbage after ENDIF")
            elif not nest:
                raise ValueError("ENDIF without IF")
            else:
                nest.pop()
        except ValueError as error:
            warn(number, f"{error}: skipping this rule")
    for number, _ in reversed(nest):
        warn(number, "IF has no matching ENDIF")
    return rules


@attrs.frozen
class FirstMatch:
    """The answer of each address of one family: `begins[i]` up to the next begin answers `answers[i]`.

    The rules laid out side by side, so that a lookup is one bisection however many there are.
    """

    begins: tuple[int, ...] = (0,)
    answers: tuple[Answer | None, ...] = (None,)

    @classmethod
    def of(cls, rules: Iterable[tuple[tuple[Interval, ...], Answer]]) -> FirstMatch:
        """`rules` in order; where several hold an address, the first counts."""
        opening: list[tuple[int, int, int]] = []
        answer_of: list[Answer] = []
        for index, (intervals, answer) in enumerate(rules):
            answer_of.append(answer)
            opening += ((first, index, last) for first, last in intervals)
        opening.sort()
        borders = sorted({0, *(first for first, _, _ in opening), *(last + 1 for _, _, last in opening)})
        begins: list[int] = []
        answers: list[Answer | None] = []
        open_rules: list[tuple[int, int]] = []  # a heap of (index, last address)
        position = 0
        for border in borders:
            while position < len(opening) and opening[position][0] <= border:
                _, index, last = opening[position]
                heapq.heappush(open_rules, (index, last))
                position += 1
            while open_rules and open_rules[0][1] < border:
                heapq.heappop(open_rules)
            winner = answer_of[open_rules[0][0]] if open_rules else None
            if not answers or answers[-1] is not winner:
                begins.append(border)
                answers.append(winner)
        return cls(tuple(begins), tuple(answers))

    def find(self, number: int) -> Answer | None:
        """The answer of one address, None when no rule holds it."""
        return self.answers[bisect_right(self.begins, number) - 1]


@attrs.frozen
class Rule:
    """One inline rule."""

    network: str = attrs.field(metadata={"help": "a network or an address; ! before it negates"})
    result: str = attrs.field(metadata={"help": "the value of the addresses in it"})


@attrs.define(eq=False)
class Cidr:
    """Exactly one of `rules` and `path`. The first rule that holds the address counts, as cidr_table(5)
    says; a key that is no address is a miss.

    Raises `ConfigError` for a mistake in `rules`; in a file, what Postfix skips with a warning is
    skipped with a warning.
    """

    rules: tuple[Rule, ...] | None = attrs.field(
        default=None, metadata={"help": "the rules in order, each {network, result}"}
    )
    path: Path | None = attrs.field(default=None, metadata={"help": "a cidr_table(5) file"})
    _families: dict[int, FirstMatch] = attrs.field(init=False, factory=dict, repr=False)

    def __attrs_post_init__(self) -> None:
        if (self.rules is None) == (self.path is None):
            raise ConfigError("cidr takes either rules = [{network, result}] or path = ...")
        parsed: list[tuple[Addresses, Answer]] = []
        for index, rule in enumerate(self.rules or ()):
            try:
                addresses = _pattern(*_negatable(rule.network.rstrip(WHITE_SPACE)))
            except ValueError as error:
                raise ConfigError(str(error), path=("rules", index, "network")) from None
            try:
                parsed.append((addresses, Found(rule.result)))
            except ValueError as error:
                raise ConfigError(str(error), path=("rules", index, "result")) from None
        self._arrange(parsed)

    def _arrange(self, rules: Iterable[tuple[Addresses, Answer]]) -> None:
        rules = list(rules)
        self._families = {
            family: FirstMatch.of(
                (found.intervals, answer) for found, answer in rules if found.family == family
            )
            for family in _BITS
        }

    async def start(self, context: Any) -> None:
        """Read the table. Raises `ConfigError` when it cannot be read."""
        import asyncio

        if self.path is not None:
            await asyncio.to_thread(self._read, self.path, context)

    def _read(self, path: Path, context: Any) -> None:
        def warn(line: int, message: str) -> None:
            context.logger.warning("cidr map %s, line %d: %s", path, line, message)

        rules = read_rules(read_table(path), warn)
        self._arrange((addresses, table_answer(result)) for addresses, result in rules)

    def resolve(self, query: Any) -> Answer | None:
        """The answer of the first rule that holds the address, or a miss."""
        try:
            family, number = parse_address(query.key)
        except ValueError:
            return None
        return self._families[family].find(number)


@hookimpl
def register_resolvers(register: Any) -> None:
    register("cidr", Cidr, folded=False, partial_keys=False, special_keys=True, in_memory=True)
