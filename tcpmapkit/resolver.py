"""What a resolver is given beside the query, `Context`, `Chain` and `Map`, and what it can say of itself."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol, TypeVar

import attrs

from tcpmapkit.query import Query
from tcpmapkit.seldom import Seldom
from tcpmapkit.shown import shown_key

__all__ = ["Chain", "Context", "HasFiles", "Map", "blocking"]


class Chain(Protocol):
    """A finished chain, handed to an option annotated `Chain` (TOML: ``resolvers = [...]``).

    `resolve(query)` answers an outcome or a miss and never raises: at once when `can_wait` is
    false, as a coroutine when it is true.
    """

    @property
    def can_wait(self) -> bool: ...

    def resolve(self, query: Query) -> Any: ...


class Map(Protocol):
    """Another map of the file, its cache included, handed to an option annotated `Map` (TOML: its name).

    `resolve` is as for `Chain`.
    """

    @property
    def can_wait(self) -> bool: ...

    def resolve(self, query: Query) -> Any: ...


class HasFiles(Protocol):
    """What a resolver may have whose answers come from files: then these are watched.

    `files` are those whose change concerns it. `is_current()` says whether they are still the ones that
    were read; it is called in a thread, now and then, and does no more than ask the system what they are.
    When it says no, another resolver is made of the same options and started, and takes this one's place;
    this one is stopped when its last lookup has ended. `rows`, which it need not have, is how many keys it
    has loaded: another one with far fewer (`max_shrink`) is not taken.
    """

    @property
    def files(self) -> tuple[Path, ...]: ...

    def is_current(self) -> bool: ...


@attrs.define(eq=False)
class Context:
    """What `start(context)` of a resolver is given.

    `directory` is where relative paths begin (the configuration file's); `name` the step's name
    and `map` its map's, for messages; `logger` the step's own; `clock` a monotonic clock in
    seconds. `fold` is what the keys of a folded type's table go through when it is loaded, as the
    key asked does: lower case, or nothing when the map says ``fold = false``.
    """

    directory: Path
    name: str
    map: str
    logger: logging.Logger
    clock: Callable[[], float] = time.monotonic
    fold: Callable[[str], str] = str
    _open_http: Callable[[], Any] | None = None
    _open_progress: Callable[[str], AbstractContextManager[Callable[[float], None]]] | None = None
    _said: Seldom = attrs.field(factory=Seldom, init=False)

    def warn_seldom(self, subject: str, text: str, *args: object) -> None:
        """Log the warning ``text % args`` unless one about `subject` was logged within the last minute; a
        line says how many were left out. For what a key can bring about; `subject` itself is never made of
        one."""
        self._said.log(self.logger, logging.WARNING, subject, self.clock(), text, *args)

    def show_key(self, key: str) -> str:
        """A key as a log line or the reason of a failure may have it: its hash, unless the operator wants it
        whole (``log_keys``)."""
        return shown_key(key)

    def progress(self, what: str) -> AbstractContextManager[Callable[[float], None]]:
        """For what takes long at the start: enter it, and call what that gives with how much is done, from
        0 to 1. Where somebody waits at a terminal they see `what` and a bar."""
        return nullcontext(_show_nobody) if self._open_progress is None else self._open_progress(what)

    @property
    def http(self) -> Any:
        """The shared `aiohttp.ClientSession`, opened when first asked for; do not close it."""
        if self._open_http is None:
            raise RuntimeError("this context has no HTTP client")
        return self._open_http()


def _show_nobody(done: float) -> None:
    pass


_Function = TypeVar("_Function", bound=Callable[..., Any])


def blocking(function: _Function) -> _Function:
    """Mark a `resolve` that blocks: it runs in a thread of the step's own small pool.

    When all its threads are busy the step fails at once, so a hung source costs its own step only.
    """
    function.tcpmapkit_blocking = True  # type: ignore[attr-defined]
    return function
