"""What is known of the tables that workers serve, for one that is started later: a table that the others hold
back, because it lost its rows or fails a test, is not taken by it either."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from tcpmapkit.doubts import tell_doubts
from tcpmapkit.errors import ConfigError
from tcpmapkit.renewal import fail_without_network, loss
from tcpmapkit.site import located

if TYPE_CHECKING:
    from tcpmapkit.built_step import BuiltStep, Place
    from tcpmapkit.config import Document
    from tcpmapkit.serving import Serving
    from tcpmapkit.site import Site

__all__ = ["KnownTables", "TablesServed"]

_Table = tuple[int, tuple[str, ...]]
"""How many rows, read from which files."""

_Path = tuple[str | int, ...]


@attrs.frozen
class KnownTables:
    """The tables of a worker that serves. `wrong` are the paths of the site's tests that gave a wrong answer
    at the start, which runs none: they say nothing of a table."""

    tables: Mapping[Place, _Table] = attrs.field(factory=dict)
    wrong: frozenset[_Path] = frozenset()

    def as_data(self) -> dict[str, Any]:
        """For a message."""
        tables = [[*place, rows, files] for place, (rows, files) in self.tables.items()]
        return {"tables": tables, "wrong": [list(path) for path in sorted(self.wrong, key=str)]}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> KnownTables:
        """What `as_data` was made of. Raises `KeyError`, `TypeError` or `ValueError` for anything else."""
        tables = {(map, step): (int(rows), tuple(files)) for map, step, rows, files in data["tables"]}
        return cls(tables, frozenset(map(tuple, data["wrong"])))

    def loss(self, new: BuiltStep) -> ConfigError | None:
        """What is wrong with a table that has lost too many rows since."""
        rows, files = self.tables.get(new.place, (None, ()))
        return loss(new, rows) if rows is not None and files == _files(new) else None


class TablesServed:
    """The tables of a worker, as it tells the parent of them."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._wrong: frozenset[_Path] = frozenset()
        self._document: Document | None = None  # of which tests are wrong: those of a later one are right
        self._told = KnownTables()

    async def check(self, site: Site, known: KnownTables | None) -> None:
        """Look at the tables of a site that is started, before it is served; `known` is None at the start of
        the server, which takes any.

        Raises `ConfigErrors`, located, for what workers that serve would not have taken.
        """
        steps = {one.place: one for one in site.maps.steps if one.alone}
        wrong = await fail_without_network(site, steps)
        if known is None:
            tell_doubts(site, wrong)
        else:
            errors = [error for one in steps.values() if (error := known.loss(one)) is not None]
            errors += [error for error in wrong if error.path not in known.wrong]
            if errors:
                raise located(site.document, errors)
        self._wrong, self._document = frozenset(error.path for error in wrong), site.document

    def message(self) -> dict[str, Any]:
        """All that is known of them."""
        site = self._serving.site
        rows = {one.place: (one.rows, _files(one)) for one in site.maps.steps if one.alone}
        tables = {place: (count, files) for place, (count, files) in rows.items() if count is not None}
        self._told = KnownTables(tables, self._wrong if site.document is self._document else frozenset())
        return {"tables": self._told.as_data()}

    def news(self) -> dict[str, Any]:
        """The same, or nothing if it is what was told last."""
        told = self._told
        message = self.message()
        return message if self._told != told else {}


def _files(step: BuiltStep) -> tuple[str, ...]:
    return tuple(map(str, step.files))
