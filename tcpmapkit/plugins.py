"""Plugins: found, loaded, registered. With `hookspecs` the only module that knows pluggy.

Built-in resolvers, installed packages (entry points in the group ``tcpmapkit``, each naming a
module) and the ``.py`` files of one drop-in directory come in through the same hook. They are
loaded one by one, so that a broken one is reported by name and stops nobody else.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, cast

import attrs
import pluggy

from tcpmapkit import hookspecs
from tcpmapkit.errors import ConfigError
from tcpmapkit.markers import refuse_marked_resolver, refuse_misused_markers
from tcpmapkit.plugin_sources import Origin, drop_in_files, import_file, installed, own_version
from tcpmapkit.query import Outcome, Query
from tcpmapkit.seldom import Seldom
from tcpmapkit.shown import texts_of

__all__ = [
    "BUILT_IN",
    "BrokenPlugin",
    "Plugins",
    "ResolverType",
    "load_plugins",
    "order_steps",
]

#: The modules of `tcpmapkit.resolvers`, each a plugin like any other.
BUILT_IN = (
    "chain",
    "cidr",
    "csv",
    "dns",
    "file",
    "http",
    "map",
    "pipe",
    "python",
    "regex",
    "rules",
    "sqlite",
    "static",
    "union",
)

_log = logging.getLogger(__name__)


@attrs.frozen
class ResolverType:
    """A name that a line of TOML can say, and what its resolvers are like (see `Register`).

    `distribution`, `version` and `source` (a module, or a file) say where it comes from.
    """

    name: str
    factory: Any
    folded: bool = True
    partial_keys: bool = True
    special_keys: bool = False
    in_memory: bool = False
    attributes: frozenset[str] = frozenset()
    distribution: str = ""
    version: str = ""
    source: str = ""


@attrs.frozen
class BrokenPlugin:
    """A plugin that could not be loaded, and why."""

    name: str
    distribution: str
    version: str
    reason: str

    def __str__(self) -> str:
        whose = " ".join(part for part in (self.distribution, self.version) if part)
        return f"plugin {self.name} ({whose}) is broken: {self.reason}"


class Plugins:
    """The plugins that were loaded: what they offer, and the hooks called on all of them."""

    def __init__(self) -> None:
        self._plugins = pluggy.PluginManager(hookspecs.PROJECT)
        self._plugins.add_hookspecs(hookspecs)
        self._types: dict[str, ResolverType] = {}
        self._broken: list[BrokenPlugin] = []
        self._postponed: dict[str, tuple[Origin, Callable[[], object]]] = {}
        #: Whose each plugin is, by its name, in the order of loading.
        self.loaded: dict[str, Origin] = {}
        #: How often the `query_resolved` of each plugin that observes lookups has failed.
        self.failures: dict[str, int] = {}

    @property
    def types(self) -> Mapping[str, ResolverType]:
        """The resolver types by name."""
        return MappingProxyType(self._types)

    @property
    def broken(self) -> tuple[BrokenPlugin, ...]:
        """The plugins that could not be loaded."""
        return tuple(self._broken)

    @property
    def query_resolved(self) -> Callable[[Query, Outcome, str, float], None] | None:
        """The call that tells every observer of a lookup; None when no plugin observes."""
        observers = tuple(self._implementations("query_resolved"))
        if not observers:
            return None
        said = Seldom()
        for plugin, _ in observers:
            self.failures.setdefault(plugin, 0)

        def tell(query: Query, outcome: Outcome, resolver: str, elapsed: float) -> None:
            for plugin, observe in observers:
                try:
                    observe(query=query, outcome=outcome, resolver=resolver, elapsed=elapsed)
                except Exception as error:
                    self.failures[plugin] += 1
                    text = "plugin %s: query_resolved failed"
                    hidden = {"hidden": tuple(texts_of(query))}
                    now = query.clock()
                    said.log(_log, logging.ERROR, plugin, now, text, plugin, exc_info=error, extra=hidden)

        return tell

    def startup(self, config: object) -> None:
        """Call every plugin's `startup`. Raises `ConfigError` naming the one that fails."""
        for plugin, function in self._implementations("startup"):
            try:
                function(config=config)
            except Exception as error:
                raise ConfigError(f"plugin {plugin}: startup failed: {_describe(error)}") from error

    def shutdown(self) -> None:
        """Call every plugin's `shutdown`; one that fails is logged."""
        for plugin, function in self._implementations("shutdown"):
            try:
                function()
            except Exception:
                _log.exception("plugin %s: shutdown failed", plugin)

    def _implementations(self, hook: str) -> Iterator[tuple[str, Callable[..., Any]]]:
        """The implementations of a hook one at a time, so that each can fail alone."""
        caller = getattr(self._plugins.hook, hook)
        for implementation in caller.get_hookimpls():
            others = [one for one in self._plugins.get_plugins() if one is not implementation.plugin]
            yield implementation.plugin_name, self._plugins.subset_hook_caller(hook, others)

    def load(self, origin: Origin, find: Callable[[], object]) -> None:
        """Import one plugin by `find`, register it and take the types that it offers, or report it."""
        offered: dict[str, ResolverType] = {}
        registered = False
        try:
            taken = self.loaded.get(origin.name) or self._postponed_origin(origin.name)
            if taken is not None:
                whose = f"{origin.name!r} of {origin.distribution}"
                raise ValueError(f"the plugin name {whose} is taken by {taken.distribution}")
            plugin = find()
            refuse_misused_markers(plugin)
            self._plugins.register(plugin, name=origin.name)
            registered = True
            self._plugins.check_pending()
            for name, offer in self._implementations("register_resolvers"):
                if name == origin.name:
                    offer(register=self._register(origin, offered))
        except (Exception, SystemExit) as error:
            if registered:
                self._plugins.unregister(name=origin.name)
            version = own_version() if origin.distribution == hookspecs.PROJECT else origin.version
            broken = BrokenPlugin(origin.name, origin.distribution, version, _describe(error))
            self._broken.append(broken)
        else:
            self._types.update(offered)
            self.loaded[origin.name] = origin

    def postpone(self, origin: Origin, find: Callable[[], object]) -> None:
        """Load a plugin by `load_postponed` only. It is named as the one type that it offers, and both
        names are taken from now on."""
        self._postponed[origin.name] = origin, find

    def load_postponed(self) -> None:
        """Load what was postponed."""
        postponed, self._postponed = self._postponed, {}
        for origin, find in postponed.values():
            self.load(origin, find)

    def _postponed_origin(self, name: str) -> Origin | None:
        return self._postponed[name][0] if name in self._postponed else None

    def _register(self, origin: Origin, offered: dict[str, ResolverType]) -> Callable[..., None]:
        def register(
            name: str,
            factory: Any,
            *,
            folded: bool = True,
            partial_keys: bool = True,
            special_keys: bool = False,
            in_memory: bool = False,
            attributes: Iterable[str] = (),
        ) -> None:
            taken = self._types.get(name) or offered.get(name) or self._postponed_origin(name)
            if taken is not None:
                raise ValueError(
                    f"resolver type {name!r} of {origin.distribution} is taken by {taken.distribution}"
                )
            if not callable(factory):
                raise TypeError(f"the factory of resolver type {name!r} is not callable")
            if isinstance(attributes, str):
                attributes = (attributes,)
            offered[name] = ResolverType(
                name=name,
                factory=factory,
                folded=folded,
                partial_keys=partial_keys,
                special_keys=special_keys,
                in_memory=in_memory,
                attributes=frozenset(attributes),
                distribution=origin.distribution,
                version=origin.version,
                source=origin.source,
            )

        return register


def load_plugins(
    directory: Path | None = None, disable: Iterable[str] = (), types: Container[str] | None = None
) -> Plugins:
    """Load the built-ins, the installed packages and the drop-in files.

    `directory` holds drop-in files; `disable` names plugins that are not even imported. With `types`
    the built-ins that are not among them are postponed, and the version of those that are is left
    empty: to import them all and to look it up takes longer than a lookup. Raises `ConfigError` when
    the directory cannot be read or others can write to it.
    """
    plugins = Plugins()
    blocked = set(disable)
    version = own_version() if types is None else ""
    for name in BUILT_IN:
        if name not in blocked:
            module = f"tcpmapkit.resolvers.{name}"
            load = plugins.load if types is None or name in types else plugins.postpone
            load(
                Origin(name, hookspecs.PROJECT, version, module),
                partial(importlib.import_module, module),
            )
    for origin, find in installed(hookspecs.PROJECT):
        if origin.name not in blocked:
            plugins.load(origin, find)
    if directory is not None:
        for file in drop_in_files(directory):
            if file.stem not in blocked:
                plugins.load(Origin(file.stem, file.name, "", str(file)), partial(import_file, file))
    return plugins


def _describe(error: BaseException) -> str:
    """An exception in one line: pluggy says in the second and third what is wrong."""
    return f"{type(error).__name__}: {'; '.join(str(error).splitlines())}".removesuffix(": ")


_Step = TypeVar("_Step")


def order_steps(steps: Sequence[_Step], names: Sequence[str]) -> tuple[_Step, ...]:
    """A chain's steps as registered with its own plugin manager, in the operator's order.

    pluggy validates and orders, once; it calls the last registered first, hence the reversal.
    Raises `ConfigError` when a step's `resolve` is not a plain hook implementation.
    """
    chain = pluggy.PluginManager(hookspecs.PROJECT)
    chain.add_hookspecs(hookspecs)
    for step, name in reversed(list(zip(steps, names, strict=True))):
        chain.register(step, name=name)
        refuse_marked_resolver(step)
    chain.check_pending()
    ordered = reversed(chain.hook.resolve.get_hookimpls())
    return tuple(cast(_Step, implementation.plugin) for implementation in ordered)
