"""postfix-mta-sts-resolver on socketmap, its cache filled beforehand, so that it asks nobody.

Prints its port. On uvloop, as its daemon runs where there is one.
"""

from __future__ import annotations

import asyncio
import time
from importlib import import_module
from typing import Any

import uvloop

from benchmarks.data import domains


async def serve() -> None:
    # Only there where it is measured, and without types.
    CacheEntry = import_module("postfix_mta_sts_resolver.base_cache").CacheEntry  # noqa: N806
    InternalLRUCache = import_module("postfix_mta_sts_resolver.internal_cache").InternalLRUCache  # noqa: N806
    Responder = import_module("postfix_mta_sts_resolver.responder").STSSocketmapResponder  # noqa: N806

    zone = {"strict_testing": False, "timeout": 4, "require_sni": True, "tlsrpt": False}
    options: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": 0,
        "reuse_port": True,
        "shutdown_timeout": 1,
        "cache_grace": 86400,
        "default_zone": zone,
        "zones": {},
    }
    cache = InternalLRUCache(10_000)
    for domain in domains():
        policy = {"mode": "enforce", "mx": [f"mx.{domain}"], "max_age": 86400, "version": "STSv1"}
        await cache.set(domain, CacheEntry(time.time(), "1", policy))
    responder = Responder(options, asyncio.get_running_loop(), cache)
    await responder.start()
    print(responder._server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())
