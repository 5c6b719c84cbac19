"""From the configuration to maps that answer: resolver objects, steps, chains, maps, in that order.

Nothing here does I/O; `BuiltMaps.start` lets the resolvers load their tables. Mistakes are gathered,
so that all of them are told at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

import attrs

from tcpmapkit import keys
from tcpmapkit.build_chain import ChainBuilder
from tcpmapkit.built_maps import BuiltMaps
from tcpmapkit.built_step import BuiltStep, Place
from tcpmapkit.cache import CacheOptions
from tcpmapkit.errors import ConfigError
from tcpmapkit.generation import Generation
from tcpmapkit.key_search import search_with
from tcpmapkit.make_resolver import Traits
from tcpmapkit.maps import Map
from tcpmapkit.plugins import Plugins
from tcpmapkit.protocols import PROTOCOLS
from tcpmapkit.search import SearchOrder

if TYPE_CHECKING:
    from tcpmapkit.config import Config, ListenerConfig, MapConfig

__all__ = ["build_maps", "served_maps"]

Path = tuple[str | int, ...]


def build_maps(
    config: Config,
    plugins: Plugins,
    clock: Callable[[], float] = time.monotonic,
    *,
    offline: bool = False,
    before: BuiltMaps | None = None,
    kept: Mapping[Place, BuiltStep] = MappingProxyType({}),
) -> tuple[BuiltMaps, list[ConfigError]]:
    """The maps of a configuration, not yet started, and the mistakes that only building shows.

    A map with a mistake is left out; `clock` gives seconds; `offline` puts a failure in the place of
    every resolver that would have to wait for a network. The maps follow those of `before`: steps that are
    `kept` serve in them as they are where the configuration of them is still the same, and so does a
    whole map, with what it has cached, of which no part is another.
    """
    builder = _Builder(config, plugins, clock, offline, before, kept)
    for name in config.maps:
        builder.map(name, ())
    for listener in config.listeners:
        if not PROTOCOLS[listener.protocol].has_attributes:
            builder.errors += _unanswerable(listener, builder.built.maps)
    return builder.built, builder.errors


def served_maps(listener: ListenerConfig, maps: Mapping[str, Map]) -> tuple[str, ...]:
    """The names of the maps that a listener serves; where it names none, of all that can be."""
    if listener.map is not None:
        return (listener.map,)
    if listener.maps is not None:
        return listener.maps
    return tuple(name for name, map in maps.items() if not _reads_attributes(map))


def _reads_attributes(map: Map) -> bool:
    return map.current.attributes != ()


def _unanswerable(listener: ListenerConfig, maps: Mapping[str, Map]) -> Iterable[ConfigError]:
    """What is wrong with maps that read what this listener's requests have not, and with none at all."""
    if listener.map is None and listener.maps is None and not served_maps(listener, maps):
        yield ConfigError(
            "there is no map for it to serve",
            path=listener.path,
            hint="those that read attributes of a policy request are not for it" if maps else None,
        )
    for index, name in enumerate(served_maps(listener, maps)):
        if name in maps and _reads_attributes(maps[name]):
            yield ConfigError(
                f"map {name} reads attributes of a policy request, which a "
                f"{listener.protocol} request has not",
                path=(*listener.path, "map") if listener.map is not None else (*listener.path, "maps", index),
            )


class _Builder:
    def __init__(
        self,
        config: Config,
        plugins: Plugins,
        clock: Callable[[], float],
        offline: bool,
        before: BuiltMaps | None,
        kept: Mapping[Place, BuiltStep],
    ) -> None:
        self.config = config
        self.offline = offline
        self.plugins = plugins
        self.kept = kept
        self.built = BuiltMaps(clock, before)
        self.errors: list[ConfigError] = []
        self.under_way: list[str] = []
        self.tried: set[str] = set()

    def map(self, name: str, path: Path) -> Map | None:
        """Build a map once, those that it refers to first; None when it cannot be built.

        `path` is the option that asks for it, for the error.
        """
        if name in self.tried:
            return self.built.maps.get(name)
        if name in self.under_way:
            circle = " -> ".join([*self.under_way[self.under_way.index(name) :], name])
            self.errors.append(ConfigError(f"maps refer to one another in a circle: {circle}", path=path))
            return None
        config = self.config.maps.get(name)
        if config is None:
            known = ", ".join(self.config.maps)
            self.errors.append(ConfigError(f"unknown map {name!r}", path=path, hint=f"known: {known}"))
            return None
        self.under_way.append(name)
        built = self._build(config)
        self.under_way.pop()
        self.tried.add(name)
        if built is not None:
            self.built.maps[name] = built
        return built

    def _build(self, config: MapConfig) -> Map | None:
        mistakes = len(self.errors)
        group = ChainBuilder(self, config).group(config.resolvers, "fail")
        if group is None:
            return None
        cache = self._cache(config, group.traits)
        if len(self.errors) > mistakes:
            return None
        deadline = config.deadline if config.deadline is not None else self.config.server.deadline
        self.built.made_by[config.name] = (
            attrs.evolve(config, deadline=deadline, cache=cache, tests=()),
            self.config.log.slow_lookup,
        )
        serving_on = self._same_as_before(config.name)
        if serving_on is not None:
            return serving_on
        attributes = group.traits.attributes
        order = config.search_order
        generation = Generation(
            group.chain if order is None else search_with(group.chain, order.keys),
            conversion=_conversion(config, order),
            rewriting=order if order is not None and order.rewrites else None,
            folded=config.fold and group.traits.folded,
            attributes=None if attributes is None else tuple(sorted(attributes)),
            in_memory=group.traits.in_memory,
        )
        return Map(
            config.name,
            generation,
            deadline=deadline,
            cache=cache,
            split=keys.splitter(config.recipient_delimiter),
            clock=self.built.clock,
            observer=self.plugins.query_resolved,
            counters=self.built.map_counters[config.name],
            slow=self.config.log.slow_lookup,
        )

    def _same_as_before(self, name: str) -> Map | None:
        """The map that was there before, when nothing of it is another; its groups then serve on with it."""
        built, before = self.built, self.built.before
        old = before.maps.get(name) if before is not None else None
        if before is None or old is None or built.made_by[name] != before.made_by[name]:
            return None
        theirs = before.steps_of(name)
        if not all(one.alone or one.is_current() for one in theirs):
            return None
        if {one for one in theirs if one.alone} != {one for one in built.steps_of(name) if one.alone}:
            return None
        if any(built.maps[other] is not before.maps.get(other) for other in built.references.get(name, ())):
            return None
        built.steps = [one for one in built.steps if one.context.map != name] + theirs
        return old

    def _cache(self, config: MapConfig, traits: Traits) -> CacheOptions | None:
        if traits.attributes is None:
            if config.cache_written and config.cache is not None:
                self.errors.append(
                    ConfigError(
                        "the map cannot be cached: a step may read any attribute of a request",
                        path=(*config.path, "cache"),
                    )
                )
            return None
        served = any(
            listener.map == config.name and PROTOCOLS[listener.protocol].has_attributes
            for listener in self.config.listeners
        )
        # A policy's requests seldom come twice, and what it answers may be about the moment.
        return None if served and not config.cache_written else config.cache


def _conversion(config: MapConfig, order: SearchOrder | None) -> Callable[[str], str] | None:
    """What a key goes through first: its domain in the form that ``idna`` says."""
    if config.idna is None:
        return None
    # A user without a domain is no domain.
    bare_is_domain = order is None or order.bare_is_domain
    return partial(keys.convert_domain, form=config.idna, bare_is_domain=bare_is_domain)
