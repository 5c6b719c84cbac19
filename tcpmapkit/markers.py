"""Markers where they would do harm: what pluggy lets pass in silence is refused."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from tcpmapkit.errors import ConfigError
from tcpmapkit.hookspecs import PROJECT

__all__ = ["refuse_marked_resolver", "refuse_misused_markers"]

#: Where a marker leaves its options, at the function that it marks.
_MARK = f"{PROJECT}_impl"


def refuse_misused_markers(plugin: object) -> None:
    """Refuse a plugin with a `resolve` that would stand in no chain, a default that would always win,
    a coroutine that nobody awaits, a wrapper around a hook that is not called through pluggy; and one
    that is no module. Raises `TypeError`.
    """
    if not inspect.ismodule(plugin):
        raise TypeError(f"the entry point names {plugin!r}, not a module with hookimpls")
    for attribute, function in inspect.getmembers(plugin, inspect.isroutine):
        options = getattr(function, _MARK, None)
        if not isinstance(options, dict):
            continue
        name = options.get("specname") or attribute
        if name == "resolve":
            raise TypeError("`resolve` as a module's hook: register a resolver type; TOML puts it in a chain")
        if inspect.iscoroutinefunction(function):
            raise TypeError(f"hook {name} is a coroutine function, which nobody would await")
        if options.get("wrapper") or options.get("hookwrapper"):
            raise TypeError(f"hook {name} is a wrapper: each plugin's hooks are called on their own")
        defaulted = [
            parameter.name
            for parameter in inspect.signature(function).parameters.values()
            if parameter.default is not parameter.empty
        ]
        if defaulted:
            raise TypeError(f"hook {name}: the default of {defaulted[0]!r} would never be overridden")


def refuse_marked_resolver(resolver: object) -> None:
    """Refuse a resolver object, or a step, whose `resolve` asks pluggy for a place in the order.

    A resolver needs no marker; a wrapper, ``tryfirst`` or ``trylast`` would be an order that is
    not the operator's. Raises `ConfigError`.
    """
    options: Mapping[str, Any] = getattr(getattr(resolver, "resolve", None), _MARK, None) or {}
    for option in ("wrapper", "hookwrapper", "tryfirst", "trylast"):
        if options.get(option):
            raise ConfigError(
                f"`resolve` is marked {option}: the order of a chain is the configuration's alone"
            )
