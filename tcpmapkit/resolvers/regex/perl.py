"""What must be known of a PCRE2 pattern without PCRE2: where versions differ, and a small dialect of it.

The dialect is what Python's `re` can be trusted with: its tree is written down again for `re`.
"""

from __future__ import annotations

import re

from tcpmapkit.resolvers.regex.brackets import CLASSES, WORD, caseless
from tcpmapkit.resolvers.regex.posix import Parsed
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
    bits,
)

__all__ = [
    "ANCHORED",
    "CASELESS",
    "DOLLAR_ENDONLY",
    "DOTALL",
    "EXTENDED",
    "MULTILINE",
    "UNGREEDY",
    "Reader",
    "parse",
    "version_dependent",
]

# PCRE2's own numbers (pcre2.h).
CASELESS = 0x8
DOLLAR_ENDONLY = 0x10
DOTALL = 0x20
EXTENDED = 0x80
MULTILINE = 0x400
UNGREEDY = 0x40000
ANCHORED = 0x80000000

_OPAQUE = re.compile(
    r"""\\Q.*?(?:\\E|\Z)        # quoted text
      | \(\?\#[^)]*\)           # a comment
      | \[\^?\]?(?:\\.|\[:\^?[a-z]+:\]|[^\]\\])*\]  # a class
      | \\.                     # an escaped character""",
    re.DOTALL | re.VERBOSE,
)
_BRACES = re.compile(r"\{[ \t]*(?:[0-9]+[ \t]*(?:,[ \t]*[0-9]*[ \t]*)?|,[ \t]*[0-9]+[ \t]*)\}")
_ESCAPE = re.compile(r"\\(?:([pP]\{[\s_^-]*[lL][\s_-]*[ultULT][\s_-]*\}|x(?![0-9A-Fa-f{]))|.)", re.DOTALL)
#: Not after a backslash, which makes a parenthesis of it.
_NEWER = re.compile(r"(?<!\\)(?:\(\?\[|\(\?[\^imsxnJU]*a|\(\?\(VERSION|\(\*(?:scs|scan_substring):)")
_LOOK_BEHIND = re.compile(r"\(\?<[=!]|\(\*(?:n?lb|(?:positive|negative)_lookbehind):")
_LOOSE = re.compile(r"(?<!\()[*+?]|\{[0-9]*,")
_PLAIN_BRACES = re.compile(r"\{[0-9]+(?:,[0-9]*)?\}")


def version_dependent(pattern: str) -> str | None:
    """A part of the pattern that PCRE2 reads otherwise since 10.43: ``{,3}`` and ``{ 3 }``, once plain
    text, ``\\p{Lu}``, which in a case-insensitive pattern now is any cased letter, ``\\x`` without digits,
    once NUL; and what was an error: a look-behind of no fixed length, ``(?[``, ``(?a``, ``(*scs:``. What
    asks for the version (``(?(VERSION``) is one too."""
    for escape in _ESCAPE.finditer(pattern):
        if escape[1]:
            return escape[0]
    outside = _OPAQUE.sub("x", pattern)
    for braces in _BRACES.finditer(outside):
        if not _PLAIN_BRACES.fullmatch(braces[0]):
            return braces[0]
    newer = _NEWER.search(pattern)
    return newer[0] if newer else _loose_look_behind(outside)


def _loose_look_behind(pattern: str) -> str | None:
    """The first look-behind with something in it that repeats more or less often."""
    for start in _LOOK_BEHIND.finditer(pattern):
        depth, end = 1, start.end()
        while depth and end < len(pattern):
            depth += {"(": 1, ")": -1}.get(pattern[end], 0)
            end += 1
        if _LOOSE.search(pattern, start.end(), end):
            return pattern[start.start() : end]
    return None


def parse(pattern: str, options: int) -> Parsed:
    """Read a pattern (bytes as Latin-1 text) of the small dialect.

    Raises `Untranslatable` for everything else, what does not compile included.
    """
    for option, flag in ((MULTILINE, "m"), (EXTENDED, "x"), (UNGREEDY, "U")):
        if options & option:
            raise Untranslatable(f"the flag {flag}")
    reader = Reader(pattern, options)
    tree = reader.choice()
    if reader.position < len(pattern):
        raise Untranslatable("an unmatched )")
    if options & ANCHORED:
        tree = Sequence((Assertion("begin"), tree))
    return Parsed(tree, reader.groups)


_SETS = {
    "d": CLASSES["digit"],
    "D": ALL & ~CLASSES["digit"],
    "w": WORD,
    "W": ALL & ~WORD,
    "s": CLASSES["space"],
    "S": ALL & ~CLASSES["space"],
}
_CONTROLS = {"t": 9, "n": 10, "r": 13, "f": 12}
_ASSERTIONS = {"A": "begin", "z": "end", "Z": "end or newline", "b": "word edge", "B": "no word edge"}
_REPEAT = re.compile(r"(?:([*+?])|\{([0-9]{1,5})(?:(,)([0-9]{0,5}))?\})(\??)(?![*+?{])")
_HEX = re.compile(r"x([0-9A-Fa-f]{2})")


class Reader:
    """Reads the dialect; `outline` reads more with it."""

    def __init__(self, pattern: str, options: int) -> None:
        self.text = pattern
        self.options = options
        self.position = 0
        self.groups = 0

    def peek(self) -> str:
        return self.text[self.position : self.position + 1]

    def choice(self) -> Node:
        options = [self.branch()]
        while self.peek() == "|":
            self.position += 1
            options.append(self.branch())
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def branch(self) -> Node:
        items: list[Node] = []
        while self.peek() not in ("", "|", ")"):
            items.append(self.quantified(self.atom()))
        return items[0] if len(items) == 1 else Sequence(tuple(items))

    def atom(self) -> Node:
        char = self.peek()
        self.position += 1
        match char:
            case "(":
                return self.group()
            case "[":
                return self.bytes(self.bracket())
            case "\\":
                return self.escape()
            case ".":
                return Bytes(ALL if self.options & DOTALL else ALL & ~bits(b"\n"))
            case "^":
                return Assertion("begin")
            case "$":
                return Assertion("end" if self.options & DOLLAR_ENDONLY else "end or newline")
            case "*" | "+" | "?" | "{":
                raise Untranslatable(f"{char} with nothing to repeat")
        return self.bytes(1 << ord(char))

    def bytes(self, allowed: int) -> Bytes:
        return Bytes(caseless(allowed) if self.options & CASELESS else allowed)

    def group(self) -> Node:
        capture = self.peek() != "?"
        if capture:
            self.groups += 1
        elif self.text.startswith("?:", self.position):
            self.position += 2
        else:
            raise Untranslatable(f"({self.text[self.position : self.position + 3]}")
        number = self.groups
        if self.peek() == "*":
            raise Untranslatable("(*")
        item = self.choice()
        if self.peek() != ")":
            raise Untranslatable("an unmatched (")
        self.position += 1
        return Group(number, item) if capture else Sequence((item,))

    def quantified(self, node: Node) -> Node:
        if self.peek() not in ("*", "+", "?", "{"):
            return node
        found = _REPEAT.match(self.text, self.position)
        if not found or isinstance(node, Assertion):
            raise Untranslatable(f"the repetition {self.text[self.position : self.position + 6]}")
        self.position = found.end()
        sign, least, comma, most, lazy = found.groups()
        if sign:
            low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
        else:
            low, high = int(least), int(most) if most else None if comma else int(least)
            if low > 1000 or (high is not None and not low <= high <= 1000):
                raise Untranslatable(f"the repetition {found[0]}")
        return Repeat(node, low, high, bool(lazy))

    def escape(self) -> Node:
        char = self.peek()
        if char in _ASSERTIONS:
            self.position += 1
            return Assertion(_ASSERTIONS[char])
        return self.bytes(self.escaped())

    def escaped(self) -> int:
        """The bytes that a backslash and what follows stand for, in a class and elsewhere."""
        char = self.peek()
        self.position += 1
        if char in _SETS:
            return _SETS[char]
        if char in _CONTROLS:
            return 1 << _CONTROLS[char]
        if char == "x" and (found := _HEX.match(self.text, self.position - 1)):
            self.position = found.end()
            return 1 << int(found[1], 16)
        if not char or char.isalnum() or not char.isascii():
            raise Untranslatable(f"\\{char}")
        return 1 << ord(char)

    def bracket(self) -> int:
        negated = self.peek() == "^"
        self.position += negated
        allowed = 0
        first = True
        while first or self.peek() != "]":
            first = False
            member = self.member()
            if self.peek() == "-" and not self.text.startswith("-]", self.position):
                self.position += 1
                end = self.member()
                if member.bit_count() != 1 or end.bit_count() != 1 or end < member:
                    raise Untranslatable("a range in [...]")
                member = (end << 1) - member  # every bit from the one to the other
            allowed |= member
        self.position += 1
        if self.options & CASELESS:
            allowed = caseless(allowed)
        return ALL & ~allowed if negated else allowed

    def member(self) -> int:
        char = self.peek()
        self.position += 1
        if char == "[" and self.peek() in (":", ".", "="):
            end = self.text.find(":]", self.position)
            name = self.text[self.position + 1 : end]
            if self.peek() != ":" or end < 0 or name not in CLASSES or name in ("upper", "lower"):
                raise Untranslatable(f"[[{self.peek()}")
            self.position = end + 2
            return CLASSES[name]
        if char == "\\":
            return self.escaped()
        if not char:
            raise Untranslatable("an unmatched [")
        return 1 << ord(char)
