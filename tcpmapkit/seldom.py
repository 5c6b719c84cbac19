"""Log lines that repeat are written once a minute, with a count of the rest."""

from __future__ import annotations

from typing import Final

__all__ = ["Seldom"]

#: Seconds between two lines about the same.
_INTERVAL: Final = 60.0

#: More subjects than this are forgotten at once: a subject is a class name, never a key.
_MOST: Final = 1000


class Seldom:
    """Says when a line about a subject is due again."""

    __slots__ = ("_subjects",)

    def __init__(self) -> None:
        self._subjects: dict[str, list[float]] = {}

    def now(self, subject: str, time: float) -> int | None:
        """None when a line about `subject` was written less than a minute before `time` (seconds);
        else how many were left out since the last one."""
        said = self._subjects.get(subject)
        if said is not None and time - said[0] < _INTERVAL:
            said[1] += 1
            return None
        if len(self._subjects) >= _MOST:
            self._subjects.clear()
        self._subjects[subject] = [time, 0]
        return int(said[1]) if said is not None else 0
