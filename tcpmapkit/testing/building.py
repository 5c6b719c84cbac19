"""From the steps that a test gives to a map, by the server's own code."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import tomli

from tcpmapkit import hookimpl
from tcpmapkit.build import build_maps
from tcpmapkit.built_maps import BuiltMaps
from tcpmapkit.config import Document, plugins_config, structure
from tcpmapkit.errors import ConfigError, ConfigErrors
from tcpmapkit.plugin_sources import Origin
from tcpmapkit.plugins import Plugins, load_plugins

__all__ = ["Step", "build_steps", "load_for", "step"]


@attrs.frozen
class Step:
    """A resolver object, or the TOML text of one, with options of its step (see `step`)."""

    resolver: Any
    options: Mapping[str, Any]


def step(resolver: Any, **options: Any) -> Step:
    """A step with the options that every step takes, spelled as in TOML.

    >>> first = step(FakeResolver({"a": TempFail("down")}), on_error="next", timeout="2s")
    """
    return Step(resolver, options)


def load_for(document: Document, modules: Iterable[ModuleType]) -> Plugins:
    """The plugins that a configuration loads, and these modules where nothing has loaded them.

    Raises `ConfigError` for a broken one of `modules`.
    """
    wanted = plugins_config(document)
    loaded = load_plugins(wanted.directory, wanted.disable)
    sources = {origin.source for origin in loaded.loaded.values()}
    for module in modules:
        if module.__name__ not in sources:
            _load(loaded, module)
    return loaded


def _load(loaded: Plugins, module: ModuleType) -> None:
    name = module.__name__
    loaded.load(Origin(name, name, "", name), lambda: module)
    for broken in loaded.broken:
        if broken.name == name:
            raise ConfigError(f"plugin {name} is broken: {broken.reason}")


def build_steps(
    steps: Iterable[Any],
    plugins: Iterable[ModuleType] = (),
    directory: Path | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> BuiltMaps:
    """The map "test" with these steps for a chain, not started. Raises `ConfigErrors`."""
    objects: dict[str, Any] = {}
    tables: list[dict[str, Any]] = []
    for one in steps:
        resolver, options = (one.resolver, one.options) if isinstance(one, Step) else (one, {})
        if isinstance(resolver, str):
            table = tomli.loads(resolver)
        else:
            table = {"type": f"{type(resolver).__name__}-{len(objects) + 1}"}
            objects[table["type"]] = resolver
        tables.append({**table, **options})
    data = {"maps": {"test": {"cache": False, "resolvers": tables}}}
    document = Document((directory or Path.cwd()) / "test.toml", "", data)
    # What is installed is not looked for where nobody asks for it: that takes longer than the rest.
    loaded = load_for(document, plugins) if len(objects) < len(tables) else Plugins()
    _load(loaded, _plugin_of(objects))
    config, errors = structure(document, loaded.types)
    built, more = build_maps(config, loaded, clock)
    if errors or more:
        raise ConfigErrors([*errors, *more])
    return built


def _plugin_of(objects: Mapping[str, Any]) -> ModuleType:
    """A plugin that offers finished resolver objects, each as a type."""

    @hookimpl
    def register_resolvers(register: Any) -> None:
        for name, resolver in objects.items():
            register(name, lambda resolver=resolver: resolver)

    plugin = ModuleType("objects")
    plugin.register_resolvers = register_resolvers  # type: ignore[attr-defined]
    return plugin
