"""``file``: a table in the format that postmap(1) reads, answered as Postfix's own ``texthash:`` does."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from tcpmapkit import Found, PermFail, TempFail, hookimpl
from tcpmapkit.resolvers.postfix_lines import WHITE_SPACE, logical_lines, read_table, table_answer

# A key ends at the first white space outside double quotes; a backslash takes the next character as it
# is. The quotes stay part of the key. (No possessive quantifier: CPython 3.11.2 gets those wrong.)
_KEY = re.compile(r'(?:[^\\"\s]|\\.?|"(?:[^\\"]|\\.)*")*', re.ASCII | re.DOTALL)

Entry = str | TempFail | PermFail


def read_entries(
    text: str, fold: Callable[[str], str], warn: Callable[[int, str], object]
) -> dict[str, Entry]:
    """The entries of a table: values by key, or the failure of a value that no reply can carry.

    What Postfix ignores is ignored, and `warn` told of it with the line. Of equal keys the first counts.
    """
    entries: dict[str, Entry] = {}
    for number, line in logical_lines(text, warn):
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
        key = fold(key)
        if key in entries:
            warn(number, f'duplicate entry: "{key}" -- the first one counts')
            continue
        entries[key] = value
        if "\r" in value:
            failure = table_answer(value)
            assert not isinstance(failure, Found)
            warn(number, f"{failure.reason}; asking for {key!r} fails")
            entries[key] = failure
    return entries


@attrs.define(eq=False)
class File:
    """The file's entries, read in full at the start; asked with the folded key."""

    path: Path = attrs.field(
        metadata={"help": "the table, in the format of postmap(1): key, white space, value on each line"}
    )
    # Plain text rather than outcomes: the garbage collector need not walk a million of them.
    _entries: dict[str, Entry] = attrs.field(init=False, factory=dict, repr=False)

    async def start(self, context: Any) -> None:
        """Read the table. Raises `ConfigError` when it cannot be read."""
        import asyncio

        self._entries = await asyncio.to_thread(self._read, context)

    def _read(self, context: Any) -> dict[str, Entry]:
        def warn(line: int, message: str) -> None:
            context.logger.warning("%s, line %d: %s", self.path, line, message)

        return read_entries(read_table(self.path), context.fold, warn)

    def resolve(self, query: Any) -> Found | TempFail | PermFail | None:
        """The entry of the key, or a miss."""
        entry = self._entries.get(query.key)
        return Found(entry) if isinstance(entry, str) else entry


@hookimpl
def register_resolvers(register: Any) -> None:
    register("file", File, special_keys=True, in_memory=True)
