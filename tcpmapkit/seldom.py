"""Log lines that repeat are written once a minute, with a count of the rest."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

__all__ = ["Seldom"]

#: Seconds between two lines about the same.
_INTERVAL: Final = 60.0

#: More subjects than this are forgotten at once: a subject is a class name, never a key.
_MOST: Final = 1000


class Seldom:
    """Remembers when a line about each subject was last written, and how many were left out since."""

    __slots__ = ("_subjects",)

    def __init__(self) -> None:
        self._subjects: dict[str, tuple[float, int]] = {}

    def leaves_out(self, subject: str, now: float) -> bool:
        """Whether a line about `subject` is left out now, and then it is counted: for those who would go to
        some expense for it."""
        written, left_out = self._subjects.get(subject, (float("-inf"), 0))
        if now - written >= _INTERVAL:
            return False
        self._subjects[subject] = (written, left_out + 1)
        return True

    def log(
        self,
        logger: logging.Logger,
        level: int,
        subject: str,
        now: float,
        text: str,
        *args: object,
        exc_info: BaseException | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> bool:
        """Log `text % args` unless a line about `subject` was written less than a minute before `now`
        (seconds); whether it was. A line says how many were left out since the last one."""
        if self.leaves_out(subject, now):
            return False
        _, left_out = self._subjects.get(subject, (now, 0))
        if len(self._subjects) >= _MOST:
            self._subjects.clear()
        self._subjects[subject] = (now, 0)
        if left_out:
            text, args = text + " (and %d more since the last such line)", (*args, left_out)
        logger.log(level, text, *args, exc_info=exc_info, extra=extra)
        return True
