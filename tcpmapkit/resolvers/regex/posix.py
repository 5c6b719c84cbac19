"""POSIX regular expressions as regcomp(3) of the GNU C library reads them, for regexp_table(5).

Postfix calls regcomp in the C locale: bytes are characters and only ASCII letters have a case. With
REG_ICASE the library turns pattern and text into upper case, but not what follows a backslash or
what is outside ASCII: hence ``[Z-a]`` is an invalid range and ``\\d`` never matches.
"""

from __future__ import annotations

import string

import attrs

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
    Untranslatable,
    bits,
    children,
    contains,
)

__all__ = ["CLASSES", "WORD", "Parsed", "caseless", "parse"]

_MOST_REPEATS = 0x7FFF  # RE_DUP_MAX
_LONGEST_NAME = 32  # of what is inside [: :], [. .] and [= =]

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

_UNMATCHED_PARENTHESIS = "Unmatched ( or \\("
_UNMATCHED_BRACKET = "Unmatched [, [^, [:, [., or [="
_UNMATCHED_BRACE = "Unmatched \\{"
_BAD_INTERVAL = "Invalid content of \\{\\}"
_NOTHING_TO_REPEAT = "Invalid preceding regular expression"

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


def caseless(allowed: int) -> int:
    """The set with the other case of each of its ASCII letters."""
    upper, lower = allowed & CLASSES["upper"], allowed & CLASSES["lower"]
    return allowed | upper << 32 | lower >> 32


def parse(pattern: str, *, extended: bool, icase: bool, newline: bool) -> Parsed:
    """Read a pattern (bytes as Latin-1 text). `extended`, `icase`, `newline`: the flags of regcomp(3).

    Raises `PatternError` where regcomp does, with its message; `Untranslatable` for what the library
    runs and a backtracking engine may answer otherwise.
    """
    reader = _Reader(pattern, extended, icase, newline)
    tree = reader.choice(0)
    _check_references(tree)
    _check_anchors(tree)
    return Parsed(tree, reader.groups)


def _check_references(tree: Node) -> None:
    """A reference means the same to every engine while its group is matched exactly once."""
    once: set[int] = set()

    def walk(node: Node, certain: bool) -> None:
        match node:
            case Sequence(items):
                for item in items:
                    walk(item, certain)
            case Group(number, item):
                walk(item, certain)
                if certain and not contains(item, Reference):
                    once.add(number)
            case Choice(options):
                for option in options:
                    walk(option, False)
            case Repeat(item):
                walk(item, False)
            case Reference(number):
                if number not in once:
                    raise Untranslatable(
                        f"\\{number} refers to a group inside a repetition or an alternative"
                    )

    walk(tree, True)


def _check_anchors(tree: Node) -> None:
    """Refuse what the library itself gets wrong: anchors that are repeated, and, without REG_NEWLINE,
    a newline matched just outside ``^`` or ``$``, which it takes for the end of a line all the same."""

    def walk(node: Node, before: bool, after: bool) -> None:
        # before, after: whether a newline may be matched somewhere before and after this node.
        match node:
            case Sequence(items):
                matched = [matches_newline(item) for item in items]
                for index, item in enumerate(items):
                    walk(item, before or any(matched[:index]), after or any(matched[index + 1 :]))
            case Assertion("begin") if before:
                raise Untranslatable("^ after what can match a newline")
            case Assertion("end") if after:
                raise Untranslatable("$ before what can match a newline")
            case Repeat(item, _, most) if most != 1 and contains(item, Assertion):
                raise Untranslatable("an anchor inside a repetition")
            case _:
                for child in children(node):
                    walk(child, before, after)

    def matches_newline(node: Node) -> bool:
        if isinstance(node, Bytes):
            return bool(node.allowed & bits(b"\n"))
        return isinstance(node, Reference) or any(map(matches_newline, children(node)))

    walk(tree, False, False)


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
        kinds = {
            "|": "or",
            "(": "open",
            ")": "close",
            "{": "interval",
            "}": "close interval",
            "+": "repeat",
            "?": "repeat",
        }
        return _Token(kinds.get(char, "char"), char)

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
                node = Bytes(self.upper_matches(self.bracket()))
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

    # Bracket expressions

    def bracket(self) -> int:
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
