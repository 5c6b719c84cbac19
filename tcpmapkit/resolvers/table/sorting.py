"""Sorting more than fits in memory: runs that are sorted in memory and merged from anonymous files."""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

__all__ = ["Sorter"]

#: Bytes of a run in memory; Python's own part makes that some twice as much.
_RUN: Final = 64 << 20

#: Runs, and so open files, that are merged at once.
_MOST_RUNS: Final = 200

#: Bytes that are read from a run, or written, at a time.
_BUFFER: Final = 1 << 18


class Sorter:
    """Takes records, bytes that end with their only LF, and gives them back in their order.

    `expected` is about how many bytes there will be: it keeps the number of runs in bounds. The files have
    no names, are gone with the process, and nobody else can open them.
    """

    def __init__(self, directory: Path, expected: int = 0) -> None:
        self._directory = directory
        self._most = max(_RUN, expected // _MOST_RUNS)
        self._run: list[bytes] = []
        self._bytes = 0
        self._files: list[IO[bytes]] = []
        #: Bytes of all records, and how many there are.
        self.size = 0
        self.count = 0

    def add(self, record: bytes) -> None:
        """Take a record. Raises `OSError` when the disk is full."""
        self._run.append(record)
        self._bytes += len(record)
        if self._bytes >= self._most:
            self._spill()

    def _spill(self) -> None:
        self._run.sort()
        # Closed in `close`: it lives as long as the sorting.
        file = tempfile.TemporaryFile(dir=self._directory, buffering=_BUFFER)  # noqa: SIM115
        self._files.append(file)
        file.writelines(self._run)
        file.seek(0)
        self._count()

    def _count(self) -> None:
        self.size += self._bytes
        self.count += len(self._run)
        if self._files:
            self._run = []
            self._bytes = 0

    def sorted(self) -> Iterator[bytes]:
        """The records in order, once; nothing can be added any more."""
        if self._files and self._run:
            self._spill()
        if not self._files:
            self._run.sort()
            self._count()
            return iter(self._run)
        return heapq.merge(*self._files)

    def close(self) -> None:
        """Let go of memory and files."""
        self._run = []
        for file in self._files:
            with suppress(OSError):  # what could not be written is not wanted any more
                file.close()
        self._files = []
