"""The configuration file as text: read, parsed, and pointed into."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import tomli

from tcpmapkit.config.masking import Secrets, hide_in_urls, sounds_secret
from tcpmapkit.config.mistakes import KeyMistake
from tcpmapkit.errors import ConfigError, ConfigErrors

if TYPE_CHECKING:
    from tcpmapkit.config.positions import Positions

__all__ = ["Document", "locate", "read_document"]

#: Tables in tables. The deepest of ours is a chain in a chain; whoever needs more uses `map` steps.
_DEEPEST = 64

#: More of a line than this is not shown.
_LONGEST_LINE = 200

_ASSIGNMENT = re.compile(r"([A-Za-z0-9_-]+)[\"']?\s*=")


@attrs.define(eq=False)
class Document:
    """A configuration file that is TOML: its path as given, its text, its data as tomli reads it."""

    path: Path
    text: str = attrs.field(repr=False)
    data: Mapping[str, Any] = attrs.field(repr=False)
    secrets: Secrets = attrs.field(factory=Secrets, repr=False)
    _spans: tuple[int, list[tuple[int, int]]] = attrs.field(default=(-1, []), init=False, repr=False)

    @property
    def directory(self) -> Path:
        """Where relative paths begin: the file's own directory, absolute."""
        return self.path.absolute().parent

    @cached_property
    def positions(self) -> Positions:
        """Where everything stands; scanned when first asked for."""
        from tcpmapkit.config.positions import Positions

        self.secrets.add_suspects(self.data)
        return Positions(self.text)

    def secret_spans(self) -> list[tuple[int, int]]:
        """From where to where the text must not be shown, by what is known to be secret so far."""
        paths = self.secrets.paths
        if self._spans[0] != len(paths):
            spans = [
                (span.start, span.end)
                for path, span in self.positions.spans.items()
                if any(path[:length] in paths for length in range(1, len(path) + 1))
                or (sounds_secret(path[-1]) and self.positions.text[span.start] in "\"'[")
            ]
            self._spans = (len(paths), spans)
        return self._spans[1]


def read_document(path: Path | str) -> Document:
    """Read and parse a TOML 1.1 file, UTF-8 with or without a byte order mark.

    Raises `ConfigErrors` with the place when the file cannot be read, is not UTF-8 or not TOML.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigErrors([ConfigError(f"cannot read the configuration: {reason}", file=path)]) from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigErrors([_not_utf8(path, content, error)]) from None
    try:
        data = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        raise ConfigErrors([_not_toml(path, text, error)]) from None
    except RecursionError as error:
        raise ConfigErrors([ConfigError(str(error), file=path)]) from None
    if _deeper_than(data, _DEEPEST):
        message = f"tables or arrays are nested more than {_DEEPEST} levels"
        raise ConfigErrors([ConfigError(message, file=path)])
    return Document(path, text, data)


def locate(document: Document, error: ConfigError) -> ConfigError:
    """Fill in file, line, column and source text by the error's path; mask secrets in its words.

    An error that already names its file keeps its place. An option that is not written is placed
    at the table it is missing from. Returns the same error.
    """
    if isinstance(error, ConfigErrors):
        for one in error.errors:
            locate(document, one)
        return error
    positions = document.positions
    _mask_words(document.secrets, error)
    if error.file is not None:
        if error.file != document.path:
            error.file = document.secrets.hide(str(error.file))
        return error
    error.file = document.path
    found = positions.nearest(error.path)
    if found is None:
        return error
    path, span = found
    offset = span.key if isinstance(error, KeyMistake) and path == error.path else span.start
    error.line, error.column = positions.place(offset)
    error.source = _source(document, error.line, error.column)
    return error


def _mask_words(secrets: Secrets, error: ConfigError) -> None:
    error.message = secrets.hide(error.message)
    error.args = (error.message,)
    if error.hint is not None:
        error.hint = secrets.hide(error.hint)
    if error.source is not None:
        error.source = secrets.hide(error.source)


def _source(document: Document, line: int, column: int) -> str:
    """A line for showing, the caret's column unchanged: secrets are masked at their own width."""
    characters = list(document.positions.line(line))
    first = document.positions.line_start(line)
    for start, end in document.secret_spans():
        for offset in range(max(start, first), min(end, first + len(characters))):
            characters[offset - first] = "*"
    return _shown("".join(characters), column)


def _shown(line: str, column: int) -> str:
    """A line without what would move the caret or the terminal, and not endless."""
    line = "".join(character if character.isprintable() else " " for character in line)
    longest = max(_LONGEST_LINE, column)
    line = hide_in_urls(line)
    return line if len(line) <= longest else line[:longest] + "..."


def _not_utf8(path: Path, content: bytes, error: UnicodeDecodeError) -> ConfigError:
    before = content[: error.start]
    start = before.rfind(b"\n") + 1
    column = len(before[start:].decode("utf-8-sig" if start == 0 else "utf-8")) + 1
    line = content[start:].split(b"\n", 1)[0].decode(errors="replace")
    return ConfigError(
        f"not UTF-8: byte 0x{content[error.start]:02x}",
        file=path,
        line=before.count(b"\n") + 1,
        column=column,
        hint="save the file as UTF-8",
        source=_without_assigned_secrets(_shown(line, column)),
    )


def _not_toml(path: Path, text: str, error: tomli.TOMLDecodeError) -> ConfigError:
    lines = text.replace("\r\n", "\n").split("\n")
    line = lines[error.lineno - 1] if error.lineno <= len(lines) else ""
    return ConfigError(
        error.msg[:1].lower() + error.msg[1:],
        file=path,
        line=error.lineno,
        column=error.colno,
        source=_without_assigned_secrets(_shown(line, error.colno)),
    )


def _without_assigned_secrets(line: str) -> str:
    """Where nothing tells values from keys any more, hide all that follows a suspicious name."""
    for match in _ASSIGNMENT.finditer(line):
        if sounds_secret(match[1]):
            return line[: match.end()] + " ***"
    return line


def _deeper_than(value: Any, levels: int) -> bool:
    if isinstance(value, dict):
        inner: Any = value.values()
    elif isinstance(value, list):
        inner = value
    else:
        return False
    if levels == 0:
        return True
    return any(
        _deeper_than(one, levels - 1) for one in inner if one.__class__ is dict or one.__class__ is list
    )
