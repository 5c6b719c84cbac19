"""A step as it was built: its resolver, what that was made of, whether another chain may have it too."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

from tcpmapkit.errors import ConfigError, ConfigErrors, under
from tcpmapkit.step import InlineStep, Step, WaitingStep
from tcpmapkit.threads import SmallPool

if TYPE_CHECKING:
    from tcpmapkit.config import StepConfig
    from tcpmapkit.resolver import Context

__all__ = ["BuiltStep", "Place"]

Place = tuple[str, str]
"""The names of a map and of its step."""

#: Seconds that a resolver may take to stop: one that hangs must not hold up the end of the server.
_STOP_TIME: Final = 5.0


@attrs.define(eq=False)
class BuiltStep:
    """A step, and its resolver object with what it needs to be started and to be found in an error.

    `config` is its line of TOML and `about_keys` what its map says of keys; `make` makes another resolver
    object of the same options; `alone`: these are all that it is made of, no chain and no map, so that it
    can serve on in another chain where they are the same. `warnings` are logged when it is started.
    """

    step: InlineStep | WaitingStep
    traits: Any
    config: StepConfig
    about_keys: object
    context: Context
    make: Callable[[], Any]
    alone: bool
    warnings: tuple[str, ...] = ()
    started: bool = attrs.field(default=False, init=False)
    #: When its resolver had started, in seconds since 1970.
    loaded_at: float | None = attrs.field(default=None, init=False)

    @property
    def place(self) -> Place:
        """The names of its map and of itself."""
        return self.context.map, self.context.name

    @property
    def resolver(self) -> Any:
        """The resolver object."""
        return self.step.resolver

    @property
    def rows(self) -> int | None:
        """How many rows its table has; None where there is none."""
        rows = self._said("rows", None)
        return rows if isinstance(rows, int) else None

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it has loaded."""
        return tuple(map(Path, self._said("files", ())))

    def is_current(self) -> bool:
        """Whether its files are as they were read; so they are where there are none."""
        is_current = self._said("is_current", None)
        try:
            return is_current is None or not self.started or bool(is_current())
        except Exception as error:
            self.context.logger.error("it cannot tell whether its files have changed", exc_info=error)
            return True

    def _said(self, name: str, otherwise: Any) -> Any:
        """What the resolver, which may be anybody's, says of itself."""
        try:
            return getattr(self.resolver, name, otherwise)
        except Exception as error:
            self.context.logger.error("it cannot tell its %s", name, exc_info=error)
            return otherwise

    def again(self) -> BuiltStep:
        """The same once more, with a resolver object that is to be started.

        Raises `ConfigErrors` with paths.
        """
        try:
            resolver = self.make()
        except ConfigError as error:
            raise ConfigErrors(under(error, *self.config.path)) from None
        changes: dict[str, Any] = {"resolver": resolver}
        if isinstance(self.step, WaitingStep) and self.step.pool is not None:
            changes["pool"] = SmallPool(".".join(self.place))
        return attrs.evolve(self, step=attrs.evolve(self.step, **changes))

    async def start(self) -> None:
        """Let the resolver load its table and open its client. Raises `ConfigErrors` with paths."""
        self.started = True
        for warning in self.warnings:
            self.context.logger.warning("%s", warning)
        start = getattr(self.resolver, "start", None)
        path = self.config.path
        try:
            if start is not None:
                await start(self.context)
            self.loaded_at = time.time()
        except ConfigError as error:
            raise ConfigErrors(under(error, *path)) from None
        except (Exception, SystemExit) as error:  # an exit is not a resolver's to ask for
            self.context.logger.debug("%s could not start", self.context.name, exc_info=error)
            failure = ConfigError(f"could not start: {type(error).__name__}: {error}", path=path)
            raise ConfigErrors([failure]) from error

    async def stop(self) -> None:
        """Let the resolver close what it opened, once. What goes wrong is logged."""
        if not self.started:
            return
        self.started = False
        stop = getattr(self.resolver, "stop", None)
        try:
            if stop is not None:
                async with asyncio.timeout(_STOP_TIME):
                    await stop()
        except Exception as error:
            self.context.logger.error("a resolver could not stop", exc_info=error)
        finally:
            step: Step = self.step
            if isinstance(step, WaitingStep) and step.pool is not None:
                step.pool.close()
