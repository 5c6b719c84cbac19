"""Starting a resolver by itself, with the key folding of a map and its warnings collected."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tcpmapkit import Found, Query
from tcpmapkit.keys import fold as fold_key
from tcpmapkit.resolver import Context


class Collected(logging.Handler):
    """The warnings and errors logged, as text."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def context(fold: Callable[[str], str] = fold_key) -> tuple[Context, list[str]]:
    """A context for `start`, and the warnings that it will have been given."""
    collected = Collected()
    logger = logging.Logger("tests.step")
    logger.addHandler(collected)
    return Context(Path(), "step", "aliases", logger, fold=fold), collected.messages


def load(resolver: Any, fold: Callable[[str], str] = fold_key) -> list[str]:
    """Start `resolver` in an event loop of its own; the warnings it gave."""
    made, warnings = context(fold)
    asyncio.run(resolver.start(made))
    return warnings


def value(resolver: Any, key: str, fold: Callable[[str], str] = fold_key) -> str | None:
    """The value found for a key as it comes from Postfix, None for a miss; any other outcome fails."""
    outcome = resolver.resolve(Query(fold(key)))
    assert outcome is None or isinstance(outcome, Found), outcome
    return outcome.value if outcome else None
