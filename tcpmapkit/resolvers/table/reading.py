"""How a table file is read, into memory and into an index alike: rows and warnings."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable, Generator
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from tcpmapkit import Found
from tcpmapkit.resolvers.postfix_lines import table_answer

__all__ = [
    "Entry",
    "Reading",
    "Warn",
    "Warnings",
    "duplicate",
    "why_refused",
]

#: A value, or the values of a key's rows: plain text, so that the garbage collector need not walk a
#: million objects.
Entry = str | tuple[str, ...]

Warn = Callable[[int, str], object]

#: Lines of one table that are warned about; a wrong delimiter would fill the log with the whole table.
_MOST_WARNINGS: Final = 1000


class Reading(Protocol):
    """How a file becomes rows. It is pickled, for the child process that builds an index.

    `joined` says what becomes of rows with the same key: joined in file order, or the first counts.
    `meaning` is every option that changes what is found: an index is good for one meaning only.
    """

    @property
    def path(self) -> Path: ...

    @property
    def joined(self) -> bool: ...

    @property
    def meaning(self) -> tuple[str | int | bool, ...]: ...

    def rows(self, file: BinaryIO, warn: Warn) -> Generator[tuple[int, str, str], None, None]:
        """Each row: the number of its line, its folded key, its value. A key holds no NUL and no LF and
        is not empty, nor is a value. `warn` is told of the lines that say nothing. Raises `ConfigError`."""


class Warnings:
    """What loading a table warns of, by line: the first thousand, and how many there were."""

    def __init__(self, kept: list[tuple[int, str]] | None = None, count: int = 0) -> None:
        #: A heap, the last line first: (-line, -which one of the line, text).
        self._kept = [(-line, -at, text) for at, (line, text) in enumerate(kept or [])]
        self.count = count
        heapq.heapify(self._kept)

    def __call__(self, line: int, message: str) -> None:
        one = (-line, -self.count, message)
        self.count += 1
        if len(self._kept) < _MOST_WARNINGS:
            heapq.heappush(self._kept, one)
        elif one > self._kept[0]:
            heapq.heapreplace(self._kept, one)

    def clear(self) -> None:
        """Forget them: the table is read again."""
        self._kept.clear()
        self.count = 0

    def kept(self) -> list[tuple[int, str]]:
        """Line and message, in the order of the file."""
        return [(-line, message) for line, _, message in sorted(self._kept, reverse=True)]

    def log(self, path: Path, logger: logging.Logger) -> None:
        """Log them, once."""
        kept = self.kept()
        for line, message in kept:
            logger.warning("%s, line %d: %s", path, line, message)
        if self.count > len(kept):
            logger.warning("%s: %d more lines with such mistakes", path, self.count - len(kept))


def duplicate(key: str) -> str:
    """The warning about a key whose first row counts."""
    return f'duplicate entry: "{key}" -- the first one counts'


def why_refused(key: str, value: str) -> str | None:
    """The warning about a value that no reply can carry, None for one that can be answered."""
    if "\r" not in value:
        return None
    failure = table_answer(value)
    assert not isinstance(failure, Found)
    return f"{failure.reason}; asking for {key!r} fails"
