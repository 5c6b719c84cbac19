"""What a reload is made of, and what becomes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from tcpmapkit.errors import ConfigError

if TYPE_CHECKING:
    from tcpmapkit.renewal import Renewal
    from tcpmapkit.server import ListenerChange

__all__ = ["Prepared", "Reloaded", "Reloads"]


@attrs.define
class Reloads:
    """How many configurations were taken and refused since the start."""

    good: int = 0
    bad: int = 0


@attrs.frozen(eq=False)
class Prepared:
    """Another site with its listeners, which waits to be taken or to be discarded."""

    renewal: Renewal
    change: ListenerChange


@attrs.frozen
class Reloaded:
    """What became of a reload: with `errors` nothing has changed. `changed` names the maps that are new."""

    errors: tuple[ConfigError, ...] = ()
    warnings: tuple[ConfigError, ...] = ()
    changed: frozenset[str] = frozenset()

    @property
    def ok(self) -> bool:
        """Whether it was taken."""
        return not self.errors
