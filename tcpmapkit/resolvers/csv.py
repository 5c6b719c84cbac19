"""``csv``: a file of comma-separated values; rows with the same key are joined in file order."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, ClassVar
from unicodedata import unidata_version

import attrs

from tcpmapkit import ConfigError, Found, NotFound, hookimpl
from tcpmapkit.resolvers.table import (
    INDEX_DIRECTORY_HELP,
    INDEX_HELP,
    IndexKind,
    Table,
    no_table,
    open_table,
)

# The csv module's own limit, 128 KiB, is process-wide. No reply can carry a field that reaches it
# (100000 bytes over socketmap), so it is left alone.
_COLUMN = "a number from 1, or a name of the header"


def _check_column(_: object, __: attrs.Attribute[Any], column: Any) -> None:
    if isinstance(column, bool) or not isinstance(column, int | str):
        raise ConfigError(f"{_COLUMN}, not {column!r}")
    if column == "" or (isinstance(column, int) and column < 1):
        raise ConfigError(f"columns are counted from 1: {_COLUMN}, not {column!r}")


def _check_delimiter(_: object, __: attrs.Attribute[str], delimiter: str) -> None:
    if len(delimiter) != 1 or delimiter in '\r\n\0"':
        raise ConfigError(f"the delimiter is one character, not {delimiter!r}", hint=r'TAB is "\t"')


def _check_separator(_: object, __: attrs.Attribute[str], separator: str) -> None:
    if set(separator) & set("\r\n\0"):
        raise ConfigError("no reply can carry NUL, CR or LF")


@attrs.frozen
class Rows:
    """The rows of a CSV file: see `Csv`."""

    path: Path
    key_column: int | str
    value_column: int | str
    delimiter: str
    header: bool
    fold: Callable[[str], str]
    joined: ClassVar[bool] = True

    @property
    def meaning(self) -> tuple[str | int | bool, ...]:
        """What an index of the table is good for."""
        columns = self.key_column, self.value_column, self.delimiter, self.header
        return "csv", *columns, self.fold.__qualname__, unidata_version

    def rows(
        self, file: BinaryIO, warn: Callable[[int, str], object]
    ) -> Generator[tuple[int, str, str], None, None]:
        """Line, folded key and value; `warn` is told of the rows that say nothing. Raises `ConfigError`."""
        with closing(self._rows(file)) as rows:
            yield from self._entries(rows, warn)

    def _entries(
        self, rows: Iterator[tuple[int, list[str]]], warn: Callable[[int, str], object]
    ) -> Iterator[tuple[int, str, str]]:
        names = next((row for _, row in rows if row), []) if self.header else None
        key_index, value_index = self._index("key_column", names), self._index("value_column", names)
        last = max(key_index, value_index)
        for line, row in rows:
            if not row:
                continue
            key, value = (row[key_index], row[value_index]) if len(row) > last else ("", "")
            mistake = _mistake(row, last, key, value)
            if mistake:
                warn(line, f"{mistake} -- ignoring this row")
            else:
                yield line, self.fold(key), value

    def _rows(self, file: BinaryIO) -> Generator[tuple[int, list[str]], None, None]:
        """Each row with the number of its first line."""
        text = io.TextIOWrapper(file, "utf-8-sig", newline="")
        reader = csv.reader(self._without_nul(text), delimiter=self.delimiter, strict=True)
        first = 1
        try:
            for row in reader:
                yield first, row
                first = reader.line_num + 1
        except UnicodeDecodeError:
            raise ConfigError("not UTF-8", file=self.path, line=_first_not_utf8(file)) from None
        except csv.Error as error:
            raise ConfigError(f"{error}; the row begins here", file=self.path, line=first) from None
        finally:
            text.detach()  # or the file would be closed with it

    def _without_nul(self, text: Iterable[str]) -> Iterator[str]:
        for number, line in enumerate(text, 1):
            if "\0" in line:
                raise ConfigError("a NUL byte: not a CSV file", file=self.path, line=number)
            yield line

    def _index(self, option: str, names: list[str] | None) -> int:
        """The place in a row, from 0, of the column that `option` names; `names` is the header."""
        column: int | str = getattr(self, option)
        if names is None:
            assert isinstance(column, int)
            return column - 1
        if not names:
            raise ConfigError("the file is empty: there is no header", file=self.path, line=1)
        if isinstance(column, int):
            if column > len(names):
                raise ConfigError(
                    f"there is no column {column}: the header has {len(names)}",
                    path=(option,),
                    file=self.path,
                    line=1,
                )
            return column - 1
        if names.count(column) == 1:
            return names.index(column)
        if column in names:
            raise ConfigError(f"several columns are named {column!r}", path=(option,), file=self.path, line=1)
        from difflib import get_close_matches

        near = get_close_matches(column, names, 1)
        raise ConfigError(
            f"no column is named {column!r}",
            path=(option,),
            file=self.path,
            line=1,
            hint=f"did you mean {near[0]!r}?" if near else "the header is " + ", ".join(map(repr, names)),
        )


@attrs.define(eq=False)
class Csv:
    """The file's rows, read in full at the start; asked with the folded key.

    RFC 4180: fields in double quotes may hold the delimiter, white space counts. The file is UTF-8,
    a byte order mark is skipped. A file with a mistake (unbalanced quotes, a NUL, bytes that are not
    UTF-8) is refused as a whole, since half of a table makes the users of the other half unknown;
    a row that says nothing (too few columns, no key, no value, a line break in either) is skipped
    with a warning.
    """

    path: Path = attrs.field(metadata={"help": "the file, in UTF-8"})
    key_column: int | str = attrs.field(
        default=1, validator=_check_column, metadata={"help": f"the column of the key: {_COLUMN}"}
    )
    value_column: int | str = attrs.field(
        default=2, validator=_check_column, metadata={"help": f"the column of the value: {_COLUMN}"}
    )
    delimiter: str = attrs.field(
        default=",", validator=_check_delimiter, metadata={"help": "the character between two columns"}
    )
    header: bool = attrs.field(default=True, metadata={"help": "whether the first row names the columns"})
    separator: str = attrs.field(
        default=", ",
        validator=_check_separator,
        metadata={"help": "what joins the values of rows with the same key"},
    )
    index: IndexKind = attrs.field(default="auto", metadata={"help": INDEX_HELP})
    index_directory: Path | None = attrs.field(default=None, metadata={"help": INDEX_DIRECTORY_HELP})
    _table: Table = attrs.field(init=False, factory=no_table, repr=False)

    def __attrs_post_init__(self) -> None:
        for option in ("key_column", "value_column"):
            if not self.header and isinstance(getattr(self, option), str):
                raise ConfigError("without a header a column is a number from 1", path=(option,))

    async def start(self, context: Any) -> None:
        """Read the table, or open its index. Raises `ConfigError`, with the line, when it cannot be read or
        is damaged."""
        rows = Rows(self.path, self.key_column, self.value_column, self.delimiter, self.header, context.fold)
        self._table = await open_table(rows, self.index, self.index_directory, context)

    async def stop(self) -> None:
        """Let go of the table."""
        table, self._table = self._table, no_table()
        await table.close()

    @property
    def files(self) -> tuple[Path, ...]:
        """The file that the table is read from."""
        return (self.path,)

    @property
    def rows(self) -> int:
        """How many keys the table has."""
        return self._table.rows

    def is_current(self) -> bool:
        """Whether the file is still the one that was read; blocks for one stat(2)."""
        return self._table.is_current()

    def resolve(self, query: Any) -> Found | NotFound | None:
        """The values of the key's rows, equal ones once, or a miss."""
        entry = self._table.get(query.key)
        if entry is None:
            return None
        return Found(entry) if isinstance(entry, str) else Found.joined(entry, self.separator)


def _first_not_utf8(file: BinaryIO) -> int | None:
    """The number of the first line with bytes that are not UTF-8."""
    file.seek(0)
    for number, line in enumerate(file, 1):
        try:
            line.decode()
        except UnicodeDecodeError:
            return number
    return None


def _mistake(row: list[str], last: int, key: str, value: str) -> str | None:
    """Why a row cannot be an answer, None when it can."""
    if len(row) <= last:
        return f"expected at least {last + 1} columns, there are {len(row)}"
    if not key:
        return "no key"
    if not value:
        return "no value"
    if "\n" in value or "\r" in value:
        return "a line break within the value"
    return "a line break within the key" if "\n" in key or "\r" in key else None


@hookimpl
def register_resolvers(register: Any) -> None:
    register("csv", Csv, special_keys=True, in_memory=True)
