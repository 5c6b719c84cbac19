"""From a listener's configuration to the service of its connections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tcpmapkit.counters import Counters
from tcpmapkit.policy_service import PolicyService
from tcpmapkit.protocols import PROTOCOLS
from tcpmapkit.query import Found
from tcpmapkit.ready import ReadyReplies
from tcpmapkit.service import Service
from tcpmapkit.template import Template

if TYPE_CHECKING:
    from tcpmapkit.config import ListenerConfig
    from tcpmapkit.connection import Connection
    from tcpmapkit.maps import Map

__all__ = ["new_service", "update_service"]


def new_service(
    config: ListenerConfig,
    maps: Sequence[Map],
    clock: Callable[[], float],
    opened: Callable[[Connection], None],
    closed: Callable[[Connection], None],
) -> Service:
    """The service of a listener that serves these maps; `clock` gives seconds."""
    protocol = PROTOCOLS[config.protocol]
    ready = ReadyReplies(maps, clock)
    make = PolicyService if protocol.has_attributes else Service
    service = make(
        name=str(config.endpoint),
        protocol=config.protocol,
        ready=ready,
        new_codec=protocol.new_codec,
        idle_timeout=protocol.idle_timeout,
        gives_way=protocol.gives_way,
        clock=clock,
        opened=opened,
        closed=closed,
        counters=Counters(ready.outcomes),
    )
    _configure(service, config, maps)
    return service


def update_service(service: Service, config: ListenerConfig, maps: Sequence[Map]) -> None:
    """Let the service of a listener serve as another configuration of it says, the connections that it has
    included. Where nothing changes, what is ready stays."""
    if list(service.maps.values()) != list(maps):
        service.ready.serve(maps)
    _configure(service, config, maps)


def _configure(service: Service, config: ListenerConfig, maps: Sequence[Map]) -> None:
    names = PROTOCOLS[config.protocol].names_map
    service.serve({map.name if names else "": map for map in maps})
    if isinstance(service, PolicyService):
        service.key = Template.compile(config.key)
        default = config.default_action
        service.default_action = None if default == "close" else Found(default)
        service.stage = config.stage
