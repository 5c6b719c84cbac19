"""``file``: a table in the format that postmap(1) reads, answered as Postfix's own ``texthash:`` does."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, BinaryIO, ClassVar
from unicodedata import unidata_version

import attrs

from tcpmapkit import Found, PermFail, TempFail, hookimpl
from tcpmapkit.resolvers.postfix_lines import WHITE_SPACE, join_lines, table_answer
from tcpmapkit.resolvers.table import (
    INDEX_DIRECTORY_HELP,
    INDEX_HELP,
    IndexKind,
    Table,
    no_table,
    open_table,
)

# A key ends at the first white space outside double quotes; a backslash takes the next character as it
# is. The quotes stay part of the key. (No possessive quantifier: CPython 3.11.2 gets those wrong.)
_KEY = re.compile(r'(?:[^\\"\s]|\\.?|"(?:[^\\"]|\\.)*")*', re.ASCII | re.DOTALL)


@attrs.frozen
class Lines:
    """The rows of a table in the format of postmap(1)."""

    path: Path
    fold: Callable[[str], str]
    joined: ClassVar[bool] = False

    @property
    def meaning(self) -> tuple[str | int | bool, ...]:
        """What an index of the table is good for."""
        return "file", self.fold.__qualname__, unidata_version

    def rows(
        self, file: BinaryIO, warn: Callable[[int, str], object]
    ) -> Generator[tuple[int, str, str], None, None]:
        """Line, folded key and value; what Postfix ignores is ignored, and `warn` told of it."""
        lines = (line.removesuffix(b"\n").decode("utf-8", "surrogateescape") for line in file)
        for number, line in join_lines(lines, warn):
            if not line.isascii():
                try:
                    line.encode()
                except UnicodeEncodeError:
                    warn(number, f"non-UTF-8 input {line[:60]!r} -- ignoring this line")
                    continue
            end = _KEY.match(line).end()  # type: ignore[union-attr]  # it matches the empty text too
            if line[end : end + 1] == '"':
                warn(number, f"unbalanced '\"' in {line[:60]!r} -- ignoring this line")
                continue
            key, value = line[:end], line[end:].strip(WHITE_SPACE)
            if not key or not value:
                warn(number, "expected format: key whitespace value -- ignoring this line")
                continue
            if key.endswith(":"):
                warn(number, 'record is in "key: value" format; is this an alias file?')
            yield number, self.fold(key), value


@attrs.define(eq=False)
class File:
    """The file's entries, read in full at the start; asked with the folded key. Of equal keys the first
    counts."""

    path: Path = attrs.field(
        metadata={"help": "the table, in the format of postmap(1): key, white space, value on each line"}
    )
    index: IndexKind = attrs.field(default="auto", metadata={"help": INDEX_HELP})
    index_directory: Path | None = attrs.field(default=None, metadata={"help": INDEX_DIRECTORY_HELP})
    _table: Table = attrs.field(init=False, factory=no_table, repr=False)

    async def start(self, context: Any) -> None:
        """Read the table, or open its index. Raises `ConfigError` when it cannot be read."""
        self._table = await open_table(
            Lines(self.path, context.fold), self.index, self.index_directory, context
        )

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

    def resolve(self, query: Any) -> Found | TempFail | PermFail | None:
        """The entry of the key, or a miss; a value that no reply can carry is a failure."""
        entry = self._table.get(query.key)
        if not isinstance(entry, str):
            return None
        try:
            return Found(entry)
        except ValueError:
            return table_answer(entry)


@hookimpl
def register_resolvers(register: Any) -> None:
    register("file", File, special_keys=True, in_memory=True)
