"""Tables whose files went wrong while they are served: the old contents are held until that is mended."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from tcpmapkit.errors import ConfigError

__all__ = ["HeldTables", "Place", "has_shrunk"]

_log = logging.getLogger(__name__)

_BEGINS: Final = "map %s: step %s: keeps the contents that it has: %s"

#: The names of a map and of its step.
Place = tuple[str, str]

#: A table with no more rows may lose any of them but the last: half of a handful is soon lost in earnest.
_FEW_ROWS: Final = 20

#: What the product of a share and a number of rows may be off by, for each row.
_ROUNDING: Final = 1e-9


def has_shrunk(old_rows: int, new_rows: int, share: float | None) -> bool:
    """Whether a table lost more than this share of its rows, as one does whose file was cut off.

    `share` is the option `max_shrink`, from 0 to 1; None switches it off. A table of 20 rows or fewer may
    lose any, and not all: a full disk makes empty files too.
    """
    if share is None:
        return False
    if old_rows <= _FEW_ROWS:
        return new_rows == 0 < old_rows and share < 1
    return old_rows - new_rows > old_rows * (share + _ROUNDING)


class HeldTables:
    """Which tables are held now, and why. Logs each when that begins, when its reason becomes another, and
    when it ends; not at every look at it."""

    def __init__(self) -> None:
        self._reasons: dict[Place, ConfigError] = {}

    @property
    def reasons(self) -> Mapping[Place, ConfigError]:
        """What is wrong with the file of each table that is held."""
        return MappingProxyType(self._reasons)

    def is_news(self, held: Mapping[Place, ConfigError]) -> bool:
        """Whether one of these is not held yet, or for another reason."""
        return any(str(self._reasons.get(place)) != str(reason) for place, reason in held.items())

    def become(self, held: Mapping[Place, ConfigError]) -> None:
        """Take what is held from now on."""
        before, self._reasons = self._reasons, dict(held)
        for place, reason in held.items():
            if str(before.get(place)) != str(reason):
                _log.error(_BEGINS, *place, str(reason).partition("\n")[0])
        for place in before:
            if place not in held:
                _log.warning("map %s: step %s: is held no more", *place)
