"""POSIX regular expressions as regcomp(3) of the GNU C library reads them, for regexp_table(5).

Postfix calls regcomp in the C locale: bytes are characters and only ASCII letters have a case. With
REG_ICASE the library turns pattern and text into upper case, but not what follows a backslash or
what is outside ASCII: hence ``[Z-a]`` is an invalid range and ``\\d`` never matches.
"""

from __future__ import annotations

import string

import attrs

from tcpmapkit.resolvers.regex.brackets import CLASSES, WORD, Brackets
from tcpmapkit.resolvers.regex.faithful import check_anchors, check_references
from tcpmapkit.resolvers.regex.tree import (
    ALL,
    Assertion,
    Bytes,
    Choice,
    Group,
    Node,
    PatternError,
    Reference,
    Repeat,
    Sequence,
    bits,
    contains,
)

__all__ = ["Parsed", "parse"]

_MOST_REPEATS = 0x7FFF  # RE_DUP_MAX

_UNMATCHED_PARENTHESIS = "Unmatched ( or \\("
_UNMATCHED_BRACE = "Unmatched \\{"
_BAD_INTERVAL = "Invalid content of \\{\\}"
_NOTHING_TO_REPEAT = "Invalid preceding regular expression"

_OPERATORS = {
    "|": "or",
    "(": "open",
    ")": "close",
    "{": "interval",
    "}": "close interval",
    "+": "repeat",
    "?": "repeat",
}
_REPEATS = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_ESCAPES: dict[str, tuple[str, int | str]] = {
    "<": ("assert", "word begin"),
    ">": ("assert", "word end"),
    "b": ("assert", "word edge"),
    "B": ("assert", "no word edge"),
    "`": ("assert", "begin"),
    "'": ("assert", "end"),
    "w": ("set", WORD),
    "W": ("set", ALL & ~WORD),
    "s": ("set", CLASSES["space"]),
    "S": ("set", ALL & ~CLASSES["space"]),
}


@attrs.frozen
class Parsed:
    """`tree` matches as the pattern does; `groups` is how many ``(...)`` there are."""

    tree: Node
    groups: int


def parse(pattern: str, *, extended: bool, icase: bool, newline: bool) -> Parsed:
    """Read a pattern (bytes as Latin-1 text). `extended`, `icase`, `newline`: the flags of regcomp(3).

    Raises `PatternError` where regcomp does, with its message; `Untranslatable` for what the library
    runs and a backtracking engine may answer otherwise.
    """
    reader = _Reader(pattern, extended, icase, newline)
    tree = reader.choice(0)
    check_references(tree)
    check_anchors(tree)
    return Parsed(tree, reader.groups)


@attrs.frozen
class _Token:
    """`kind`: "char", "set", "assert", "reference", "repeat", "interval", "close interval", "open",
    "close", "or", "bracket", "." or "end"; `char` is the character written, escaped or not."""

    kind: str
    char: str = ""
    value: int | str = 0


class _Reader:
    def __init__(self, pattern: str, extended: bool, icase: bool, newline: bool) -> None:
        # ASCII only, unlike str.upper(): the C locale.
        self.text = pattern.encode("latin-1").upper().decode("latin-1") if icase else pattern
        self.raw = pattern
        self.extended = extended
        self.icase = icase
        self.newline = newline
        self.position = 0
        self.groups = 0
        self.complete: set[int] = set()
        self.token = _Token("end")
        self.advance(caret=True)

    # Tokens

    def advance(self, caret: bool = False) -> None:
        """Read the next token; `caret`: ``^`` is an anchor here in a basic expression too."""
        self.token, self.position = self.token_at(self.position, caret)

    def token_at(self, position: int, caret: bool = False) -> tuple[_Token, int]:
        if position >= len(self.text):
            return _Token("end"), position
        char = self.text[position]
        if char == "\\":
            if position + 1 >= len(self.text):
                raise PatternError("Trailing backslash")
            return self.escape(self.raw[position + 1]), position + 2
        after = position + 1
        match char:
            case "*":
                return _Token("repeat", char), after
            case "[":
                return _Token("bracket", char), after
            case ".":
                return _Token(".", char), after
            case "^" if self.extended or caret or not position:
                return _Token("assert", char, "line begin" if self.newline else "begin"), after
            case "$" if self.extended or self.ends_branch(after):
                return _Token("assert", char, "line end" if self.newline else "end"), after
        return (self.operator(char) if self.extended else _Token("char", char)), after

    def ends_branch(self, position: int) -> bool:
        if position >= len(self.text):
            return True
        return self.text[position : position + 2] in ("\\|", "\\)")

    def operator(self, char: str) -> _Token:
        return _Token(_OPERATORS.get(char, "char"), char)

    def escape(self, char: str) -> _Token:
        if char in _ESCAPES:
            kind, value = _ESCAPES[char]
            return _Token(kind, char, value)
        if "1" <= char <= "9":
            return _Token("reference", char, int(char))
        return _Token("char", char) if self.extended else self.operator(char)

    # Grammar

    def choice(self, depth: int) -> Node:
        before = set(self.complete)
        options = [self.branch(depth)]
        while self.token.kind == "or":
            self.advance(caret=True)
            known, self.complete = self.complete, set(before)
            options.append(self.branch(depth))
            self.complete |= known
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def branch(self, depth: int) -> Node:
        items: list[Node] = []
        while self.token.kind not in ("or", "end") and not (depth and self.token.kind == "close"):
            items.append(self.expression(depth))
        return items[0] if len(items) == 1 else Sequence(tuple(items))

    def expression(self, depth: int) -> Node:
        token = self.token
        node: Node
        match token.kind:
            case "assert":
                # What follows an anchor begins an expression: it cannot be repeated.
                self.advance()
                assert isinstance(token.value, str)
                return Assertion(token.value)
            case "open":
                node = self.group(depth + 1)
            case "bracket":
                bracket = Brackets(self.text, self.raw, self.position, self.icase, self.newline)
                node = Bytes(self.upper_matches(bracket.read()))
                self.position = bracket.position
            case "reference":
                assert isinstance(token.value, int)
                if token.value not in self.complete:
                    raise PatternError("Invalid back reference")
                node = Reference(token.value)
            case ".":
                node = Bytes(ALL & ~(bits(b"\0\n") if self.newline else 1))
            case "set":
                assert isinstance(token.value, int)
                node = Bytes(token.value)
            case "interval":
                raise PatternError(_NOTHING_TO_REPEAT)
            case "repeat" if self.extended:
                raise PatternError(_NOTHING_TO_REPEAT)
            case "close" if not self.extended:
                raise PatternError(_UNMATCHED_PARENTHESIS)
            case _:
                node = Bytes(self.upper_matches(1 << ord(token.char)))
        self.advance()
        return self.repeated(node)

    def upper_matches(self, allowed: int) -> int:
        """The bytes whose upper case is in `allowed`, as matching in either case compares."""
        if not self.icase:
            return allowed
        upper = allowed & CLASSES["upper"]
        return allowed & ~CLASSES["lower"] | upper << 32

    def group(self, depth: int) -> Node:
        self.groups += 1
        number = self.groups
        self.advance(caret=True)
        item = self.choice(depth)
        if self.token.kind != "close":
            raise PatternError(_UNMATCHED_PARENTHESIS)
        self.complete.add(number)
        return Group(number, item)

    def repeated(self, node: Node) -> Node:
        while self.token.kind in ("repeat", "interval"):
            interval = self.token.kind == "interval"
            least, most = self.interval() if interval else _REPEATS[self.token.char]
            self.advance()
            node = _repeat(node, least, most)
            again = self.token.kind == "interval" or (self.token.kind == "repeat" and self.token.char == "*")
            if again and not self.extended:
                raise PatternError(_NOTHING_TO_REPEAT)
        return node

    def interval(self) -> tuple[int, int | None]:
        """Read ``n}``, ``n,}``, ``,m}`` or ``n,m}``; the token is then what closes it."""
        least = self.number()
        most: int | None = least
        if self.token.char == "," and self.token.kind != "close interval":
            least, most = least or 0, self.number()
        elif least is None:
            raise PatternError(_BAD_INTERVAL)
        if self.token.kind != "close interval" or (most is not None and (least or 0) > most):
            raise PatternError(_BAD_INTERVAL)
        if max(least or 0, most or 0) > _MOST_REPEATS:
            raise PatternError("Regular expression too big")
        return least or 0, most

    def number(self) -> int | None:
        digits = ""
        wrong = False
        while True:
            self.advance()
            token = self.token
            if token.kind == "end":
                raise PatternError(_UNMATCHED_BRACE)
            if token.kind == "close interval" or token.char == ",":
                break
            wrong = wrong or token.kind != "char" or token.char not in string.digits
            digits += token.char
        if wrong:
            raise PatternError(_BAD_INTERVAL)
        return int(digits.lstrip("0")[:9] or "0") if digits else None


def _repeat(node: Node, least: int, most: int | None) -> Node:
    """`node` repeated; nothing for {0}, and one repetition for ``a**``, which would backtrack for ever."""
    if most == 0 and contains(node, Group):
        return Repeat(node, 0, 0)  # its groups still count
    if most == 0 or node == Sequence():
        return Sequence()
    small = {(0, None), (1, None), (0, 1)}
    if isinstance(node, Repeat) and {(node.least, node.most), (least, most)} <= small:
        return Repeat(node.item, node.least * least, None if None in (node.most, most) else 1)
    return Repeat(node, least, most)
