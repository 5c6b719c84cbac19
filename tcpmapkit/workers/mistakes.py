"""Mistakes of the operator's that a worker finds, told to the parent with all that they say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tcpmapkit.errors import ConfigError, ConfigErrors

__all__ = ["as_data", "from_data"]


def as_data(error: ConfigError) -> list[dict[str, Any]]:
    """An error, or each of several, as the arguments that make it."""
    return [
        {
            "message": one.message,
            "path": list(one.path),
            "file": str(one.file) if one.file is not None else None,
            "line": one.line,
            "column": one.column,
            "hint": one.hint,
            "source": one.source,
        }
        for one in ConfigErrors([error]).errors
    ]


def from_data(data: Iterable[dict[str, Any]]) -> list[ConfigError]:
    """What `as_data` was given. Raises `TypeError` for anything else."""
    return [ConfigError(**one) for one in data]
