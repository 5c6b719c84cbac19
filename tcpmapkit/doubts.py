"""What is doubtful about a site that is about to be served. It refuses no start, since a server that does not
start defers the mail of all maps; `tcpmapkit check` and a reload refuse the same."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from tcpmapkit.renewal import fail_without_network
from tcpmapkit.site import located

if TYPE_CHECKING:
    from tcpmapkit.errors import ConfigError
    from tcpmapkit.site import Site

__all__ = ["look_for_doubts", "tell_doubts"]

#: Seconds for tests that need no network; a start waits no longer for them.
_PATIENCE: Final = 10.0

_log = logging.getLogger(__name__)


async def look_for_doubts(site: Site) -> None:
    """Log what is doubtful about a site that is started."""
    steps = {one.place: one for one in site.maps.steps if one.alone}
    try:
        async with asyncio.timeout(_PATIENCE):
            wrong = await fail_without_network(site, steps)
    except TimeoutError:
        _log.warning("the tests took too long, and are left out at this start")
        wrong = []
    tell_doubts(site, wrong)


def tell_doubts(site: Site, wrong: Iterable[ConfigError]) -> None:
    """Log the tests that are `wrong`, and the tables with nothing in them."""
    for one in site.maps.steps:
        if one.rows == 0 and one.files:
            _log.warning("map %s: step %s: there is nothing in %s", *one.place, one.files[0])
    for error in located(site.document, list(wrong)).errors:
        _log.error("served all the same: %s", str(error).partition("\n")[0])
