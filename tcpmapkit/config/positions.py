"""Where each key and value of a TOML document stands.

tomli gives positions for syntax errors only, so this scans the text again, and only when there is
a mistake to report. The text must be TOML that tomli has accepted: what is not needed to find the
ends of keys and values is not checked here.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from contextlib import suppress

import attrs
import tomli

__all__ = ["Positions", "Span", "scan"]

Path = tuple[str | int, ...]

_BLANK = re.compile(r"[ \t]*")
_SPACE = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
# A multi-line string may end in two quotes more than its delimiter has.
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
# Numbers, booleans, and dates, which may hold a single space.
_SCALAR = re.compile(r"[^,\]}#\n]+")


@attrs.frozen
class Span:
    """Offsets into the text: where the key begins, where the value begins and ends.

    A table's key is its name in the header (or in a dotted key) and its value the header itself.
    """

    key: int
    start: int
    end: int


class Positions:
    """The spans of one document by key path, and the lines they are in."""

    def __init__(self, text: str) -> None:
        self.text = text.replace("\r\n", "\n")
        self.spans = scan(self.text)
        self._lines = [0, *(match.end() for match in re.finditer("\n", self.text))]

    def nearest(self, path: Path) -> tuple[Path, Span] | None:
        """The span of the path, or of the closest table or array around it that stands in the text."""
        for length in range(len(path), 0, -1):
            span = self.spans.get(path[:length])
            if span is not None:
                return path[:length], span
        return None

    def place(self, offset: int) -> tuple[int, int]:
        """Line and column, both from 1."""
        line = bisect_right(self._lines, offset)
        return line, offset - self._lines[line - 1] + 1

    def line_start(self, line: int) -> int:
        """The offset of the line's first character; the line is counted from 1."""
        return self._lines[line - 1]

    def line(self, line: int) -> str:
        """The text of a line, counted from 1."""
        start = self._lines[line - 1]
        return (
            self.text[start:].split("\n", 1)[0]
            if line == len(self._lines)
            else self.text[start : self._lines[line] - 1]
        )


def scan(text: str) -> dict[Path, Span]:
    """Every key path of a TOML document (lines ending in LF) and its span, in the order of the text.

    Text that is not TOML is scanned up to where that shows.
    """
    scanner = _Scanner(text)
    # A misplaced caret is better than a second error that hides the first.
    with suppress(IndexError, ValueError):
        scanner.document()
    return scanner.spans


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.spans: dict[Path, Span] = {}
        #: Arrays of tables: how many tables each has so far.
        self.counts: dict[Path, int] = {}

    def document(self) -> None:
        table: Path = ()
        self.skip(_SPACE)
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                table = self.header()
            else:
                self.pair(table)
            self.skip(_SPACE)

    def skip(self, what: re.Pattern[str]) -> None:
        self.at = what.match(self.text, self.at).end()  # type: ignore[union-attr]  # it matches ""

    def take(self, what: re.Pattern[str]) -> str:
        match = what.match(self.text, self.at)
        if match is None:
            raise ValueError(self.at)
        self.at = match.end()
        return match[0]

    def expect(self, token: str) -> None:
        if not self.text.startswith(token, self.at):
            raise ValueError(self.at)
        self.at += len(token)

    def header(self) -> Path:
        start = self.at
        brackets = 2 if self.text.startswith("[[", start) else 1
        self.at += brackets
        self.skip(_BLANK)
        parts = self.dotted_key()
        self.expect("]" * brackets)
        path: Path = ()
        for number, (name, key) in enumerate(parts, 1):
            path = (*path, name)
            last = number == len(parts)
            span = Span(key, start, self.at)
            if last and path not in self.counts:
                # A header of its own is a better place for a table than a name it was implied by.
                self.spans[path] = span
            else:
                self.spans.setdefault(path, span)
            if last and brackets == 2:
                index = self.counts.get(path, 0)
                self.counts[path] = index + 1
                path = (*path, index)
                self.spans[path] = span
            elif path in self.counts:
                path = (*path, self.counts[path] - 1)
        return path

    def dotted_key(self) -> list[tuple[str, int]]:
        parts = []
        while True:
            start = self.at
            if self.text[start] in "\"'":
                name = tomli.loads("key = " + self.take(_STRING))["key"]
            else:
                name = self.take(_BARE_KEY)
            parts.append((name, start))
            self.skip(_BLANK)
            if self.text[self.at] != ".":
                return parts
            self.at += 1
            self.skip(_BLANK)

    def pair(self, table: Path) -> None:
        parts = self.dotted_key()
        end = self.at
        self.expect("=")
        self.skip(_BLANK)
        path = table
        for name, key in parts[:-1]:
            path = (*path, name)
            self.spans.setdefault(path, Span(key, parts[0][1], end))
        name, key = parts[-1]
        self.value((*path, name), key)

    def value(self, path: Path, key: int) -> None:
        start = self.at
        self.spans[path] = Span(key, start, start)  # before what is in it: the order of the text
        first = self.text[start]
        if first in "\"'":
            self.take(_STRING)
        elif first == "[":
            self.at += 1
            index = 0
            while not self.closed("]"):
                self.value((*path, index), self.at)
                index += 1
        elif first == "{":
            self.at += 1
            while not self.closed("}"):
                self.pair(path)
        else:
            self.at = start + len(self.take(_SCALAR).rstrip())
        self.spans[path] = Span(key, start, self.at)

    def closed(self, bracket: str) -> bool:
        """Step over white space, comments and a comma, and over the bracket if it is next."""
        self.skip(_SPACE)
        if self.text[self.at] == ",":
            self.at += 1
            self.skip(_SPACE)
        if self.text[self.at] != bracket:
            return False
        self.at += 1
        return True
