"""The search of a table: the first rule that matches, found without trying every one.

The table is laid out flat: `if` and `endif` become conditions of each rule between them. An automaton
(Aho-Corasick) over the texts that the patterns require says which rules a key can match at all; only
these are tried, in the order of the file, and the engine has the last word. Rules that require nothing
are always tried, several at once where that can be (see `sieve`).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import attrs

from tcpmapkit.resolvers.regex.effort import Effort, MatchFailed, Work
from tcpmapkit.resolvers.regex.required import Texts
from tcpmapkit.resolvers.regex.rules import Answer, Condition, Rule, Rules, fill_in
from tcpmapkit.resolvers.regex.sieve import LONGEST_KEY, Part, parts

__all__ = ["SMALL", "Table"]

#: Up to so many rules are tried one after the other, which then is as fast.
SMALL = 1

# At most so many texts end in the same place, so that no key finds more of them than this for each byte.
_MOST_NESTED = 3
# How often some text of N letters that nobody else requires is in a key by chance: _OFTEN / _LETTERS**N.
_OFTEN, _LETTERS = 40.0, 20.0
# To build one holds the interpreter, a millisecond for some 15000 bytes of text: there are several.
_LARGEST_AUTOMATON = 100_000


_Scan = tuple[Callable[..., list[tuple[int, int, int]]], tuple[tuple[int, ...], ...]]


@attrs.frozen(eq=False)
class _Around:
    """An `if`; the rules in it end before the rule of number `end`."""

    condition: Condition
    end: int


@attrs.frozen(eq=False)
class _Leaf:
    rule: Rule
    around: tuple[_Around, ...]

    def texts(self) -> list[Texts]:
        """Sets of texts of which each has a member in every key that this rule can answer."""
        conditions = [around.condition for around in self.around]
        return list(
            dict.fromkeys(
                texts
                for condition in (self.rule.condition, *conditions)
                if not condition.negate
                for texts in condition.pattern.required
            )
        )


def _leaves(rules: Rules, number: int = 0, around: tuple[_Around, ...] = ()) -> Iterator[_Leaf]:
    for rule in rules:
        if isinstance(rule, Rule):
            yield _Leaf(rule, around)
            number += 1
        else:
            end = number + _count(rule.rules)
            yield from _leaves(rule.rules, number, (*around, _Around(rule.condition, end)))
            number = end


def _count(rules: Rules) -> int:
    return sum(1 if isinstance(rule, Rule) else _count(rule.rules) for rule in rules)


def _choose(leaves: list[_Leaf]) -> dict[Texts, list[int]]:
    """For each rule the set of texts that is the least likely in a key, the rules by their sets. Those
    that require nothing are under the empty set."""
    wanted = [leaf.texts() for leaf in leaves]
    shared = Counter(chain.from_iterable(wanted))

    def likely(texts: Texts) -> tuple[float, int]:
        chance = sum(_OFTEN / _LETTERS ** len(text) for text in texts)
        return max(shared[texts] / len(leaves), min(chance, 1.0)), -min(map(len, texts))

    chosen: dict[Texts, list[int]] = {}
    for number, sets in enumerate(wanted):
        texts = min(sets, key=likely, default=frozenset[bytes]())
        chosen.setdefault(texts, []).append(number)
    return chosen


def _thinned(rules_of: dict[bytes, list[int]]) -> dict[bytes, list[int]]:
    """A text that ends in too many others is looked for by the longest of these: it is wherever that is."""
    kept: dict[bytes, list[int]] = {}
    for text in sorted(rules_of, key=len):
        within = [text[start:] for start in range(1, len(text)) if text[start:] in kept]
        kept.setdefault(text if len(within) < _MOST_NESTED else within[0], []).extend(rules_of[text])
    return kept


def _scans(rules_of: dict[bytes, list[int]]) -> tuple[_Scan, ...]:
    from ahocorasick_rs import BytesAhoCorasick

    parts: list[list[bytes]] = [[]]
    size = 0
    for text in rules_of:
        size += len(text)
        if size > _LARGEST_AUTOMATON:
            parts.append([])
            size = len(text)
        parts[-1].append(text)
    return tuple(
        (
            BytesAhoCorasick(part).find_matches_as_indexes,
            tuple(tuple(sorted(set(rules_of[text]))) for text in part),
        )
        for part in parts
    )


@attrs.frozen(eq=False)
class Table:
    """`leaves` are the rules in order. Each of `scans` finds texts in a key, as tuples that begin with the
    text's number, and tells the rules of each. `always` are the rules that are always tried, `parts` the
    same where several of them can be tried at once."""

    leaves: tuple[_Leaf, ...]
    effort: Effort
    scans: tuple[_Scan, ...]
    always: Sequence[int]
    parts: tuple[Part, ...] = attrs.field()

    @parts.default
    def _of_always(self) -> tuple[Part, ...]:
        return parts(self.always, lambda number: self.leaves[number].rule)

    @classmethod
    def of(cls, rules: Rules, effort: Effort, prefilter: bool | None = None) -> Table:
        """The table of these rules. `prefilter`: whether there is an automaton, by default when they are
        more than a few; raises `ImportError` when there is none to be had."""
        leaves = tuple(_leaves(rules))
        every = cls(leaves, effort, (), range(len(leaves)))
        if prefilter is False or (prefilter is None and len(leaves) <= SMALL):
            return every
        chosen = _choose(list(leaves))
        always = chosen.pop(frozenset(), [])
        rules_of: dict[bytes, list[int]] = {}
        for texts, numbers in chosen.items():
            for text in texts:
                rules_of.setdefault(text, []).extend(numbers)
        if not rules_of:
            return every
        return cls(leaves, effort, _scans(_thinned(rules_of)), tuple(always))

    def forget_texts(self) -> None:
        """Forget which texts the patterns require, when no other table is made of them: some three objects a
        rule, which the garbage collector would walk through."""
        for leaf in self.leaves:
            for condition in (leaf.rule.condition, *(around.condition for around in leaf.around)):
                condition.pattern.required = ()

    def candidates(self, key: bytes) -> Sequence[int]:
        """The numbers of the rules that may match a key by the texts they require, in order."""
        found = self._by_text(key)
        if not found:
            return self.always
        return sorted({*self.always, *found}) if self.always else found

    def _by_text(self, key: bytes) -> Sequence[int]:
        """The numbers of the rules that require a text which is in the key, in order."""
        numbers: list[tuple[int, ...]] = []
        folded = key.lower()
        for scan, rules_of in self.scans:
            found = scan(folded, overlapping=True)
            if found:
                numbers += [rules_of[text] for text, _, _ in found]
        if len(numbers) < 2:
            return numbers[0] if numbers else ()
        return sorted({*chain.from_iterable(numbers)})

    def find(self, key: bytes, query: Any, failed: Callable[[Condition, MatchFailed], Any]) -> Answer | None:
        """The answer of the first rule that matches, `query` saying of which lookup this is a part.
        `failed` is told of conditions the engine gave up on: they count as not met, negated or not.
        Raises `TooMuchEffort`."""
        by_part = self.parts and len(key) <= LONGEST_KEY
        candidates = self._by_text(key) if by_part else self.candidates(key)
        if not candidates and not by_part:
            return None
        work = self.effort.begin(query)
        try:
            met: dict[_Around, bool] = {}
            if not by_part:
                return self._first(key, candidates, work, failed, met)
            for some in self._left(key, candidates):
                answer = self._first(key, some, work, failed, met) if some else None
                if answer is not None:
                    return answer
            return None
        finally:
            work.end()

    def _left(self, key: bytes, by_text: Sequence[int]) -> Iterator[Sequence[int]]:
        """The rules that may match, part by part, in order: those by their texts among the others."""
        done = 0
        for part in self.parts:
            self.effort.tried()
            left = part.left(key)
            until = bisect_right(by_text, part.last, done) if by_text else 0
            yield left if until == done else sorted((*by_text[done:until], *left))
            done = until
        yield by_text[done:]

    def _first(
        self,
        key: bytes,
        candidates: Sequence[int],
        work: Work,
        failed: Callable[[Condition, MatchFailed], Any],
        met: dict[_Around, bool],
    ) -> Answer | None:
        leaves = self.leaves
        position = 0
        while position < len(candidates):
            leaf = leaves[candidates[position]]
            position += 1
            if leaf.around:
                end = self._end_of_unmet(leaf.around, met, key, failed)
                if end:
                    position = bisect_left(candidates, end, position)
                    continue
            rule = leaf.rule
            condition = rule.condition
            work.left -= 1
            if work.left <= 0:
                self.effort.look()
            try:
                match = condition.pattern.search(key)
                if (match is None) is not condition.negate:
                    continue
            except MatchFailed as error:
                failed(condition, error)
                continue
            if rule.second is None or self._holds(rule.second, key, failed):
                return rule.fixed if rule.fixed is not None else fill_in(rule, match, key)
        return None

    def _end_of_unmet(
        self,
        around: tuple[_Around, ...],
        met: dict[_Around, bool],
        key: bytes,
        failed: Callable[[Condition, MatchFailed], Any],
    ) -> int:
        """Where the first `if` that the key does not meet ends; 0 when it meets all."""
        for one in around:
            holds = met.get(one)
            if holds is None:
                holds = met[one] = self._holds(one.condition, key, failed)
            if not holds:
                return one.end
        return 0

    def _holds(
        self, condition: Condition, key: bytes, failed: Callable[[Condition, MatchFailed], Any]
    ) -> bool:
        self.effort.tried()
        try:
            return condition.holds(key)
        except MatchFailed as error:
            failed(condition, error)
            return False
