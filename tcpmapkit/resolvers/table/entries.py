"""The entries of a table in memory.

A dictionary that grows moves all that it holds at one go, and is freed at one go: a million rows take 77 ms
and 45 ms, and nobody is answered meanwhile, whichever thread does it. Many rows are spread over many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import BinaryIO, Final

from tcpmapkit.resolvers.source_file import Identity, beside_lookups, settled
from tcpmapkit.resolvers.table.reading import Entry, Reading, Warn, Warnings, duplicate, why_refused

__all__ = ["Entries", "read_entries"]

#: Dictionaries of a large table, a power of two: with ten million rows each takes some 3 ms to grow.
_PARTS: Final = 256


#: Entries that are freed at a time.
_FREED: Final = 1000


class Entries:
    """Value or values by folded key. `large` says that there may be many."""

    __slots__ = ("_parts", "get")

    def __init__(self, large: bool) -> None:
        parts: list[dict[str, Entry]] = [{} for _ in range(_PARTS if large else 1)]
        mask = len(parts) - 1
        self._parts = parts
        #: The value or values of a folded key, None for a miss. Not to be called once it is drained.
        self.get: Callable[[str], Entry | None] = (
            (lambda key: parts[hash(key) & mask].get(key)) if mask else parts[0].get
        )

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def add_first(self, rows: Iterable[tuple[int, str, str]], warn: Warn) -> None:
        """Take line, key and value of each row; of equal keys the first counts, with a warning."""
        parts, mask = self._parts, len(self._parts) - 1
        for line, key, value in rows:
            part = parts[hash(key) & mask]
            if key in part:
                warn(line, duplicate(key))
                continue
            part[key] = value
            refused = why_refused(key, value)
            if refused:
                warn(line, refused)

    def add_joined(self, rows: Iterable[tuple[int, str, str]]) -> None:
        """Take line, key and value of each row; of equal keys all values, equal ones once."""
        parts, mask = self._parts, len(self._parts) - 1
        several: list[dict[str, dict[str, None]]] = [{} for _ in parts]
        for _, key, value in rows:
            at = hash(key) & mask
            there = parts[at].setdefault(key, value)
            if there != value:
                assert isinstance(there, str)  # tuples come last
                several[at].setdefault(key, {there: None})[value] = None
        for part, many in zip(parts, several, strict=True):
            part.update((key, tuple(values)) for key, values in many.items())
            many.clear()

    def clear(self) -> None:
        """Forget all."""
        for part in self._parts:
            part.clear()

    def drain(self) -> Iterator[None]:
        """Free some of them with each step: not part by part, since memory is given back with the last."""
        while self._parts:
            part = self._parts[-1]
            for _ in range(min(len(part), _FREED)):
                part.popitem()
            if not part:
                self._parts.pop()
            yield


def read_entries(reading: Reading, warnings: Warnings, large: bool) -> tuple[Entries, Identity]:
    """The entries of a file, and what the file was; blocks. Raises `ConfigError`."""
    entries = Entries(large)

    def read(file: BinaryIO) -> Entries:
        entries.clear()  # of an attempt during which the file changed
        warnings.clear()
        try:
            with closing(reading.rows(file, warnings)) as rows:
                if reading.joined:
                    entries.add_joined(rows)
                else:
                    entries.add_first(rows, warnings)
        except BaseException:
            entries.clear()
            raise
        return entries

    with beside_lookups():
        return settled(reading.path, read)
