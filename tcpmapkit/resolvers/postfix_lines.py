"""The lines of a table file as Postfix reads them, and what a line's value answers.

The rules are those of Postfix's readlline(3), which every one of its text tables goes through
(postmap(1), cidr_table(5), pcre_table(5), regexp_table(5)).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from tcpmapkit import Found, PermFail, TempFail

__all__ = [
    "WHITE_SPACE",
    "decoded",
    "join_lines",
    "logical_lines",
    "table_answer",
]

#: What separates words in a Postfix table: isspace(3) of ASCII, never Unicode's other spaces.
WHITE_SPACE = " \t\n\v\f\r"


def _warn_nobody(line: int, message: str) -> None:
    pass


def logical_lines(text: str, warn: Callable[[int, str], object] = _warn_nobody) -> Iterator[tuple[int, str]]:
    """The logical lines of `text`, each with the number (from 1) of its first physical line.

    A line that begins with white space continues the one before it, white space kept; empty lines,
    blank lines and lines whose first other character is ``#`` count as nothing, between the parts of
    a logical line too. Only LF ends a line: a CR is white space at its end. A logical line is cut at
    its first NUL, and dropped when it begins with white space (nothing precedes it): `warn` is told
    the line and why. Lines are not stripped.
    """
    return join_lines(text.split("\n"), warn)


def join_lines(
    lines: Iterable[str], warn: Callable[[int, str], object] = _warn_nobody
) -> Iterator[tuple[int, str]]:
    """The same of physical lines, without their LF."""
    parts: list[str] = []
    first = 0
    for number, line in enumerate(lines, 1):
        if line[:1] not in WHITE_SPACE and line[0] != "#" and parts:
            yield from _logical_line(first, parts, warn)
            parts = []
        stripped = line.lstrip(WHITE_SPACE)
        if not stripped or stripped[0] == "#":
            continue
        if not parts:
            first = number
        parts.append(line)
    if parts:
        yield from _logical_line(first, parts, warn)


def _logical_line(
    first: int, parts: list[str], warn: Callable[[int, str], object]
) -> Iterator[tuple[int, str]]:
    line = parts[0] if len(parts) == 1 else "".join(parts)
    if line[0] in WHITE_SPACE:
        warn(first, f"logical line must not start with whitespace: {line[:30]!r} -- ignoring this line")
        return
    if "\0" in line:
        warn(first, "text after null byte is ignored")
        line = line[: line.index("\0")]
    yield first, line


def decoded(content: bytes) -> str:
    """The text of a table file; bytes that are not UTF-8 become lone surrogates."""
    return content.decode("utf-8", "surrogateescape")


def table_answer(value: str) -> Found | TempFail | PermFail:
    """What a table's value answers: itself, or the failure of a value that no reply can carry.

    Invalid UTF-8 is temporary, as for Postfix's dict_utf8(3) "a configuration error"; so is CR
    within a value, which Postfix would hand on, permanent.
    """
    try:
        return Found(value)
    except ValueError as error:
        return PermFail(str(error)) if "\r" in value else TempFail(str(error))
