"""The results of a table's rules, by number."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Final

__all__ = ["numbered"]

#: So many different ones are plain texts, which are found faster, and are no burden.
_FEW: Final = 4096


class _Many(Sequence[str]):
    """Texts one after another, as bytes: neither the garbage collector nor whoever frees them has to walk
    through a hundred thousand."""

    __slots__ = ("_bytes", "_ends")

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("Q", [0])

    def add(self, text: str) -> int:
        """Take one more; its number."""
        self._bytes += text.encode(errors="surrogatepass")
        self._ends.append(len(self._bytes))
        return len(self) - 1

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> str:  # type: ignore[override]  # nobody asks for several
        return self._bytes[self._ends[number] : self._ends[number + 1]].decode(errors="surrogatepass")


def numbered(texts: Iterable[str]) -> tuple[Sequence[int], Sequence[str]]:
    """The number of each text, and the texts by number: most tables have few that differ."""
    known: dict[str, int] = {}
    numbers, many = array("i"), _Many()
    for text in texts:
        number = known.get(text)
        if number is None:
            number = many.add(text)
            if number < _FEW:
                known[text] = number
        numbers.append(number)
    return numbers, tuple(known) if len(known) == len(many) else many
