"""Rules that require no text of a key, tried several at once: a search for any of them says that none
matches, which is what it says of most keys. What may match is then tried rule by rule as ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, Protocol

import attrs

from tcpmapkit.resolvers.regex.effort import MatchFailed
from tcpmapkit.resolvers.regex.tree import Bytes, Group, Node, Reference, Repeat, contains
from tcpmapkit.resolvers.regex.tree import Sequence as Items

__all__ = ["LONGEST_KEY", "Part", "begins_with_few", "parts"]

#: Longer keys are tried rule by rule.
LONGEST_KEY = 64

# So many are worth a search of their own, so many are in one.
_FEWEST, _MOST = 4, 16
# A pattern that can begin at any byte is found out faster by itself.
_FEW_BYTES = 24


class _Rule(Protocol):
    @property
    def condition(self) -> Any: ...


def begins_with_few(tree: Node) -> bool:
    """Whether it can be searched for together with others, and only begin with few bytes."""
    first = _first(tree)
    return first is not None and first.bit_count() <= _FEW_BYTES and not contains(tree, Reference)


def _first(node: Node) -> int | None:
    match node:
        case Bytes(allowed):
            return allowed
        case Group(_, item):
            return _first(item)
        case Repeat(item, least) if least:
            return _first(item)
        case Items((item, *_)):
            return _first(item)
    return None


@attrs.frozen(eq=False)
class Part:
    """Rules that are always tried, by their numbers, in order. `search` raises `MatchFailed` when it cannot
    say whether one of them matches; None: each has to be tried."""

    numbers: tuple[int, ...]
    search: Callable[[bytes], Any] | None

    @property
    def last(self) -> int:
        """The number of the last of them."""
        return self.numbers[-1]

    def left(self, key: bytes) -> tuple[int, ...]:
        """The rules that the key may match."""
        if self.search is None:
            return self.numbers
        try:
            return self.numbers if self.search(key) is not None else ()
        except MatchFailed:
            return self.numbers


def parts(always: Sequence[int], rule: Callable[[int], _Rule]) -> tuple[Part, ...]:
    """The rules that are always tried, in parts; none when no two of them can be tried at once."""
    made = list(_parts(always, rule))
    return tuple(made) if any(part.search is not None for part in made) else ()


def _parts(always: Sequence[int], rule: Callable[[int], _Rule]) -> Iterator[Part]:
    def kind(number: int) -> Any:
        condition = rule(number).condition
        return None if condition.negate else condition.pattern.kind

    for alike, run in groupby(always, kind):
        numbers = tuple(run)
        if alike is None or len(numbers) < _FEWEST:
            yield Part(numbers, None)
            continue
        size = -(-len(numbers) // -(-len(numbers) // _MOST))  # of about equal length
        for start in range(0, len(numbers), size):
            some = numbers[start : start + size]
            patterns = [rule(number).condition.pattern for number in some]
            yield Part(some, patterns[0].any_of(patterns))
