"""What a worker's process does, from its first moment to its exit status."""

from __future__ import annotations

import asyncio
import gc
import os
from typing import TYPE_CHECKING

from tcpmapkit.errors import ConfigErrors
from tcpmapkit.progress import show_progress
from tcpmapkit.serve import loop_factory
from tcpmapkit.site import build_site
from tcpmapkit.workers.worker import Worker

if TYPE_CHECKING:
    from tcpmapkit.workers.channel import Channel
    from tcpmapkit.workers.in_force import InForce

__all__ = ["work"]


def work(channel: Channel, in_force: InForce, number: int) -> int:
    """Serve the configuration in force as worker `number`, until told to stop; the exit status."""
    from tcpmapkit.serving import Serving

    gc.disable()  # nothing that is made here is garbage
    site = build_site(in_force.document, in_force.plugins)
    gc.enable()
    if site.mistakes:  # those that only building shows, were they not found before the parent had started
        raise ConfigErrors(site.mistakes)
    if number == 1:
        show_progress(site.maps, logged=True)  # the others wait for the same
    with asyncio.Runner(loop_factory=loop_factory(site.config.server.loop)) as runner:
        return runner.run(Worker(channel, Serving(site, accepts=False)).run())
