"""The rules of a table laid out side by side."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Generic, TypeVar

import attrs

from tcpmapkit.resolvers.cidr.networks import Interval

__all__ = ["FirstMatch"]

_Answer = TypeVar("_Answer")

#: An address, what changes there (a rule, or beyond the last rule a block), and whether it holds less
#: (1) or more (-1) from there on.
_Change = tuple[int, int, int]

# To sort holds the interpreter: so many at once take it a few milliseconds.
_SORTED_AT_ONCE = 8192


class _Unmet:
    """How many conditions each rule waits for, in a tree with the least of them at the top: the first
    rule that waits for none is found, and a range of rules changed, in logarithmic time."""

    def __init__(self, rules: int) -> None:
        self.size = 1 << max(rules - 1, 0).bit_length()
        # Of a node the least below it, `own` included, which counts for all that is below it.
        self.least = [1] * (2 * self.size)
        self.own = [0] * (2 * self.size)

    def add(self, first: int, end: int, change: int) -> None:
        """Change the rules from `first` to before `end`."""
        if first == end:
            return
        least, own = self.least, self.own
        left, right = first + self.size, end + self.size
        while left < right:
            if left & 1:
                least[left] += change
                own[left] += change
                left += 1
            if right & 1:
                right -= 1
                least[right] += change
                own[right] += change
            left >>= 1
            right >>= 1
        for node in {first + self.size, end - 1 + self.size}:
            while node := node >> 1:
                least[node] = min(least[2 * node], least[2 * node + 1]) + own[node]

    def add_one(self, rule: int, change: int) -> None:
        """Change one rule."""
        least, own = self.least, self.own
        node = rule + self.size
        least[node] += change
        while node := node >> 1:
            left, right = least[2 * node], least[2 * node + 1]
            changed = (left if left < right else right) + own[node]
            if changed == least[node]:
                break
            least[node] = changed

    def first(self) -> int | None:
        """The first rule that waits for nothing."""
        least, own, size = self.least, self.own, self.size
        if least[1]:
            return None
        node, wanted = 1, 0
        while node < size:
            wanted -= own[node]
            node *= 2
            if least[node] != wanted:
                node += 1
        return node - size


@attrs.frozen
class FirstMatch(Generic[_Answer]):
    """The answer of each address of one family: `begins[i]` up to the next begin answers `answers[i]`.

    A lookup is one bisection however many rules there are.
    """

    begins: tuple[int, ...] = (0,)
    answers: tuple[_Answer | None, ...] = (None,)

    @classmethod
    def of(
        cls,
        rules: Iterable[tuple[tuple[Interval, ...], _Answer]],
        blocks: Iterable[tuple[tuple[Interval, ...], int, int]] = (),
    ) -> FirstMatch[_Answer]:
        """`rules` in order; where several hold an address, the first counts. `blocks`: intervals outside
        which the rules from one number to before another do not hold.

        Takes time and room in proportion to the intervals there are (times the logarithm of the rules),
        however they are nested.
        """
        rules, blocks = list(rules), list(blocks)
        unmet = _Unmet(len(rules))
        for _, first_rule, end in blocks:
            unmet.add(first_rule, end, 1)
        begins: list[int] = []
        answers: list[_Answer | None] = []
        border = 0
        for at, target, change in _in_order(_changes(rules, blocks)):
            if at != border:
                _mark(border, unmet.first(), rules, begins, answers)
                border = at
            if target < len(rules):
                unmet.add_one(target, change)
            else:
                unmet.add(*blocks[target - len(rules)][1:], change)
        _mark(border, unmet.first(), rules, begins, answers)
        return cls(tuple(begins), tuple(answers))

    def find(self, number: int) -> _Answer | None:
        """The answer of one address, None when no rule holds it."""
        return self.answers[bisect_right(self.begins, number) - 1]


def _mark(
    border: int,
    first: int | None,
    rules: Sequence[tuple[tuple[Interval, ...], _Answer]],
    begins: list[int],
    answers: list[_Answer | None],
) -> None:
    winner = None if first is None else rules[first][1]
    if not answers or answers[-1] is not winner:
        begins.append(border)
        answers.append(winner)


def _changes(
    rules: Iterable[tuple[tuple[Interval, ...], object]],
    blocks: Iterable[tuple[tuple[Interval, ...], int, int]],
) -> Iterator[_Change]:
    held = chain((intervals for intervals, _ in rules), (intervals for intervals, _, _ in blocks))
    for target, intervals in enumerate(held):
        for first, last in intervals:
            yield first, target, -1
            yield last + 1, target, 1


def _in_order(changes: Iterator[_Change]) -> Iterator[_Change]:
    parts = []
    while part := list(islice(changes, _SORTED_AT_ONCE)):
        part.sort()
        parts.append(part)
    return heapq.merge(*parts)
