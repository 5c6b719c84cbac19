"""PCRE2 patterns read for what they require only: more of the syntax than `perl.parse` takes, and less
of its meaning. A node of this tree matches all that the pattern does there, and perhaps more."""

from __future__ import annotations

import re
from functools import lru_cache

from tcpmapkit.resolvers.regex.brackets import caseless
from tcpmapkit.resolvers.regex.perl import CASELESS, EXTENDED, Reader
from tcpmapkit.resolvers.regex.tree import (
    ALL,
    Assertion,
    Bytes,
    Group,
    Node,
    Reference,
    Repeat,
    Sequence,
    Untranslatable,
)

__all__ = ["outline"]

_AROUND = re.compile(r"\?<?[=!]")
# What case, dot and line ends mean changes no text that is looked for in lower case.
_OPENING = re.compile(r"\?(?:>|P?<[A-Za-z_]\w{0,31}>|'[A-Za-z_]\w{0,31}'|[imsU]*(?:-[imsU]*)?([:)]))")
_REPEAT = re.compile(r"(?:([*+?])|\{([0-9]{1,5})(?:(,)([0-9]{0,5}))?\})[+?]?")
_REPEATING = frozenset("*+?{")
_REFERENCE = re.compile(r"[1-9](?![0-9])")


@lru_cache(512)
def _letter(char: str, icase: bool) -> Bytes:
    return Bytes(caseless(1 << ord(char)) if icase else 1 << ord(char))


def outline(pattern: str, options: int) -> Node | None:
    """The tree of a pattern (bytes as Latin-1 text) that PCRE2 compiles; None for what is not read."""
    if options & EXTENDED:
        return None
    reader = _Outline(pattern, options)
    try:
        tree = reader.choice()
    except (Untranslatable, RecursionError):
        return None
    return tree if reader.position == len(pattern) else None


class _Outline(Reader):
    def atom(self) -> Node:
        char = self.peek()
        if char.isalnum():
            self.position += 1
            return _letter(char, bool(self.options & CASELESS))
        return super().atom()

    def group(self) -> Node:
        if self.peek() != "?":
            return super().group()
        around = _AROUND.match(self.text, self.position)
        opening = around or _OPENING.match(self.text, self.position)
        if opening is None:
            raise Untranslatable(f"({self.text[self.position : self.position + 3]}")
        self.position = opening.end()
        if opening[0].endswith(")"):
            return Sequence()
        item = self.choice()
        if self.peek() != ")":
            raise Untranslatable("an unmatched (")
        self.position += 1
        return Assertion("begin") if around else Group(0, item)

    def quantified(self, node: Node) -> Node:
        while self.text[self.position : self.position + 1] in _REPEATING:
            found = _REPEAT.match(self.text, self.position)
            if found is None:
                raise Untranslatable("{")
            self.position = found.end()
            sign, least, comma, most = found.groups()
            if sign:
                node = Repeat(node, int(sign == "+"), 1 if sign == "?" else None)
            else:
                node = Repeat(node, int(least), int(most) if most else None if comma else int(least))
        return node

    def escape(self) -> Node:
        char = self.peek()
        if found := _REFERENCE.match(self.text, self.position):
            self.position = found.end()
            return Reference(int(found[0]))
        if char and char in "hHvVN":
            self.position += 1
            return Bytes(ALL)
        return super().escape()

    def bracket(self) -> int:
        # Which bytes are not in a set depends on its case, which may have been switched.
        negated = self.peek() == "^"
        allowed = super().bracket()
        return ALL if negated else allowed
