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
_OPENING = re.compile(r"\?(?:>|P?<[A-Za-z_]\w{0,31}>|'[A-Za-z_]\w{0,31}'|([imsUx]*)(?:-([imsUx]*))?([:)]))")
_BLANK = frozenset("\t\n\v\f\r ")
# Line ends elsewhere than in Postfix's build of PCRE2, at which a comment might end.
_OTHER_LINE_END = re.compile("[\r\v\f\x85]")
_REPEAT = re.compile(r"(?:([*+?])|\{([0-9]{1,5})(?:(,)([0-9]{0,5}))?\})[+?]?")
_REPEATING = frozenset("*+?{")
_REFERENCE = re.compile(r"[1-9](?![0-9])")


@lru_cache(512)
def _letter(char: str, icase: bool) -> Bytes:
    return Bytes(caseless(1 << ord(char)) if icase else 1 << ord(char))


def outline(pattern: str, options: int) -> Node | None:
    """The tree of a pattern (bytes as Latin-1 text) that PCRE2 compiles; None for what is not read."""
    reader = _Outline(pattern, options)
    try:
        tree = reader.choice()
    except (Untranslatable, RecursionError):
        return None
    return tree if reader.position == len(pattern) else None


class _Outline(Reader):
    def __init__(self, pattern: str, options: int) -> None:
        super().__init__(pattern, options)
        #: Whether blanks and comments do not count here, and whether this is between ``\\Q`` and ``\\E``.
        self.extended = bool(options & EXTENDED)
        self.quoted = False

    def branch(self) -> Node:
        items: list[Node] = []
        while True:
            self.skip()
            if self.quoted:
                self.position += 1
                node: Node = _letter(self.text[self.position - 1], bool(self.options & CASELESS))
            elif self.peek() in ("", "|", ")"):
                return items[0] if len(items) == 1 else Sequence(tuple(items))
            else:
                node = self.atom()
            items.append(self.quantified(node))

    def skip(self) -> None:
        """Past all that stands for nothing; then a byte of quoted text is next when `quoted`."""
        text = self.text
        while True:
            char = self.peek()
            if self.quoted:
                if char and not text.startswith("\\E", self.position):
                    return
                self.quoted = False
                self.position += 2 if char else 0
            elif char == "\\" and text[self.position + 1 : self.position + 2] in ("Q", "E"):
                self.quoted = text[self.position + 1] == "Q"
                self.position += 2
            elif char == "(" and text.startswith("(?#", self.position):
                self.position = text.index(")", self.position) + 1
            elif self.extended and char in _BLANK:
                self.position += 1
            elif self.extended and char == "#":
                end = text.find("\n", self.position) + 1 or len(text)
                if _OTHER_LINE_END.search(text, self.position, end):
                    raise Untranslatable("a comment that may end in several places")
                self.position = end
            else:
                return

    def atom(self) -> Node:
        char = self.peek()
        if char.isalnum():
            self.position += 1
            return _letter(char, bool(self.options & CASELESS))
        return super().atom()

    def group(self) -> Node:
        before = self.extended
        if self.peek() != "?":
            node = super().group()
            self.extended = before
            return node
        around = _AROUND.match(self.text, self.position)
        opening = around or _OPENING.match(self.text, self.position)
        if opening is None:
            raise Untranslatable(f"({self.text[self.position : self.position + 3]}")
        self.position = opening.end()
        if around is None and opening[3]:
            on, off = opening[1], opening[2] or ""
            if "xx" in on:  # blanks in brackets do not count either
                raise Untranslatable("(?xx")
            self.extended = (self.extended or "x" in on) and "x" not in off
            if opening[3] == ")":  # for the rest of the group that it stands in
                return Sequence()
        item = self.choice()
        self.extended = before
        if self.peek() != ")":
            raise Untranslatable("an unmatched (")
        self.position += 1
        return Assertion("begin") if around else Group(0, item)

    def quantified(self, node: Node) -> Node:
        while True:
            self.skip()
            if self.quoted or self.peek() not in _REPEATING:
                return node
            found = _REPEAT.match(self.text, self.position)
            if found is None:
                raise Untranslatable("{")
            self.position = found.end()
            sign, least, comma, most = found.groups()
            if sign:
                node = Repeat(node, int(sign == "+"), 1 if sign == "?" else None)
            else:
                node = Repeat(node, int(least), int(most) if most else None if comma else int(least))

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
