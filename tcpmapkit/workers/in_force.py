"""What the workers are started from: never what the file says by then, which may be half written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from tcpmapkit.config import AdminConfig, Config, Document, ServerConfig
    from tcpmapkit.plugins import Plugins
    from tcpmapkit.workers.known_tables import KnownTables

__all__ = ["InForce", "worker_count"]


@attrs.define(eq=False)
class InForce:
    """The configuration in force. `at_start` and `admin` are ``[server]`` and ``[admin]`` of the first: what
    only a start takes is the same for a worker that comes later. `tables` is what the last worker that served
    has told of its own; None while none has."""

    document: Document
    config: Config
    plugins: Plugins
    at_start: ServerConfig
    admin: AdminConfig | None
    tables: KnownTables | None = None


def worker_count(wanted: int | str) -> int:
    """How many workers `workers` means: ``"auto"`` is one for each processor that this process may use."""
    if isinstance(wanted, int):
        return wanted
    import os

    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
