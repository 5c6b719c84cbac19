"""What a worker's process does, from its first moment to its exit status."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

from tcpmapkit.errors import ConfigErrors
from tcpmapkit.process import drop_privileges
from tcpmapkit.progress import show_progress
from tcpmapkit.serve import loop_factory
from tcpmapkit.serving import Serving
from tcpmapkit.site import build_site
from tcpmapkit.workers.worker import Worker

if TYPE_CHECKING:
    from tcpmapkit.site import Site
    from tcpmapkit.workers.channel import Channel
    from tcpmapkit.workers.in_force import InForce

__all__ = ["work"]


def work(channel: Channel, in_force: InForce, number: int) -> int:
    """Serve the configuration in force as worker `number`, until told to stop; the exit status."""
    start = in_force.at_start
    gc.disable()  # nothing that is made here is garbage
    site = build_site(in_force.document, in_force.plugins)
    gc.enable()
    if number == 0:
        show_progress(site.maps, logged=True)  # the others wait for the same
    with asyncio.Runner(loop_factory=loop_factory(start.loop)) as runner:
        return runner.run(_work(channel, site, in_force))


async def _work(channel: Channel, site: Site, in_force: InForce) -> int:
    serving = Serving(site, accepts=False)
    started = False

    async def begin() -> None:
        nonlocal started
        if site.mistakes:
            raise ConfigErrors(site.mistakes)
        await site.start()
        start = in_force.at_start
        if (start.user, start.group) != (None, None):
            drop_privileges(start.user, start.group)
        gc.freeze()  # tables stay: to look for garbage in them would stop everybody
        started = True
        site.plugins.startup(site.config)
        await serving.start()

    try:
        return await Worker(channel, serving, begin).run()
    finally:
        if started:
            site.plugins.shutdown()
