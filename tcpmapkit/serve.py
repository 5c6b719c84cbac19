"""``tcpmapkit run``: from a site to a server that answers, and back, in the right order.

Bind first, so that a port in use is told at once; then load the tables, drop privileges, let plugins
start, and only then accept: whoever connects meanwhile waits in the kernel's queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Final

from tcpmapkit.doubts import look_for_doubts
from tcpmapkit.handover import hand_over, take_back
from tcpmapkit.inherited import inherited_sockets
from tcpmapkit.listener import as_bound
from tcpmapkit.process import find_identity
from tcpmapkit.serving import Serving
from tcpmapkit.systemd import Notifier, keep_alive

if TYPE_CHECKING:
    from tcpmapkit.config import ListenerConfig
    from tcpmapkit.site import Site

__all__ = ["before", "loop_factory", "serve", "told_to_stop"]

#: Seconds for a start that was told to stop.
_PATIENCE: Final = 1.0

_log = logging.getLogger(__name__)


def loop_factory(wanted: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """The event loop named: ``"asyncio"``, ``"uvloop"``, or ``"auto"`` for the faster one there is.

    Raises `ImportError` when uvloop is wanted and not installed.
    """
    if wanted != "asyncio":
        try:
            import uvloop
        except ImportError:
            if wanted == "uvloop":
                raise
        else:
            return uvloop.new_event_loop
    return asyncio.new_event_loop


async def serve(site: Site, ready: Callable[[list[ListenerConfig]], None]) -> None:
    """Serve until SIGTERM or SIGINT; a second signal ends it at once.

    `ready` is called with the listeners, their ports as bound, when the first connection can be
    answered. Raises `ConfigError` when a table does not load or there is no such user, and what
    `Server.bind` raises.
    """
    stopping = told_to_stop()
    config = site.config.server
    find_identity(config.user, config.group)  # told before a large table is loaded
    serving = Serving(site)
    serving.notifier = notifier = Notifier.from_environment()
    started = False
    with reloading(serving):
        async with controlled(serving):
            try:
                serving.server.bind()
                notifier.status("loading tables")
                if not await before(stopping, _load(site)):
                    return
                serving.server.drop_privileges()
                started = True
                gc.collect()  # of what building has left, for nothing of it is found after this:
                gc.freeze()  # tables stay: to look for garbage in them would stop everybody
                site.plugins.startup(site.config)
                await serving.start()
                ready(
                    [
                        as_bound(listener, at)
                        for listener, at in zip(site.config.listeners, serving.server.addresses, strict=True)
                    ]
                )
                take_back(serving.server, notifier)
                inherited_sockets().warn_of_left()
                notifier.ready(serving.status)
                with keep_alive(notifier, asyncio.get_running_loop()):
                    await stopping.wait()
            finally:
                async with contextlib.AsyncExitStack() as end:  # nothing of it is skipped, whatever raises
                    end.callback(notifier.close)
                    if started:
                        end.callback(site.plugins.shutdown)
                        end.callback(gc.unfreeze)
                    end.push_async_callback(serving.stop)
                    notifier.stopping()
                    await hand_over(serving.server.connections, notifier)


async def _load(site: Site) -> None:
    await site.start()
    await look_for_doubts(site)


@contextlib.asynccontextmanager
async def controlled(serving: Serving) -> AsyncIterator[None]:
    """Answer at the endpoint of ``[admin]``, if there is one: already while tables are loaded, and until the
    last connection is closed."""
    config = serving.site.config.admin
    if config is None:
        yield
        return
    from tcpmapkit.admin.endpoint import AdminEndpoint
    from tcpmapkit.control import Control

    control = Control(serving)
    endpoint = AdminEndpoint(config, control.ask_alone, control.answer)
    endpoint.bind()
    try:
        await endpoint.start()
        yield
    finally:
        await endpoint.stop()


@contextlib.contextmanager
def reloading(serving: Serving) -> Iterator[None]:
    """Reload at SIGHUP; one that comes before there is anything to reload does not end the process. All that
    come while one reload is under way are one more."""
    loop = asyncio.get_running_loop()
    under_way: asyncio.Task[None] | None = None
    wanted = False

    async def reload() -> None:
        nonlocal wanted
        while wanted and serving.ready:
            wanted = False
            await serving.reload()

    def told() -> None:
        nonlocal wanted, under_way
        if not serving.ready:
            _log.info("SIGHUP: still starting, or stopping already")
            return
        wanted = True
        if under_way is None or under_way.done():
            under_way = loop.create_task(reload())

    loop.add_signal_handler(signal.SIGHUP, told)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        if under_way is not None:
            under_way.cancel()


def told_to_stop() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set; a second signal ends the process at once."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()

    def stop(number: int) -> None:
        if stopping.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        _log.info("%s: stopping", signal.Signals(number).name)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    return stopping


async def before(stopping: asyncio.Event, start: Coroutine[Any, Any, None]) -> bool:
    """Wait for `start`, which is cancelled when `stopping` is set first; whether it came to its end."""
    starting = asyncio.ensure_future(start)
    told = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait((starting, told), return_when=asyncio.FIRST_COMPLETED)
    finally:
        told.cancel()
        if not starting.done():
            starting.cancel()
            await asyncio.wait((starting,), timeout=_PATIENCE)
    if not starting.done() or starting.cancelled():
        return False
    starting.result()
    return True
