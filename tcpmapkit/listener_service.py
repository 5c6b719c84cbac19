"""From a listener's configuration to the service of its connections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

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

__all__ = ["new_service"]


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
    common: dict[str, Any] = {
        "name": str(config.endpoint),
        "protocol": config.protocol,
        "maps": {map.name if protocol.names_map else "": map for map in maps},
        "find": ready.find,
        "keep": ready.keep,
        "new_codec": protocol.new_codec,
        "idle_timeout": protocol.idle_timeout,
        "gives_way": protocol.gives_way,
        "clock": clock,
        "opened": opened,
        "closed": closed,
        "counters": Counters(ready.outcomes),
    }
    if not protocol.has_attributes:
        return Service(**common)
    default = config.default_action
    return PolicyService(
        **common | {"find": _nothing_ready, "keep": _keep_nothing},
        key=Template.compile(config.key),
        default_action=None if default == "close" else Found(default),
        stage=config.stage,
    )


def _nothing_ready(raw: bytes) -> None:
    return None


def _keep_nothing(*_: object) -> None:
    return None
