"""What each listener serves, as Postfix's side of it needs to know."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from tcpmapkit.build import served_maps
from tcpmapkit.protocols import PROTOCOLS
from tcpmapkit.protocols.policy import ATTRIBUTES
from tcpmapkit.template import Template

if TYPE_CHECKING:
    from tcpmapkit.config import ListenerConfig, MapConfig
    from tcpmapkit.site import Site

__all__ = ["Served", "find_served"]


@attrs.frozen
class Served:
    """A listener with the maps that it serves. `deadline`, in seconds, is the longest of theirs;
    `attributes` are those of a request that they and the listener's key read."""

    listener: ListenerConfig
    maps: tuple[MapConfig, ...]
    deadline: float
    attributes: frozenset[str] = frozenset()

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
        found.append(Served(listener, maps, deadline, frozenset(attributes)))
    return found
