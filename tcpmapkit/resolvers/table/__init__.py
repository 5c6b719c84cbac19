"""Tables of any size: in memory a small one, a large one in an index on disk that is mapped.

`open_table` is what `file` and `csv` load with. What is large is read and sorted in a child process:
in the server, even in a thread, it would hold the interpreter for longer than a client may notice.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

import attrs

from tcpmapkit import ConfigError, LookupTempFail
from tcpmapkit.resolvers.source_file import Identity, identity_of, is_same
from tcpmapkit.resolvers.table.entries import Entries, read_entries
from tcpmapkit.resolvers.table.reading import Entry, Reading, Warnings

if TYPE_CHECKING:
    from tcpmapkit.resolvers.table.building import CannotIndex
    from tcpmapkit.resolvers.table.index import Index

__all__ = [
    "INDEX_DIRECTORY_HELP",
    "INDEX_HELP",
    "Entry",
    "IndexKind",
    "Reading",
    "Table",
    "no_table",
    "open_table",
]

IndexKind = Literal["auto", "memory", "disk"]

INDEX_HELP: Final = "where the entries are kept: memory, an index on disk, or what suits their number"
INDEX_DIRECTORY_HELP: Final = "where the index is: else the cache directory, or beside the table"

#: A dictionary of so many rows grows and is freed within some 6 ms, in which nobody is answered.
_MOST_ROWS: Final = 100_000
_MOST_BYTES: Final = 64 << 20

#: Bytes of a file that is still read into memory when "auto" finds no place for an index; it takes
#: some three times as much there.
_MOST_WITHOUT_INDEX: Final = 512 << 20


@attrs.frozen(eq=False)
class Table:
    """What a file says: `get(key)` is the value of a folded key, the values of its rows when they are
    several, None for a miss. `rows` is the number of keys."""

    get: Callable[[str], Entry | None]
    rows: int
    _reading: Reading | None = None
    _identity: Identity | None = None
    _index: Index | None = None
    _entries: Entries | None = None

    def is_current(self) -> bool:
        """Whether the file is the one that was read. One stat(2); a file that is gone is not."""
        return self._reading is not None and is_same(self._reading.path, self._identity)

    async def close(self) -> None:
        """Let go of it, holding nobody up. `get` is not to be called any more."""
        import asyncio

        for _ in self._entries.drain() if self._entries is not None else ():
            await asyncio.sleep(0)
        if self._index is not None:
            # The system unmaps it, and frees the file if another has taken its place: not at once.
            await asyncio.to_thread(self._index.close)


def no_table() -> Table:
    """What a resolver has that is not started, or is stopped: whoever asks it all the same must not be told
    that there is no such key."""
    return Table(_not_loaded, 0)


def _not_loaded(key: str) -> NoReturn:
    raise LookupTempFail("the table is not loaded")


async def open_table(reading: Reading, index: IndexKind, directory: Path | None, context: Any) -> Table:
    """The table of the file as it is now: from the index if that is current, built first if it is not.

    `directory` is where the index belongs, None for the usual places. What the rows warn of is logged.
    Raises `ConfigError` when the file cannot be read or is damaged, or an index must be built and cannot.
    """
    import asyncio

    large = index == "disk" or await asyncio.to_thread(_is_large, reading.path)
    if large and index != "memory":
        # Imported where they are needed: most tables are small.
        from tcpmapkit.resolvers.table.building import CannotIndex, current_index

        try:
            found = await current_index(reading, directory, context)
        except CannotIndex as failure:
            _without_index(reading.path, index, failure, context)
        else:
            found.warnings.log(reading.path, context.logger)
            return Table(found.get, found.rows, reading, found.identity, found)
    warnings = Warnings()
    try:
        entries, identity = await asyncio.to_thread(read_entries, reading, warnings, large)
    finally:
        warnings.log(reading.path, context.logger)
    return Table(entries.get, len(entries), reading, identity, entries=entries)


def _is_large(path: Path) -> bool:
    """Whether the file is too large for one dictionary. Reads no more of it than is needed to tell."""
    if identity_of(path).size > _MOST_BYTES:
        return True
    rows = 0
    try:
        with path.open("rb", buffering=0) as file:
            while rows <= _MOST_ROWS and (piece := file.read(1 << 20)):
                rows += max(piece.count(b"\n"), piece.count(b"\r"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", path=("path",)) from None
    return rows > _MOST_ROWS


def _without_index(path: Path, index: IndexKind, failure: CannotIndex, context: Any) -> None:
    """Go on in memory where that is wanted and can be had. Raises `ConfigError` where not."""
    option = "index" if index == "disk" else "path"
    if index == "disk" or path.stat().st_size > _MOST_WITHOUT_INDEX:
        raise ConfigError(f"no index of {path}: {failure}", path=(option,), hint=failure.hint) from None
    context.logger.warning(
        "no index of %s: %s; it is read into memory at each start (%s)", path, failure, failure.hint
    )
