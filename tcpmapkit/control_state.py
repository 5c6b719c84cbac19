"""What one process is doing, as ``status`` and ``tables`` tell it."""

from __future__ import annotations

import importlib.metadata
import os
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tcpmapkit.config import ListenerConfig
    from tcpmapkit.counters import Counters
    from tcpmapkit.maps import Map
    from tcpmapkit.serving import Serving

__all__ = ["status_of", "tables_of"]


@cache
def _version() -> str:
    return importlib.metadata.version("tcpmapkit")


def status_of(serving: Serving, worker: int, started_at: float) -> dict[str, Any]:
    """What this process serves and has done; times are seconds since the epoch."""
    site, server = serving.site, serving.server
    listeners = [
        _listener(config, site.served_by(config), counters)
        for config, counters in zip(site.config.listeners, server.counters, strict=True)
    ]
    requests = sum(sum(one["requests"].values()) for one in listeners)
    connections = sum(one["connections"] for one in listeners)
    return {
        "version": _version(),
        "pid": os.getpid(),
        "ready": serving.ready,
        "started_at": started_at,
        "file": str(site.document.path.absolute()),
        "loaded_at": serving.loaded_at,
        "reloads": {"good": serving.reloads.good, "bad": serving.reloads.bad},
        "max_connections": server.max_connections,
        "listeners": listeners,
        "maps": [_map(one) for one in site.maps.maps.values()],
        "held": [
            {"map": map, "step": step, "reason": str(reason)} for (map, step), reason in serving.held.items()
        ],
        "workers": [
            {
                "worker": worker,
                "pid": os.getpid(),
                "ready": serving.ready,
                "started_at": started_at,
                "connections": connections,
                "requests": requests,
            }
        ],
    }


def _listener(config: ListenerConfig, maps: list[Map], counters: Counters) -> dict[str, Any]:
    return {
        "endpoint": str(config.endpoint),
        "protocol": config.protocol,
        "maps": [map.name for map in maps],
        "connections": counters.connections_open,
        "connections_total": counters.connections,
        "connections_refused": counters.connections_refused,
        "requests": _requests(counters),
        "ready": counters.ready,
    }


def _requests(counters: Counters) -> dict[str, int]:
    """By outcome, the replies that were ready with the others; those refused reached no map."""
    told = [*counters.maps.values(), counters.no_map]
    return {
        "found": sum(one.found + one.ready_found for one in told),
        "not_found": sum(one.not_found + one.ready_not_found for one in told),
        "temporary": counters.temporary,
        "permanent": counters.permanent,
        "refused": counters.refused,
    }


def _map(map: Map) -> dict[str, Any]:
    cache = map.cache
    found, not_found = cache.count if cache is not None else (0, 0)
    found_bytes, not_found_bytes = cache.size if cache is not None else (0, 0)
    return {
        "name": map.name,
        "generation": map.generation,
        "cached": cache is not None,
        "in_memory": map.current.in_memory,
        "entries": {"found": found, "not_found": not_found},
        "bytes": {"found": found_bytes, "not_found": not_found_bytes},
        "stale_answers": map.counters.stale,
    }


def tables_of(serving: Serving) -> list[dict[str, Any]]:
    """The tables that are in files. Asks the file system whether they are as they were loaded, and waits
    for it."""
    tables = []
    hide = serving.site.document.secrets.hide  # what is from the environment is never shown, be it of a path
    for one in serving.site.maps.steps:
        files = one.files
        if not files:
            continue
        held = serving.held.get(one.place)
        tables.append(
            {
                "map": one.place[0],
                "step": one.place[1],
                "files": [hide(str(file)) for file in files],
                "rows": one.rows,
                "loaded_at": getattr(one, "loaded_at", None),
                "current": one.is_current(),
                "held": str(held) if held is not None else None,
            }
        )
    return tables
