"""``sqlite``: one SELECT in a read-only SQLite file.

A query runs in a thread. Asked in the event loop a small one would be faster (some 5 microseconds
against 50), but nothing tells small ones beforehand: a scan without an index, a cold disk or a file on
the network would stop every connection of the server. The cache in front takes the common load.
"""

from __future__ import annotations

import difflib
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs

from tcpmapkit import (
    ConfigError,
    Found,
    LookupPermFail,
    LookupTempFail,
    NotFound,
    PermFail,
    blocking,
    hookimpl,
)

_PARAMETERS = ("key", "local", "user", "extension", "domain")

# A parameter of SQL, or what may hold the like of one: literals, quoted names, comments.
_TOKEN = re.compile(
    r"""'[^']*' | "[^"]*" | `[^`]*` | \[[^\]]*\] | --[^\n]* | /\*.*?(?:\*/|\Z)
      | (?P<parameter> [:@$][\w$]+ | \?\d* )""",
    re.DOTALL | re.VERBOSE,
)

_SELECT = re.compile(r"(?:\s | --[^\n]*(?:\n|\Z) | /\*.*?\*/)* (?:SELECT|WITH|VALUES)\b", re.I | re.S | re.X)

#: After so many steps of SQLite's virtual machine (well under a millisecond) the time is looked at.
_STEPS = 10_000

#: More characters than any reply can carry: reading further rows is of no use.
_MOST = 100_000

#: Seconds that the start, and nothing else, waits for a lock.
_START_WAIT = 5.0

_Identity = tuple[int, int, int, int]


def _check_query(_: object, __: attrs.Attribute[str], query: str) -> None:
    """Check what an SQL query is and its parameters; the rest SQLite checks at the start."""
    found = [match["parameter"] for match in _TOKEN.finditer(query) if match["parameter"]]
    if not _SELECT.match(query):
        raise ConfigError("only a SELECT can be asked")
    all_of_them = ", ".join(f":{name}" for name in _PARAMETERS)
    for name in found:
        if name[0] != ":" or name[1:] not in _PARAMETERS:
            near = difflib.get_close_matches(name[1:], _PARAMETERS, 1)
            hint = f"did you mean :{near[0]}?" if near else f"there are {all_of_them}"
            raise ConfigError(f"unknown parameter {name!r}", hint=hint)
    if not found:
        raise ConfigError(
            "the query asks the same whatever the key is",
            hint="write :key, without quotes, where the key belongs",
        )


def _check_separator(_: object, __: attrs.Attribute[str], separator: str) -> None:
    if set(separator) & set("\r\n\0"):
        raise ConfigError("no reply can carry NUL, CR or LF")


def _identity(path: Path) -> _Identity:
    """What changes when the file is replaced, renamed over or copied over. Raises `OSError`."""
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


@attrs.define(eq=False)
class _Opened:
    """One connection, used by one thread at a time."""

    identity: _Identity
    connection: sqlite3.Connection
    asked: Any = None

    @classmethod
    def open(cls, path: Path, identity: _Identity, wait: float = 0) -> _Opened:
        """Open the file read-only; its locks are waited for `wait` seconds. Raises `OSError` or
        `sqlite3.Error`."""
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro",
            uri=True,
            timeout=wait,
            isolation_level=None,
            check_same_thread=False,
        )
        opened = cls(identity, connection)
        try:
            opened.check_whole(path)
        except BaseException:
            connection.close()
            raise
        connection.set_progress_handler(opened.out_of_time, _STEPS)
        return opened

    def check_whole(self, path: Path) -> None:
        """Refuse a file of which only the beginning is there, as while it is copied: SQLite may take
        the rows that are missing for rows that never were. Raises `OSError` or `sqlite3.Error`."""
        count, size, journal = (
            self.connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "page_size", "journal_mode")
        )
        # With a write-ahead log a checkpoint may be about to lengthen the file.
        if journal != "wal" and path.stat().st_size < count * size:
            raise sqlite3.DatabaseError("the file is shorter than its header says")

    def out_of_time(self) -> bool:
        return self.asked is not None and self.asked.time_left() <= 0


@attrs.define(eq=False)
class Sqlite:
    """The first column of each row that `query` selects, joined; NULL and the empty text are no values.

    The parameters are the folded key's, bound as data; a query whose parameter the key lacks is a
    miss, and so is a key that SQLite cannot hold. The file is opened anew when it has been replaced.
    A locked, missing or damaged file is a temporary failure, and so is a query that has not ended at
    the step's timeout, where it is stopped; a column that is neither text nor an integer is a
    permanent one.
    """

    path: Path = attrs.field(metadata={"help": "the database file, opened read-only"})
    query: str = attrs.field(
        validator=_check_query,
        metadata={"help": "a SELECT; its parameters are :key, :local, :user, :extension and :domain"},
    )
    separator: str = attrs.field(
        default=",", validator=_check_separator, metadata={"help": "what joins the values of several rows"}
    )
    _used: tuple[str, ...] = attrs.field(init=False, repr=False)
    _idle: list[_Opened] = attrs.field(init=False, factory=list, repr=False)
    _stopped: bool = attrs.field(init=False, default=False, repr=False)

    def __attrs_post_init__(self) -> None:
        found = (match["parameter"] for match in _TOKEN.finditer(self.query))
        self._used = tuple(dict.fromkeys(name[1:] for name in found if name))

    async def start(self, context: Any) -> None:
        """Open the file and compile the query. Raises `ConfigError` when either cannot be done."""
        import asyncio

        await asyncio.to_thread(self._compile)

    def _compile(self) -> None:
        try:
            opened = _Opened.open(self.path, _identity(self.path), _START_WAIT)
        except (OSError, sqlite3.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(f"cannot open {self.path}: {reason}", path=("path",)) from None
        try:
            program = opened.connection.execute(f"EXPLAIN {self.query}", dict.fromkeys(self._used, ""))
            # Columns: address, opcode, p1, p2, ...; a transaction that writes has a p2.
            writes = any(step[1] == "Transaction" and step[3] for step in program.fetchall())
            opened.connection.execute("PRAGMA busy_timeout = 0").close()
        except (sqlite3.Error, sqlite3.Warning) as error:
            opened.connection.close()
            raise ConfigError(f"{self.path}: {error}", path=("query",)) from None
        if writes:
            opened.connection.close()
            raise ConfigError("only a SELECT can be asked", path=("query",))
        self._idle.append(opened)

    async def stop(self) -> None:
        """Close the connections."""
        self._stopped = True
        while self._idle:
            self._idle.pop().connection.close()

    @blocking
    def resolve(self, query: Any) -> Found | NotFound | PermFail | None:
        """The values selected, or a miss. Raises `LookupTempFail` and `LookupPermFail`."""
        parameters: dict[str, str] = {}
        for name in self._used:
            text = getattr(query, name)
            if text is None or (not text and name != "key"):
                return None
            parameters[name] = text
        if "\0" in query.key:
            return None
        try:
            query.key.encode()
        except UnicodeEncodeError:
            return None
        opened = self._connection()
        opened.asked = query
        try:
            values = self._selected(opened.connection, parameters)
        except sqlite3.Error as error:
            opened.connection.close()
            reason = "the query had not ended at its timeout" if query.time_left() <= 0 else str(error)
            raise LookupTempFail(f"{self.path.name}: {reason}") from None
        except BaseException:
            opened.connection.close()
            raise
        opened.asked = None
        self._idle.append(opened)
        if self._stopped:
            opened.connection.close()
        if not values:
            return None
        try:
            return Found.joined(values, self.separator)
        except ValueError as error:
            return PermFail(f"{self.path.name}: {error}")

    def _connection(self) -> _Opened:
        """A connection to the file that is there now."""
        try:
            identity = _identity(self.path)
            while self._idle:
                opened = self._idle.pop()
                if opened.identity == identity:
                    return opened
                opened.connection.close()
            return _Opened.open(self.path, identity)
        except OSError as error:
            raise LookupTempFail(f"{self.path.name}: {error.strerror}") from None
        except sqlite3.Error as error:
            raise LookupTempFail(f"{self.path.name}: {error}") from None

    def _selected(self, connection: sqlite3.Connection, parameters: dict[str, str]) -> list[str]:
        values: list[str] = []
        size = 0
        with closing(connection.execute(self.query, parameters)) as rows:
            for row in rows:
                value = row[0]
                if isinstance(value, int):
                    value = str(value)
                elif value is not None and not isinstance(value, str):
                    raise LookupPermFail(
                        f"{self.path.name}: the column is a {type(value).__name__}, not a text"
                    )
                if value:
                    values.append(value)
                    size += len(value)
                if size > _MOST:
                    raise LookupPermFail(f"{self.path.name}: the rows pass {_MOST} characters")
        return values


@hookimpl
def register_resolvers(register: Any) -> None:
    register("sqlite", Sqlite)
