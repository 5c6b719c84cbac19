"""Reading cidr_table(5) files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TypeVar

import attrs

from tcpmapkit.resolvers.cidr.first_match import FirstMatch
from tcpmapkit.resolvers.cidr.networks import FAMILIES, Addresses, parse_pattern
from tcpmapkit.resolvers.postfix_lines import WHITE_SPACE, logical_lines

__all__ = ["Block", "arrange", "read_rules"]

_Answer = TypeVar("_Answer")

_KEYWORD = re.compile(r"(if|endif)(?![0-9a-z])", re.ASCII | re.IGNORECASE)
# White space may stand between the signs and the network, and does between that and the result.
_RULE = re.compile(r"([!\s]*)(\S*)(?:\s+(.+))?", re.ASCII | re.DOTALL)


@attrs.define(eq=False)
class Block:
    """`if` ... `endif`: the rules from number `first` to before `end` count for `addresses` only."""

    addresses: Addresses
    first: int
    end: int = 0


def arrange(
    rules: Iterable[tuple[Addresses, _Answer]], blocks: Iterable[Block] = ()
) -> dict[int, FirstMatch[_Answer]]:
    """Each family's rules; a block of one family holds no address of the other."""
    rules, blocks = list(rules), list(blocks)
    found = {}
    for family in FAMILIES:
        of_family: list[tuple[tuple[tuple[int, int], ...], _Answer]] = []
        before = [0]  # how many rules of the family stand before each
        for addresses, answer in rules:
            if addresses.family == family:
                of_family.append((addresses.intervals, answer))
            before.append(len(of_family))
        found[family] = FirstMatch.of(
            of_family,
            (
                (
                    block.addresses.intervals if block.addresses.family == family else (),
                    before[block.first],
                    before[block.end],
                )
                for block in blocks
            ),
        )
    return found


def read_rules(
    text: str, warn: Callable[[int, str], object]
) -> tuple[list[tuple[Addresses, str]], list[Block]]:
    """The rules of a cidr_table(5), each with the addresses of its pattern and its result, and its blocks.

    What Postfix skips is skipped; `warn` is told the line and why.
    """
    rules: list[tuple[Addresses, str]] = []
    blocks: list[Block] = []
    nest: list[tuple[int, Block]] = []
    for number, line in logical_lines(text, warn):
        keyword = _KEYWORD.match(line)
        try:
            if keyword is None:
                written, pattern, result = _RULE.fullmatch(line.rstrip(WHITE_SPACE)).groups()  # type: ignore[union-attr]
                addresses = parse_pattern(written + pattern)
                if result is None:
                    raise ValueError("no lookup result")
                rules.append((addresses, result))
                continue
            rest = line[keyword.end() :]
            if keyword.group().lower() == "if":
                nest.append((number, Block(parse_pattern(rest.rstrip(WHITE_SPACE)), len(rules))))
                blocks.append(nest[-1][1])
            elif rest.strip(WHITE_SPACE):
                raise ValueError("garbage after ENDIF")
            elif not nest:
                raise ValueError("ENDIF without IF")
            else:
                nest.pop()[1].end = len(rules)
        except ValueError as error:
            warn(number, f"{error}: skipping this rule")
    for number, block in reversed(nest):
        block.end = len(rules)
        warn(number, "IF has no matching ENDIF")
    return rules, blocks
