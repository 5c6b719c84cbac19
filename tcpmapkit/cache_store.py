"""Where the cache keeps its entries: bounded in bytes, the least used going first."""

from __future__ import annotations

from collections.abc import Hashable
from operator import itemgetter
from sys import getsizeof
from typing import Any, Final

from cachetools import LRUCache

__all__ = ["Marks", "Store", "entry_size"]

#: Bytes that an entry costs beside its key and texts: the tuple and its numbers, its places in the
#: store's three dictionaries and in the order of use (measured; a test holds it against tracemalloc).
_ENTRY: Final = 430

#: How many entries in a row are spared because a ready reply used them, before one goes all the
#: same: eviction stays a bounded piece of work.
_SPARED: Final = 8


class Marks:
    """One byte an entry: set when a ready reply made from it was used, so that the entry's place in
    the order of use need not be moved then. Number 0 belongs to no entry."""

    def __init__(self) -> None:
        self.used = bytearray(1)
        self._free: list[int] = []

    def take(self) -> int:
        if self._free:
            mark = self._free.pop()
            self.used[mark] = 0  # a reply may outlive the entry that it came from
            return mark
        self.used.append(0)
        return len(self.used) - 1

    def give_back(self, mark: int) -> None:
        self._free.append(mark)


class Store(LRUCache[Hashable, tuple[Any, ...]]):
    """Entries by key; the first field of each is its size, the last its mark. The least used goes
    first; those used through a ready reply get a second chance."""

    def __init__(self, max_size: int, marks: Marks) -> None:
        super().__init__(max_size, getsizeof=itemgetter(0))
        self._marks = marks

    def popitem(self) -> tuple[Hashable, tuple[Any, ...]]:
        for _ in range(_SPARED):
            key, entry = super().popitem()
            mark = entry[-1]
            if not self._marks.used[mark]:
                break
            self._marks.used[mark] = 0
            self[key] = entry
        else:
            key, entry = super().popitem()
            mark = entry[-1]
        self._marks.give_back(mark)
        return key, entry

    def drop(self, key: Hashable) -> None:
        """Forget the key, if it is here."""
        entry = self.pop(key, None)
        if entry is not None:
            self._marks.give_back(entry[-1])

    def find(self, key: Hashable) -> tuple[Any, ...] | None:
        """The entry, which thereby is the last used; None when there is none."""
        try:
            return self[key]
        except KeyError:
            return None


def entry_size(key: Hashable, *texts: str) -> int:
    """The bytes that an entry of these texts costs."""
    size = _ENTRY + sum(map(getsizeof, texts))
    return size + (sum(map(getsizeof, key)) + getsizeof(key) if isinstance(key, tuple) else getsizeof(key))
