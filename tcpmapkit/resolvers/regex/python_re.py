"""Python's `re`, for rules that it runs as Postfix does.

It has no limit of its own and nothing can end a match in it. Unless the operator wrote `engine = "re"`
it is therefore given no pattern with nested or adjacent repetitions, look-around or back-references,
and no key for which what is left could still be many steps.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import attrs

from tcpmapkit.resolvers.regex.effort import Effort, MatchFailed
from tcpmapkit.resolvers.regex.faithful import adjacent, beyond_re
from tcpmapkit.resolvers.regex.perl import CASELESS, parse
from tcpmapkit.resolvers.regex.posix import Parsed
from tcpmapkit.resolvers.regex.required import required
from tcpmapkit.resolvers.regex.tree import (
    ALL,
    Assertion,
    Bytes,
    Choice,
    Group,
    Node,
    Repeat,
    Sequence,
    Untranslatable,
    children,
    varies,
    write,
)

__all__ = ["Bound", "PythonRe"]


class PythonRe:
    """`reason` says why it runs the patterns. `effort`: how many steps one pattern may take over one
    key at most; None when the operator wants it without a limit."""

    def __init__(self, reason: str, effort: Effort | None) -> None:
        self.reason = reason
        self.effort = effort

    def perl(self, pattern: str, options: int, captures: bool) -> _RePattern | _BoundedPattern:
        """See `engine.Engine`."""
        try:
            parsed = parse(pattern, options)
        except Untranslatable as error:
            raise Untranslatable(f"{error} ({self.reason})") from None
        return self.posix(parsed, bool(options & CASELESS), captures)

    def posix(self, parsed: Parsed, icase: bool, captures: bool) -> _RePattern | _BoundedPattern:
        """See `engine.Engine`."""
        reason = beyond_re(parsed.tree, captures, nested=self.effort is None)
        if not reason and self.effort is not None and adjacent(parsed.tree):
            reason = "a repetition next to a repetition"
        if reason:
            raise Untranslatable(f"{reason} ({self.reason})")
        text = write(parsed.tree, caseless=icase, captures=captures, end=rb"\Z")
        compiled = re.compile(text, re.DOTALL | (re.IGNORECASE if icase else 0))
        if self.effort is None:
            return _RePattern(compiled, parsed.groups)
        return _BoundedPattern(compiled, parsed.groups, Bound.of(parsed.tree), self.effort)


class _Alone:
    """What is tried by itself."""

    __slots__ = ("required",)

    kind = None

    def __init__(self) -> None:
        self.required: tuple[frozenset[bytes], ...] = ()

    def read_as(self, tree: Node) -> None:
        """See `engine.Pattern`."""
        self.required = required(tree)

    def any_of(self, patterns: Any) -> None:
        """See `engine.Pattern`."""


class _RePattern(_Alone):
    __slots__ = ("groups", "search")

    def __init__(self, compiled: re.Pattern[bytes], groups: int) -> None:
        super().__init__()
        self.search = compiled.search
        self.groups = groups

    def group(self, match: re.Match[bytes], key: bytes, number: int) -> bytes:
        """See `engine.Pattern`."""
        return match[number] or b""


class _BoundedPattern(_Alone):
    __slots__ = ("_bound", "_effort", "_search", "groups")

    def __init__(self, compiled: re.Pattern[bytes], groups: int, bound: Bound, effort: Effort) -> None:
        super().__init__()
        self._search = compiled.search
        self._bound = bound
        self._effort = effort
        self.groups = groups

    def search(self, key: bytes) -> re.Match[bytes] | None:
        """See `engine.Pattern`."""
        steps, limit = self._bound.steps(key), self._effort.match_limit
        if steps > limit:
            raise MatchFailed("match limit exceeded")
        if steps > limit // 16:
            self._effort.look()  # most take far fewer than they could: they are timed, not counted
        return self._search(key)

    def group(self, match: re.Match[bytes], key: bytes, number: int) -> bytes:
        """See `engine.Pattern`."""
        return match[number] or b""


@attrs.frozen
class Bound:
    """How many steps a search takes at most: each way through the pattern from each place, read to the
    end of the key.

    `outside`: for each repetition, and for the place where a match begins, the bytes that do not end
    it, so that it ends in as many places as there are others. `ways` is how many there are otherwise.
    """

    outside: tuple[bytes, ...]
    ways: int

    @classmethod
    def of(cls, tree: Node) -> Bound:
        followers = list(_followers(tree, 0))  # behind the last there is the match
        if not _anchored(tree):
            followers.append(_first(tree))
        ways = _ways(tree)
        return cls(tuple(_bytes_outside(ALL if follow is None else follow) for follow in followers), ways)

    def steps(self, key: bytes) -> int:
        """An upper bound for this key."""
        most = (len(key) + 1) * self.ways
        for outside in self.outside:
            most *= len(key.translate(None, outside)) + 1
        return most


def _bytes_outside(allowed: int) -> bytes:
    return bytes(value for value in range(256) if not allowed >> value & 1)


def _first(node: Node) -> int | None:
    """The bytes that it can begin with; None when that is not known, or it may be empty."""
    match node:
        case Bytes(allowed):
            return allowed
        case Group(_, item):
            return _first(item)
        case Sequence(items) if items:
            return _first(items[0])
        case Repeat(item, least) if least:
            return _first(item)
    return None


def _anchored(node: Node) -> bool:
    match node:
        case Assertion("begin"):
            return True
        case Sequence(items):
            return bool(items) and _anchored(items[0])
        case Choice(options):
            return all(map(_anchored, options))
        case Group(_, item):
            return _anchored(item)
    return False


def _followers(node: Node, follow: int | None) -> Iterator[int | None]:
    """For each repetition that varies, what stands behind it."""
    match node:
        case Sequence(items):
            for item, after in zip(items, (*items[1:], None), strict=True):
                yield from _followers(item, follow if after is None else _behind(after))
        case Repeat(item, least, most):
            if least != most:
                yield follow
            yield from _followers(item, None)
        case _:
            for child in children(node):
                yield from _followers(child, follow)


def _behind(node: Node) -> int | None:
    # The end of the key is one place, which is counted anyhow; with a newline before it another.
    match node:
        case Assertion("end"):
            return 0
        case Assertion("end or newline"):
            return 1 << 10
    return _first(node)


def _ways(node: Node) -> int:
    ways = len(node.options) if isinstance(node, Choice) and varies(node) else 1
    for child in children(node):
        ways *= _ways(child)
    return ways
