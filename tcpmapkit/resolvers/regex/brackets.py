"""Sets of bytes: the C locale's classes, and POSIX bracket expressions as the GNU C library reads them."""

from __future__ import annotations

import string

import attrs

from tcpmapkit.resolvers.regex.tree import ALL, PatternError, bits

__all__ = ["CLASSES", "WORD", "Brackets", "caseless"]

_LONGEST_NAME = 32  # of what is inside [: :], [. .] and [= =]
_UNMATCHED_BRACKET = "Unmatched [, [^, [:, [., or [="

_PRINTABLE = bits(range(0x20, 0x7F))
_ALNUM = bits((string.ascii_letters + string.digits).encode())

#: What isalpha(3) and the like say in the C locale.
CLASSES = {
    "alnum": _ALNUM,
    "alpha": bits(string.ascii_letters.encode()),
    "blank": bits(b" \t"),
    "cntrl": bits([*range(0x20), 0x7F]),
    "digit": bits(string.digits.encode()),
    "graph": _PRINTABLE & ~bits(b" "),
    "lower": bits(string.ascii_lowercase.encode()),
    "print": _PRINTABLE,
    "punct": _PRINTABLE & ~_ALNUM & ~bits(b" "),
    "space": bits(b" \t\n\v\f\r"),
    "upper": bits(string.ascii_uppercase.encode()),
    "xdigit": bits(string.hexdigits.encode()),
}
WORD = _ALNUM | bits(b"_")


def caseless(allowed: int) -> int:
    """The set with the other case of each of its ASCII letters."""
    upper, lower = allowed & CLASSES["upper"], allowed & CLASSES["lower"]
    return allowed | upper << 32 | lower >> 32


@attrs.define(eq=False)
class Brackets:
    """Reads a bracket expression of `text`, whose inside begins at `position`; `raw` is `text` before
    it was put in upper case (`icase`). `newline`: REG_NEWLINE."""

    text: str
    raw: str
    position: int
    icase: bool
    newline: bool

    def read(self) -> int:
        """The set that a bracket expression allows; reads to its ``]``."""
        negated = self.text[self.position : self.position + 1] == "^"
        self.position += negated
        if self.position >= len(self.text):
            raise PatternError("Invalid regular expression")
        allowed = bits(b"\n") if negated and self.newline else 0
        first = True
        while first or self.text[self.position : self.position + 1] != "]":
            start, members = self.element(first)
            first = False
            ranged = self.text[self.position : self.position + 1] == "-"
            if start is not None and ranged and self.text[self.position + 1 : self.position + 2] != "]":
                self.position += 1
                end, _ = self.element(True)
                if end is None or end < start:
                    raise PatternError("Invalid range end")
                members = bits(range(start, end + 1))
            allowed |= members
        self.position += 1
        return ALL & ~allowed if negated else allowed

    def element(self, hyphen: bool) -> tuple[int | None, int]:
        """One member: the byte that can begin or end a range (None for a class), and the bytes it is.

        `hyphen`: a ``-`` may stand here for itself.
        """
        if self.position >= len(self.text):
            raise PatternError(_UNMATCHED_BRACKET)
        char = self.text[self.position]
        kind = self.text[self.position + 1 : self.position + 2]
        if char == "[" and kind and kind in ".:=":
            return self.symbol(kind)
        self.position += 1
        if char == "-" and not hyphen and self.text[self.position : self.position + 1] != "]":
            raise PatternError("Invalid range end")
        return ord(char), 1 << ord(char)

    def symbol(self, kind: str) -> tuple[int | None, int]:
        source = self.raw if kind == ":" else self.text
        begin = self.position + 2
        end = source.find(kind + "]", begin)
        if end < 0 or end - begin >= _LONGEST_NAME:
            raise PatternError(_UNMATCHED_BRACKET)
        name = source[begin:end]
        self.position = end + 2
        if kind == ":":
            if self.icase and name in ("upper", "lower"):
                name = "alpha"
            if name not in CLASSES:
                raise PatternError("Invalid character class name")
            return None, CLASSES[name]
        if len(name) != 1:
            raise PatternError("Invalid collation character")
        return (ord(name) if kind == "." else None), 1 << ord(name)
