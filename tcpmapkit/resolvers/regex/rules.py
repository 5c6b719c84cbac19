"""Rules as they are written: patterns, flags and results.

Text is bytes as Latin-1 throughout, since Postfix's tables are bytes.
"""

from __future__ import annotations

import re
import string
from typing import Any

import attrs

from tcpmapkit import Found, PermFail, TempFail
from tcpmapkit.resolvers.postfix_lines import table_answer
from tcpmapkit.resolvers.regex import perl
from tcpmapkit.resolvers.regex.engine import Engine, Pattern
from tcpmapkit.resolvers.regex.outline import outline
from tcpmapkit.resolvers.regex.posix import parse as parse_posix
from tcpmapkit.resolvers.regex.tree import Node, PatternError, Untranslatable

__all__ = [
    "Answer",
    "Block",
    "Condition",
    "Result",
    "Rule",
    "Rules",
    "answer",
    "check_flags",
    "compile_pattern",
    "compile_result",
    "fill_in",
]

Answer = Found | TempFail | PermFail
Result = tuple[str | int, ...]  # literal text and the numbers of groups

_PERL_FLAGS = {
    "i": perl.CASELESS,
    "m": perl.MULTILINE,
    "s": perl.DOTALL,
    "x": perl.EXTENDED,
    "A": perl.ANCHORED,
    "E": perl.DOLLAR_ENDONLY,
    "U": perl.UNGREEDY,
    "X": 0,  # PCRE1's "extra", which PCRE2 always is
}
_POSIX_FLAGS = "imx"

#: What a rule without a result answers, as Postfix defers then.
_EMPTY = PermFail("empty string result is not allowed")


@attrs.frozen
class Condition:
    """A pattern that must match, or must not when `negate`. `line` is where it stands in its file, or
    the number of the inline rule, from 1."""

    pattern: Pattern
    negate: bool
    line: int

    def holds(self, key: bytes) -> bool:
        """Whether the key meets it. Raises `MatchFailed`, and then it is neither met nor not."""
        return (self.pattern.search(key) is None) is self.negate


@attrs.frozen
class Rule:
    """Answers when its condition holds, and `second` (regexp_table's ``/a/!/b/``) too.

    `fixed` is the answer of a result without groups; else `result` is filled in.
    """

    condition: Condition
    second: Condition | None
    result: Result
    fixed: Answer | None


@attrs.frozen
class Block:
    """``if`` ... ``endif``: rules that count when the condition holds."""

    condition: Condition
    rules: Rules


Rules = tuple[Rule | Block, ...]


def check_no_delimiters(pattern: str) -> None:
    """Raises `PatternError` for a pattern written as in a table's file: its slashes would match slashes,
    and hardly any key has those."""
    if re.fullmatch(r"/.*/[a-zA-Z]*", pattern, re.DOTALL):
        raise PatternError("it stands here without slashes; a slash at both ends is written [/]...[/]")


def check_flags(flags: str, syntax: str) -> None:
    """Raises `PatternError` for a flag that the syntax does not have."""
    for flag in flags:
        if flag not in (_PERL_FLAGS if syntax == "pcre" else _POSIX_FLAGS):
            raise PatternError(f'unknown regexp option "{flag}": skipping this rule')


def compile_pattern(pattern: str, flags: str, syntax: str, engine: Engine, captures: bool) -> Pattern:
    """Compile with flags that `check_flags` has passed. Raises `PatternError`, `Untranslatable`."""
    try:
        return _compile(pattern, flags, syntax, engine, captures)
    except RecursionError:
        raise Untranslatable("its groups are nested too deeply") from None


def _compile(pattern: str, flags: str, syntax: str, engine: Engine, captures: bool) -> Pattern:
    if syntax == "pcre":
        options = perl.CASELESS | perl.DOTALL
        for flag in flags:
            options ^= _PERL_FLAGS[flag]
        compiled = engine.perl(pattern, options, captures)
        tree: Node | None = outline(pattern, options)
    else:
        icase, newline, basic = (bool(flags.count(flag) % 2) for flag in "imx")
        parsed = parse_posix(pattern, extended=not basic, icase=not icase, newline=newline)
        compiled = engine.posix(parsed, not icase, captures)
        tree = parsed.tree
    if tree is not None:
        compiled.read_as(tree)
    return compiled


def compile_result(text: str) -> Result:
    """Split a result into literal text and groups: ``$1``, ``${1}``, ``$(1)``; ``$$`` is a dollar.

    Raises `PatternError` for a name that is not a number from 1, and for none.
    """
    parts: list[str | int] = []
    literal = ""
    position = 0
    while position < len(text):
        if text[position] != "$":
            literal += text[position]
            position += 1
        elif text.startswith("$$", position):
            literal += "$"
            position += 2
        else:
            if literal:
                parts.append(literal)
                literal = ""
            name, position = _group_name(text, position + 1)
            parts.append(_group_number(name))
    if literal:
        parts.append(literal)
    return tuple(parts)


def _group_name(text: str, start: int) -> tuple[str, int]:
    opening = text[start : start + 1]
    if opening in ("(", "{"):
        closing = {"(": ")", "{": "}"}[opening]
        depth = 1
        end = start + 1
        while depth:
            if end >= len(text):
                raise PatternError(f'truncated macro reference: "{text}"')
            depth += (text[end] == opening) - (text[end] == closing)
            end += 1
        name = text[start + 1 : end - 1]
    else:
        end = start
        while end < len(text) and text[end] in string.ascii_letters + string.digits + "_":
            end += 1
        name = text[start:end]
    if not name:
        raise PatternError(f'empty macro name: "{text}"')
    return name, end


def _group_number(name: str) -> int:
    if name.strip(string.digits):
        raise PatternError(f'non-numeric replacement index "{name}"')
    number = int(name.lstrip("0")[:9] or "0")
    if not number:
        raise PatternError(f'out of range replacement index "{name}"')
    return number


def answer(result: Result) -> Answer | None:
    """The answer of a result without groups; None for one with groups."""
    if any(isinstance(part, int) for part in result):
        return None
    return _answer("".join(map(str, result)))


def _answer(latin: str) -> Answer:
    if not latin:
        return _EMPTY
    return table_answer(
        latin if latin.isascii() else latin.encode("latin-1").decode(errors="surrogateescape")
    )


def fill_in(rule: Rule, match: Any, key: bytes) -> Answer:
    """The answer of a rule whose result has groups, for a match of its pattern."""
    group = rule.condition.pattern.group
    return _answer(
        "".join(
            part if isinstance(part, str) else group(match, key, part).decode("latin-1")
            for part in rule.result
        )
    )
