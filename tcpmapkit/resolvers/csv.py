"""``csv``: a file of comma-separated values; rows with the same key are joined in file order."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from tcpmapkit import ConfigError, Found, NotFound, hookimpl
from tcpmapkit.resolvers.postfix_lines import read_settled

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
    # A tuple only where a key has several values: see `File`.
    _entries: dict[str, str | tuple[str, ...]] = attrs.field(init=False, factory=dict, repr=False)

    def __attrs_post_init__(self) -> None:
        for option in ("key_column", "value_column"):
            if not self.header and isinstance(getattr(self, option), str):
                raise ConfigError("without a header a column is a number from 1", path=(option,))

    async def start(self, context: Any) -> None:
        """Read the table. Raises `ConfigError`, with the line, when it cannot be read or is damaged."""
        import asyncio

        self._entries = await asyncio.to_thread(self._read, context)

    def _read(self, context: Any) -> dict[str, str | tuple[str, ...]]:
        rows = self._rows()
        names = next((row for _, row in rows if row), []) if self.header else None
        key_index, value_index = self._index("key_column", names), self._index("value_column", names)
        last = max(key_index, value_index)
        several: dict[str, dict[str, None]] = {}
        entries: dict[str, str | tuple[str, ...]] = {}
        for line, row in rows:
            if not row:
                continue
            key, value = (row[key_index], row[value_index]) if len(row) > last else ("", "")
            mistake = _mistake(row, last, key, value)
            if mistake:
                context.logger.warning("%s, line %d: %s -- ignoring this row", self.path, line, mistake)
                continue
            key = context.fold(key)
            there = entries.setdefault(key, value)
            if there != value:
                several.setdefault(key, {str(there): None})[value] = None
        entries.update((key, tuple(values)) for key, values in several.items())
        return entries

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """Each row with the number of its first line."""
        content = read_settled(self.path)
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise ConfigError("not UTF-8", file=self.path, line=line) from None
        if "\0" in text:
            line = text.count("\n", 0, text.index("\0")) + 1
            raise ConfigError("a NUL byte: not a CSV file", file=self.path, line=line)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=self.delimiter, strict=True)
        first = 1
        try:
            for row in reader:
                yield first, row
                first = reader.line_num + 1
        except csv.Error as error:
            raise ConfigError(f"{error}; the row begins here", file=self.path, line=first) from None

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
        near = difflib.get_close_matches(column, names, 1)
        raise ConfigError(
            f"no column is named {column!r}",
            path=(option,),
            file=self.path,
            line=1,
            hint=f"did you mean {near[0]!r}?" if near else "the header is " + ", ".join(map(repr, names)),
        )

    def resolve(self, query: Any) -> Found | NotFound | None:
        """The values of the key's rows, equal ones once, or a miss."""
        entry = self._entries.get(query.key)
        if entry is None:
            return None
        return Found(entry) if isinstance(entry, str) else Found.joined(entry, self.separator)


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
