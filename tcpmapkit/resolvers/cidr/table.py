"""Reading cidr_table(5) files."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import attrs

from tcpmapkit.resolvers.cidr.first_match import FirstMatch
from tcpmapkit.resolvers.cidr.networks import FAMILIES, Addresses, Interval, parse_pattern
from tcpmapkit.resolvers.postfix_lines import WHITE_SPACE, logical_lines

__all__ = ["Block", "arrange", "read_rules"]

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
    rules: Sequence[Addresses], answers: Sequence[int], blocks: Sequence[Block] = ()
) -> dict[int, FirstMatch]:
    """The answers of the rules, for each family; a block of one family holds no address of the other."""

    def of(family: int, addresses: Addresses) -> Sequence[Interval]:
        return addresses.intervals if addresses.family == family else ()

    return {
        family: FirstMatch.of(
            [of(family, addresses) for addresses in rules],
            answers,
            [(of(family, block.addresses), block.first, block.end) for block in blocks],
        )
        for family in FAMILIES
    }


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
