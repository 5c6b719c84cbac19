"""The maps of a configuration as one thing to start and to stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import attrs

from tcpmapkit.errors import ConfigError, ConfigErrors, under
from tcpmapkit.http_client import SharedHttpClient
from tcpmapkit.maps import Map
from tcpmapkit.resolver import Context
from tcpmapkit.threads import SmallPool

__all__ = ["BuiltMaps", "BuiltResolver"]

_log = logging.getLogger(__name__)

#: Seconds that a resolver may take to stop: one that hangs must not hold up the end of the server.
_STOP_TIME: Final = 5.0


@attrs.define(eq=False)
class BuiltResolver:
    """A resolver object with what it needs to be started and to be found in an error; `warnings` are
    logged when it is."""

    resolver: Any
    context: Context
    path: tuple[str | int, ...]
    pool: SmallPool | None
    warnings: tuple[str, ...] = ()


class BuiltMaps:
    """All maps of a configuration, and the resolver objects behind them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.maps: dict[str, Map] = {}
        self.clock = clock
        self.http = SharedHttpClient()
        self.resolvers: list[BuiltResolver] = []
        self._started: list[BuiltResolver] = []
        #: Shows somebody how far a long start is; None where nobody waits for it.
        self.progress: Callable[[str], AbstractContextManager[Callable[[float], None]]] | None = None
        #: map -> the maps that its steps refer to.
        self.references: dict[str, set[str]] = {}

    def open_progress(self, what: str) -> AbstractContextManager[Callable[[float], None]]:
        """What `Context.progress` gives the resolvers."""
        return nullcontext(_show_nobody) if self.progress is None else self.progress(what)

    async def start(self, only: Iterable[str] | None = None) -> None:
        """Let the resolvers load their tables and open their clients: those of all maps, or of the
        maps named and what these refer to.

        Raises `ConfigErrors` with all that went wrong; what was started is then stopped again.
        """
        maps = set(self.maps) if only is None else self._reached(only)
        resolvers = [one for one in self.resolvers if one.context.map in maps]
        self._started += resolvers
        outcomes = await asyncio.gather(*map(_start, resolvers), return_exceptions=True)
        errors = []
        for one, outcome in zip(resolvers, outcomes, strict=True):
            if isinstance(outcome, ConfigError):
                errors.extend(under(outcome, *one.path))
            elif isinstance(outcome, Exception):
                _log.debug("%s could not start", one.context.name, exc_info=outcome)
                errors.append(
                    ConfigError(f"could not start: {type(outcome).__name__}: {outcome}", path=one.path)
                )
            elif outcome is not None:
                raise outcome
        if errors:
            await self.stop()
            raise ConfigErrors(errors)

    def _reached(self, names: Iterable[str]) -> set[str]:
        reached: set[str] = set()
        ahead = list(names)
        while ahead:
            name = ahead.pop()
            if name not in reached:
                reached.add(name)
                ahead.extend(self.references.get(name, ()))
        return reached

    async def stop(self) -> None:
        """End the lookups under way and let every resolver that was started close what it opened, once;
        never raises."""
        await asyncio.gather(*(one.stop() for one in self.maps.values()))
        started, self._started = self._started, []
        for outcome in await asyncio.gather(*map(_stop, started), return_exceptions=True):
            if isinstance(outcome, Exception):
                _log.error("a resolver could not stop", exc_info=outcome)
        for one in self.resolvers:
            if one.pool is not None:
                one.pool.close()
        await self.http.close()


def _show_nobody(done: float) -> None:
    pass


async def _start(one: BuiltResolver) -> None:
    for warning in one.warnings:
        one.context.logger.warning("%s", warning)
    start = getattr(one.resolver, "start", None)
    if start is not None:
        try:
            await start(one.context)
        except SystemExit as error:  # not a resolver's to ask for, and it would pass through everything
            raise RuntimeError(f"SystemExit: {error}") from error


async def _stop(one: BuiltResolver) -> None:
    stop = getattr(one.resolver, "stop", None)
    if stop is not None:
        async with asyncio.timeout(_STOP_TIME):
            await stop()
