"""What a worker's process does, from its first moment to its exit status."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from typing import TYPE_CHECKING

from tcpmapkit.errors import ConfigErrors
from tcpmapkit.log import name_worker
from tcpmapkit.process import drop_privileges
from tcpmapkit.progress import show_progress
from tcpmapkit.serve import loop_factory
from tcpmapkit.serving import Serving
from tcpmapkit.site import build_site
from tcpmapkit.workers.worker import Worker

if TYPE_CHECKING:
    from tcpmapkit.config import AdminConfig
    from tcpmapkit.site import Site
    from tcpmapkit.workers.channel import Channel
    from tcpmapkit.workers.in_force import InForce

__all__ = ["work"]

_log = logging.getLogger(__name__)


def work(channel: Channel, in_force: InForce, number: int) -> int:
    """Serve the configuration in force as worker `number`, until told to stop; the exit status."""
    name_worker(number)
    gc.disable()  # nothing that is made here is garbage
    site = build_site(in_force.document, in_force.plugins)
    gc.enable()
    if number == 0:
        show_progress(site.maps, logged=True)  # the others wait for the same
    with asyncio.Runner(loop_factory=loop_factory(in_force.at_start.loop)) as runner:
        return runner.run(_work(channel, site, in_force, number))


async def _work(channel: Channel, site: Site, in_force: InForce, number: int) -> int:
    serving = Serving(site, accepts=False)
    start = in_force.at_start
    admin: _Admin | None = None
    started = False

    async def begin() -> None:
        nonlocal started, admin
        if site.mistakes:
            raise ConfigErrors(site.mistakes)
        if in_force.admin is not None:
            admin = _Admin(in_force.admin, worker, serving, number)
        await site.start()
        await worker.tables.check(site, in_force.tables)
        if (start.user, start.group) != (None, None):
            drop_privileges(start.user, start.group)
        gc.collect()  # of what building has left
        gc.freeze()  # tables stay: to look for garbage in them would stop everybody
        started = True
        site.plugins.startup(site.config)
        await serving.start()

    worker = Worker(channel, serving, begin)
    try:
        return await worker.run()
    finally:
        try:
            if admin is not None:
                await admin.stop()
        finally:
            if started:
                site.plugins.shutdown()


class _Admin:
    """The endpoint of ``[admin]``, whose libraries only the worker loads that is given a connection."""

    def __init__(self, config: AdminConfig, worker: Worker, serving: Serving, number: int) -> None:
        from tcpmapkit.admin.endpoint import AdminEndpoint
        from tcpmapkit.control import Control

        control = Control(serving, number)
        worker.answer = control.answer
        worker.serve_admin = self._serve
        self._endpoint = AdminEndpoint(config, worker.ask_all, control.answer)
        self._starting: asyncio.Task[bool] | None = None

    async def _serve(self, connection: socket.socket) -> None:
        if self._starting is None:
            self._starting = asyncio.create_task(self._start())
        served = False
        try:
            if served := await asyncio.shield(self._starting):
                self._endpoint.serve_connection(connection)
        finally:
            if not served:
                connection.close()

    async def _start(self) -> bool:
        try:
            await self._endpoint.start()
        except Exception:
            _log.error("the admin endpoint cannot be served", exc_info=True)
            self._starting = None  # the next connection tries again
            return False
        return True

    async def stop(self) -> None:
        """End what is under way."""
        if self._starting is not None:
            await self._starting
            await self._endpoint.stop()
