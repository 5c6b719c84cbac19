"""What each listener serves, as Postfix's side of it needs to know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

from tcpmapkit.build import served_maps
from tcpmapkit.protocols import PROTOCOLS
from tcpmapkit.protocols.policy import ATTRIBUTES
from tcpmapkit.search import Search
from tcpmapkit.template import Template

if TYPE_CHECKING:
    from tcpmapkit.config import ListenerConfig, MapConfig
    from tcpmapkit.site import Site

__all__ = ["Served", "find_served"]


@attrs.frozen
class Served:
    """A listener with the maps that it serves. `deadline`, in seconds, is the longest of theirs;
    `attributes` are those of a request that they and the listener's key read; `brought` the searches of
    the maps that each of them refers to."""

    listener: ListenerConfig
    maps: tuple[MapConfig, ...]
    deadline: float
    attributes: frozenset[str] = frozenset()
    brought: Mapping[str, frozenset[Search]] = attrs.field(factory=dict)

    def at(self, listener: ListenerConfig) -> Served:
        """The same of the listener as it is bound."""
        return attrs.evolve(self, listener=listener)


def find_served(site: Site) -> list[Served]:
    """What the listeners of a configuration serve, in its order."""
    config, built = site.config, site.maps.maps
    found = []
    for listener in config.listeners:
        names = served_maps(listener, built)
        maps = tuple(config.maps[name] for name in names)
        deadline = max((built[name].deadline for name in names), default=config.server.deadline)
        attributes: set[str] = set()
        if PROTOCOLS[listener.protocol].has_attributes:
            attributes |= set(Template.compile(listener.key, ATTRIBUTES).attributes)
            for name in names:
                attributes |= set(built[name].current.attributes or ())
        brought = {name: _brought(site, name) for name in names}
        found.append(Served(listener, maps, deadline, frozenset(attributes), brought))
    return found


def _brought(site: Site, name: str) -> frozenset[Search]:
    """The searches of the maps that a map refers to, however many steps away."""
    searches: set[Search] = set()
    for other in site.maps.references.get(name, ()):
        search = site.config.maps[other].search
        searches |= {search} if search is not None else _brought(site, other)
    return frozenset(searches)
