"""The rules of a table laid out side by side."""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Final

import attrs

from tcpmapkit.resolvers.cidr.networks import Interval

__all__ = ["FirstMatch"]

_NONE: Final = -1
_LOW: Final = (1 << 64) - 1
_LAST: Final = (1 << 128) - 1  # the border behind the last network may be beyond all addresses

#: An address, what changes there (a rule, or beyond the last rule a block), and whether it holds less
#: (1) or more (-1) from there on.
_Change = tuple[int, int, int]

# To sort holds the interpreter: so many at once take it a few milliseconds.
_SORTED_AT_ONCE: Final = 8192


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
class FirstMatch:
    """The answer, a number, of each address of one family: a lookup is a bisection however many rules there
    are.

    The addresses from `low[i]` up to the next have the answer `answers[i]`, or none where that is -1; where
    `high` is there, it has the upper 64 bits of each. They are plain numbers, which the garbage collector
    has nothing to do with, and which are freed at once: a million tuples would hold everybody up.
    """

    low: Sequence[int]
    answers: Sequence[int]
    high: Sequence[int] | None

    @classmethod
    def of(
        cls,
        rules: Sequence[Sequence[Interval]],
        answers: Sequence[int],
        blocks: Sequence[tuple[Sequence[Interval], int, int]] = (),
    ) -> FirstMatch:
        """`rules` are the intervals of each in order, `answers` their answers; where several hold an address,
        the first counts. `blocks`: intervals outside which the rules from one number to before another do not
        hold.

        Takes time and room in proportion to the intervals there are (times the logarithm of the rules),
        however they are nested.
        """
        unmet = _Unmet(len(rules))
        for _, first_rule, end in blocks:
            unmet.add(first_rule, end, 1)
        laid_out = _LaidOut(answers)
        border = 0
        for at, target, change in _in_order(_changes(rules, blocks)):
            if at != border:
                laid_out.add(border, unmet.first())
                border = at
            if target < len(rules):
                unmet.add_one(target, change)
            else:
                unmet.add(*blocks[target - len(rules)][1:], change)
        laid_out.add(border, unmet.first())
        return cls(laid_out.low, laid_out.answers, laid_out.high if any(laid_out.high) else None)

    def find(self, number: int) -> int | None:
        """The answer of one address; None when no rule holds it."""
        if self.high is None:
            at = bisect_right(self.low, number)
        else:
            high, low = number >> 64, number & _LOW
            first = bisect_left(self.high, high)
            at = bisect_right(self.low, low, first, bisect_right(self.high, high, first))
        answer = self.answers[at - 1]
        return None if answer == _NONE else answer


class _LaidOut:
    """The borders found so far, and the answer from each on."""

    def __init__(self, of_rules: Sequence[int]) -> None:
        self._of_rules = of_rules
        self.low, self.high, self.answers = array("Q"), array("Q"), array("i")

    def add(self, border: int, rule: int | None) -> None:
        answer = _NONE if rule is None else self._of_rules[rule]
        if border <= _LAST and (not self.answers or self.answers[-1] != answer):
            self.low.append(border & _LOW)
            self.high.append(border >> 64)
            self.answers.append(answer)


def _changes(
    rules: Iterable[Sequence[Interval]], blocks: Iterable[tuple[Sequence[Interval], int, int]]
) -> Iterator[_Change]:
    held = chain(rules, (intervals for intervals, _, _ in blocks))
    for target, intervals in enumerate(held):
        for first, last in intervals:
            yield first, target, -1
            yield last + 1, target, 1


def _in_order(changes: Iterator[_Change]) -> Iterator[_Change]:
    parts = []
    while part := list(islice(changes, _SORTED_AT_ONCE)):
        part.sort(reverse=True)
        parts.append(_from_its_end(part))
    return heapq.merge(*parts)


def _from_its_end(part: list[_Change]) -> Iterator[_Change]:
    """Each is freed when it is done with: all of them together would hold the interpreter."""
    while part:
        yield part.pop()
