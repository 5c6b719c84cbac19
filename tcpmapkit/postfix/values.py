"""The values of main.cf as Postfix reads them: ``$name``, lists with braces, times.

Pure functions on text, after postconf(5) and the rules of mac_parse(3), mac_expand(3), mystrtokq(3).
What they do not understand they say (`NotUnderstood`), they never guess.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

__all__ = ["NotUnderstood", "expand", "seconds", "split_list", "unbrace"]

_SEPARATORS: Final = ", \t\r\n"
_SPACE: Final = " \t\r\n"
_CLOSING: Final = {"{": "}", "(": ")"}
_NAME: Final = re.compile(r"[A-Za-z0-9_]*")
_OPERATOR: Final = re.compile(r"(<=|>=|==|!=|<|>)([A-Za-z0-9]*)")
_TIME: Final = re.compile(r"([0-9]+)[ \t]*([smhdwSMHDW]?)")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}

#: Postfix's own bound on nesting; the one on length keeps ``a = $b$b``, ``b = $c$c`` ... in hand.
_DEEPEST: Final = 100
_LONGEST: Final = 1_000_000


class NotUnderstood(ValueError):
    """A value that cannot be read; the message says why."""


def split_list(text: str) -> Iterator[str]:
    """The members of a list, separated by white space and commas; ``{...}`` keeps its own together."""
    start, level = -1, 0
    for at, character in enumerate(text):
        if level == 0 and character in _SEPARATORS:
            if start >= 0:
                yield text[start:at]
            start = -1
            continue
        if start < 0:
            start = at
        level += (character == "{") - (character == "}" and level > 0)
    if start >= 0:
        yield text[start:]


def unbrace(text: str) -> str:
    """What stands in ``{...}``. Raises `NotUnderstood` when the text is not just that."""
    inside, rest = _braced(text)
    if rest:
        raise NotUnderstood(f"{rest!r} follows the closing brace")
    return inside


def _braced(text: str) -> tuple[str, str]:
    """What stands in the braces that `text` begins with, and what follows them."""
    closing = _CLOSING.get(text[:1])
    level = 0
    for at, character in enumerate(text if closing else ""):
        level += (character == text[0]) - (character == closing)
        if level == 0:
            return text[1:at], text[at + 1 :]
    raise NotUnderstood(f"unbalanced braces: {text[:40]!r}" if closing else f"no brace: {text[:40]!r}")


def seconds(text: str, unit: str = "s") -> float:
    """Seconds of a time such as ``100s``, ``5m``, ``2``; `unit` is that of a bare number."""
    match = _TIME.fullmatch(text.strip(_SPACE))
    if match is None:
        raise NotUnderstood(f"{text!r} is not a time")
    return float(match[1]) * _UNITS[match[2].lower() or unit]


def expand(text: str, lookup: Callable[[str], str | None]) -> str:
    """A value with every ``$name``, ``${name?text}``, ``${{a} == {b} ? {c} : {d}}`` put in.

    `lookup` gives the unexpanded value of a parameter; None counts as empty, as in Postfix. Raises
    `NotUnderstood` for what is malformed, circular or beyond all measure, and for functions.
    """
    expander = _Expander(lookup)
    expander.text(text, 0)
    return "".join(expander.parts)


class _Expander:
    def __init__(self, lookup: Callable[[str], str | None]) -> None:
        self.lookup = lookup
        self.parts: list[str] = []
        self.length = 0

    def add(self, text: str) -> None:
        self.length += len(text)
        if self.length > _LONGEST:
            raise NotUnderstood("the expanded value is too long")
        self.parts.append(text)

    def text(self, text: str, depth: int) -> None:
        if depth > _DEEPEST:
            raise NotUnderstood("parameters refer to one another in a circle")
        while text:
            plain, dollar, text = text.partition("$")
            self.add(plain)
            if not dollar:
                return
            if text.startswith("$"):
                self.add("$")
                text = text[1:]
            elif text[:1] in _CLOSING:
                inside, text = _braced(text)
                self.expression(inside, depth)
            else:
                match = _NAME.match(text)
                name = match[0] if match else ""
                if not name:
                    raise NotUnderstood(f"no name after $: {text[:20]!r}")
                text = text[len(name) :]
                self.text(self.lookup(name) or "", depth + 1)

    def expression(self, text: str, depth: int) -> None:
        """What stands in ``${...}``."""
        text = text.lstrip(_SPACE)
        if text.startswith("{"):
            holds, rest = self.relation(text, depth)
            if not rest:
                raise NotUnderstood("a relation without ? or :")
        else:
            match = _NAME.match(text)
            name = match[0] if match else ""
            if not name:
                raise NotUnderstood(f"no name in ${{{text[:20]}}}")
            value = self.lookup(name) or ""
            rest = text[len(name) :].lstrip(_SPACE)
            if not rest:
                self.text(value, depth + 1)
                return
            holds = bool(value)
        self.choice(holds, rest, depth)

    def choice(self, holds: bool, rest: str, depth: int) -> None:
        """What follows the condition: ``?text``, ``:text``, ``?{text}:{text}``."""
        operator, rest = rest[0], rest[1:]
        if operator not in "?:":
            raise NotUnderstood(f"? or : expected at {operator + rest[:20]!r}")
        if operator == "?":
            chosen, rest = self.operand(rest)
            if holds:
                self.text(chosen, depth + 1)
            if not rest:
                return
            if not rest.startswith(":"):
                raise NotUnderstood(f": expected at {rest[:20]!r}")
            rest = rest[1:]
        chosen, rest = self.operand(rest)
        if rest:
            raise NotUnderstood(f"unexpected {rest[:20]!r}")
        if not holds:
            self.text(chosen, depth + 1)

    def operand(self, text: str) -> tuple[str, str]:
        """``{text}`` and what follows, or all of it."""
        stripped = text.lstrip(_SPACE)
        if not stripped.startswith("{"):
            return text, ""
        inside, rest = _braced(stripped)
        return inside, rest.lstrip(_SPACE)

    def relation(self, text: str, depth: int) -> tuple[bool, str]:
        """Whether ``{left} operator {right}`` holds, and what follows it."""
        left, rest = self.operand(text)
        match = _OPERATOR.match(rest)
        if match is None:
            raise NotUnderstood(f"an operator expected at {rest[:20]!r}")
        rest = rest[match.end() :].lstrip(_SPACE)
        if not rest.startswith("{"):
            raise NotUnderstood(f"an expression in braces expected at {rest[:20]!r}")
        right, rest = self.operand(rest)
        return _holds(self.apart(left, depth), match[1], self.apart(right, depth), match[2]), rest

    def apart(self, text: str, depth: int) -> str:
        one = _Expander(self.lookup)
        one.text(text, depth + 1)
        return "".join(one.parts)


def _holds(left: str, operator: str, right: str, suffix: str) -> bool:
    """A comparison: of numbers where both are, of compatibility levels with the suffix ``level``."""
    order = _order(left, right, suffix)
    return {
        "==": order == 0,
        "!=": order != 0,
        "<": order < 0,
        "<=": order <= 0,
        ">": order > 0,
        ">=": order >= 0,
    }[operator]


def _order(left: str, right: str, suffix: str) -> int:
    if suffix == "level":
        first, second = _level(left), _level(right)
        return (first > second) - (first < second)
    if suffix:
        raise NotUnderstood(f"an operator with the suffix {suffix!r}")
    if re.fullmatch("[0-9]+", left) and re.fullmatch("[0-9]+", right):
        return (int(left) > int(right)) - (int(left) < int(right))
    return (left > right) - (left < right)


def _level(text: str) -> tuple[int, ...]:
    """``3.6`` or ``3.6.1`` to compare."""
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,4}){0,2}", text.strip(_SPACE)):
        raise NotUnderstood(f"{text!r} is not a compatibility level")
    parts = tuple(map(int, text.strip(_SPACE).split(".")))
    return parts + (0,) * (3 - len(parts))
