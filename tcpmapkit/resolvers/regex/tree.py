"""A regular expression as a tree, and written down again for PCRE2 or for Python's `re`.

What is matched are bytes. A set of bytes is an int whose bit N says whether byte N is in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import attrs

__all__ = [
    "ALL",
    "Assertion",
    "Bytes",
    "Choice",
    "Group",
    "Node",
    "PatternError",
    "Reference",
    "Repeat",
    "Sequence",
    "Untranslatable",
    "bits",
    "children",
    "contains",
    "nullable",
    "varies",
    "write",
]

ALL = (1 << 256) - 1


class PatternError(Exception):
    """The pattern does not compile: Postfix warns and skips the rule. The message is the compiler's."""


class Untranslatable(Exception):
    """The pattern compiles for Postfix, and we cannot promise to match the same; the message says why."""


@attrs.frozen
class Bytes:
    """One byte out of a set."""

    allowed: int


@attrs.frozen
class Sequence:
    """One after the other; without items, the empty text."""

    items: tuple[Node, ...] = ()


@attrs.frozen
class Choice:
    """Any of the options, earlier ones first where that matters."""

    options: tuple[Node, ...]


@attrs.frozen
class Group:
    """A numbered sub-pattern, whose text `$n` holds."""

    number: int
    item: Node


@attrs.frozen
class Repeat:
    """`item` at least `least` and at most `most` times (None: without end)."""

    item: Node
    least: int
    most: int | None
    lazy: bool = False


@attrs.frozen
class Assertion:
    """A condition on the place; `kind` is a key of the table of spellings below."""

    kind: str


@attrs.frozen
class Reference:
    """The text that a group holds, once more."""

    number: int


Node = Bytes | Sequence | Choice | Group | Repeat | Assertion | Reference

# Both engines read these alike; the end of the text they spell differently.
_ASSERTIONS = {
    "begin": rb"\A",
    "end": rb"\z",
    "line begin": rb"(?<![^\n])",
    "line end": rb"(?![^\n])",
    "end or newline": rb"(?=\n?\z)",
    "word begin": rb"(?<!\w)(?=\w)",
    "word end": rb"(?<=\w)(?!\w)",
    "word edge": rb"\b",
    "no word edge": rb"(?:(?<=\w)(?=\w)|(?<!\w)(?!\w))",
}


def bits(values: Iterable[int]) -> int:
    """The set of these bytes."""
    found = 0
    for value in values:
        found |= 1 << value
    return found


def _byte(value: int) -> bytes:
    char = bytes([value])
    return char if char.isalnum() or char in b"@_ " else b"\\x%02x" % value


@lru_cache(1024)
def _set(allowed: int, caseless: bool) -> bytes:
    """Written as a class. When `caseless`, the set has both cases of each letter and the engine knows."""
    if allowed == ALL:
        return b"."
    if not allowed:
        return b"(?!)"
    members = [value for value in range(256) if allowed >> value & 1]
    if len(members) == 1:
        return _byte(members[0])
    if caseless and len(members) == 2 and bytes(members).isalpha() and members[0] + 32 == members[1]:
        return _byte(members[1])
    negated = len(members) > 128
    if negated:
        members = [value for value in range(256) if not allowed >> value & 1]
    text = bytearray(b"[^" if negated else b"[")
    while members:
        end = 1
        while end < len(members) and members[end] == members[0] + end:
            end += 1
        text += _byte(members[0])
        if end > 2:
            text += b"-" + _byte(members[end - 1])
        elif end == 2:
            text += _byte(members[1])
        del members[:end]
    return bytes(text + b"]")


def _quantifier(least: int, most: int | None) -> bytes:
    common = {(0, None): b"*", (1, None): b"+", (0, 1): b"?"}
    if (least, most) in common:
        return common[least, most]
    if most is None:
        return b"{%d,}" % least
    return b"{%d}" % least if least == most else b"{%d,%d}" % (least, most)


def write(node: Node, *, caseless: bool, captures: bool, end: bytes = rb"\z") -> bytes:
    """The pattern for an engine in dot-all mode, case-insensitive when `caseless`.

    `captures`: whether groups are kept as such. `end` is the engine's spelling of the end of the text.
    """

    def text(node: Node) -> bytes:
        match node:
            case Bytes(allowed):
                return _set(allowed, caseless)
            case Sequence(items):
                return b"".join(
                    b"(?:" + text(item) + b")" if isinstance(item, Choice) else text(item) for item in items
                )
            case Choice(options):
                return b"|".join(map(text, options))
            case Group(_, item):
                return (b"(" if captures else b"(?:") + text(item) + b")"
            case Repeat(item, least, most, lazy):
                one = text(item) if isinstance(item, Bytes | Group) else b"(?:" + text(item) + b")"
                return one + _quantifier(least, most) + (b"?" if lazy else b"")
            case Assertion(kind):
                return _ASSERTIONS[kind].replace(rb"\z", end)
            case Reference(number):
                return b"(?:\\%d)" % number

    return text(node)


def children(node: Node) -> tuple[Node, ...]:
    """The nodes that `node` is made of."""
    match node:
        case Sequence(items) | Choice(items):
            return items
        case Group(_, item) | Repeat(item):
            return (item,)
    return ()


def contains(node: Node, kinds: type | tuple[type, ...]) -> bool:
    """Whether `node` is, or has in it, a node of one of these classes."""
    return isinstance(node, kinds) or any(contains(child, kinds) for child in children(node))


def nullable(node: Node) -> bool:
    """Whether it can match the empty text (taken to, where that depends on the key)."""
    match node:
        case Bytes():
            return False
        case Choice(options):
            return any(map(nullable, options))
        case Repeat(item, least):
            return not least or nullable(item)
        case Assertion() | Reference():
            return True
    return all(map(nullable, children(node)))


def varies(node: Node) -> bool:
    """Whether it can match the same text in more than one way, or texts of several lengths."""
    match node:
        case Repeat(item, least, most):
            return least != most or varies(item)
        case Choice(options):
            seen = 0
            for option in options:
                if not isinstance(option, Bytes) or option.allowed & seen:
                    return True
                seen |= option.allowed
            return False
        case Reference():
            return True
    return any(map(varies, children(node)))
