"""`ConfigError`: a mistake of the operator's, with its place. A leaf, like `query`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["ConfigError", "ConfigErrors", "format_path", "under"]


def format_path(path: Sequence[str | int]) -> str:
    """``("maps", "aliases", "resolvers", 2, "path")`` as ``maps.aliases.resolvers[2].path``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


class ConfigError(Exception):
    """One mistake in the configuration or in a table file.

    `message` says what is wrong in one line. `path` leads to the option (an index is an int, from
    0); a resolver gives it relative to its own table, as in ``("rules", 2, "pattern")``, and the
    core puts the rest in front. `file`, `line` and `column` (from 1) point into a file other than
    the configuration, as a table; the core finds those of the configuration by `path`. `hint` says
    what to do instead; `source` is the text of the line.
    """

    def __init__(
        self,
        message: str,
        *,
        path: Sequence[str | int] = (),
        file: Path | str | None = None,
        line: int | None = None,
        column: int | None = None,
        hint: str | None = None,
        source: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.path = tuple(path)
        self.file = file
        self.line = line
        self.column = column
        self.hint = hint
        self.source = source

    @staticmethod
    def several(errors: Iterable[ConfigError]) -> ConfigError:
        """One exception for several mistakes, to be raised once all are found."""
        every = tuple(errors)
        return every[0] if len(every) == 1 else ConfigErrors(every)

    def __str__(self) -> str:
        """The mistake as shown to the operator: place, path, message, hint; the line and a caret."""
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        where = format_path(self.path)
        text = ": ".join(part for part in (place, where, self.message) if part)
        if self.hint:
            text += f" ({self.hint})"
        if self.source is not None and self.line is not None:
            text += f"\n{self.line:>6} | {self.source}"
            if self.column is not None:
                text += "\n" + " " * 6 + " | " + " " * (self.column - 1) + "^"
        return text


class ConfigErrors(ConfigError):
    """Several mistakes at once; `errors` holds them, each a plain `ConfigError`."""

    def __init__(self, errors: Iterable[ConfigError]) -> None:
        self.errors: tuple[ConfigError, ...] = tuple(
            inner
            for error in errors
            for inner in (error.errors if isinstance(error, ConfigErrors) else (error,))
        )
        super().__init__(f"{len(self.errors)} errors in the configuration")

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)


def under(error: ConfigError, *prefix: str | int) -> list[ConfigError]:
    """The error's mistakes one by one, with `prefix` in front of their paths."""
    errors = error.errors if isinstance(error, ConfigErrors) else (error,)
    for one in errors:
        one.path = (*prefix, *one.path)
    return list(errors)
