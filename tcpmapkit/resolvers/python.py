"""``python``: any callable ``f(key)`` that returns a str or None, or an object with ``get(key)``."""

from __future__ import annotations

import builtins
import difflib
import importlib
import inspect
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import attrs

from tcpmapkit import ConfigError, Found, blocking, hookimpl


def _outcome(returned: Any) -> Any:
    """What a callable's answer means; anything but a str goes back as it is, for the core to judge."""
    if isinstance(returned, str):
        return Found(returned) if returned else None
    if inspect.isawaitable(returned):
        if inspect.iscoroutine(returned):
            returned.close()
        raise TypeError("the callable returned an awaitable: write it as async def")
    return returned


@attrs.define(eq=False)
class Inline:
    """Asks the callable in the event loop; while it runs, nothing else does."""

    ask: Callable[[str], Any]

    def resolve(self, query: Any) -> Any:
        return _outcome(self.ask(query.key))


@attrs.define(eq=False)
class InThread:
    """Asks the callable in a thread, since it may block."""

    ask: Callable[[str], Any]

    @blocking
    def resolve(self, query: Any) -> Any:
        return _outcome(self.ask(query.key))


@attrs.define(eq=False)
class Awaited:
    """Asks an ``async def``."""

    ask: Callable[[str], Awaitable[Any]]

    async def resolve(self, query: Any) -> Any:
        return _outcome(await self.ask(query.key))


def _named(place: str) -> Any:
    """The object at ``package.module:name``, its module imported."""
    module_name, colon, name = place.partition(":")
    if not (colon and module_name and all(part.isidentifier() for part in name.split("."))):
        raise ConfigError(
            f"not a place in a module: {place!r}", path=("callable",), hint='write "package.module:name"'
        )
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"cannot import {module_name!r}: {type(error).__name__}: {error}", path=("callable",)
        ) from error
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            near = difflib.get_close_matches(part, dir(found), 1)
            hint = f"did you mean {near[0]!r}?" if near else None
            raise ConfigError(f"{module_name!r} has no {name!r}", path=("callable",), hint=hint) from None
    return found


def python(
    callable: Annotated[str, 'help: where it is, as "package.module:name"'],  # noqa: A002 - the option's name
    inline: Annotated[
        bool, "help: ask it in the event loop instead of a thread; for what answers in microseconds"
    ] = False,
) -> Inline | InThread | Awaited:
    """Ask the object named by `callable` for the folded key: call it or, if that cannot be, its ``get``.

    It returns a str, or None for a miss; an empty str is a miss too. `LookupTempFail` and
    `LookupPermFail` tell failures; what else it raises or returns is logged and a temporary failure.
    The module is imported when the configuration is read, since whether the object is an ``async
    def`` decides how it is asked; it must be on Python's path.

    Raises `ConfigError` when it cannot be imported or asked.
    """
    found = _named(callable)
    ask = found if builtins.callable(found) else getattr(found, "get", None)
    if not builtins.callable(ask) or (isinstance(ask, type) and not issubclass(ask, str)):
        what = "a class" if isinstance(ask, type) else f"of type {type(found).__name__}"
        raise ConfigError(
            f"{callable!r} is {what}, neither a function of a key nor an object with get(key)",
            path=("callable",),
        )
    if inspect.iscoroutinefunction(ask) or inspect.iscoroutinefunction(type(ask).__call__):
        if inline:
            raise ConfigError("an async def is never asked inline", path=("inline",))
        return Awaited(ask)
    return Inline(ask) if inline else InThread(ask)


@hookimpl
def register_resolvers(register: Any) -> None:
    register("python", python)
