"""The results of a table's rules, by their numbers."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

__all__ = ["Results"]


class Results:
    """Texts one after another, as bytes: neither the garbage collector nor whoever frees them has to walk
    through a hundred thousand."""

    __slots__ = ("_bytes", "_ends")

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._bytes = bytearray()
        self._ends = array("Q", [0])
        for text in texts:
            self._bytes += text.encode(errors="surrogatepass")
            self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> str:
        return self._bytes[self._ends[number] : self._ends[number + 1]].decode(errors="surrogatepass")
