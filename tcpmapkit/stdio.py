"""``tcpmapkit run --stdio``: one listener's protocol on standard input and output, for one connection.

Nothing is bound and nobody becomes another user: both have been done by whoever made the connection,
as spawn(8) does. Only the tables of this listener's maps are loaded.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from tcpmapkit.build import served_maps
from tcpmapkit.command_line import listener_named
from tcpmapkit.connection import Connection
from tcpmapkit.errors import ConfigError, ConfigErrors
from tcpmapkit.listener_service import new_service
from tcpmapkit.log import drop_log, has_syslog, set_up_log
from tcpmapkit.output import tell
from tcpmapkit.process import StartError
from tcpmapkit.serve import before, loop_factory, told_to_stop
from tcpmapkit.site import find_configuration, located, open_site
from tcpmapkit.standard_streams import StandardStreams

if TYPE_CHECKING:
    from tcpmapkit.config import ListenerConfig, LogConfig
    from tcpmapkit.site import Site

__all__ = ["SingleConnection", "run_on_stdio"]

#: Seconds for a connection that was dropped at the end of the grace to be gone.
_LAST_TURNS: Final = 1.0

_log = logging.getLogger(__name__)


def run_on_stdio(file: Path | None, name: str) -> int:
    """Serve one connection as the listener of this name would; the exit status.

    Where standard error is the peer's too, what is wrong goes to the log, and that to syslog.
    """
    try:
        streams = StandardStreams.take()
    except StartError as error:
        tell(f"tcpmapkit: {error}")
        return 1
    _set_up_log(None, streams)
    try:
        _serve(file, name, streams)
    except ConfigError as error:
        if streams.has_error:
            tell(str(error))
        else:
            for one in ConfigErrors([error]).errors:
                _log.critical("%s", str(one).partition("\n")[0])
        return os.EX_CONFIG
    except (StartError, ImportError) as error:
        if streams.has_error:
            tell(f"tcpmapkit: {error}")
        else:
            _log.critical("%s", error)
        return 1
    except click.UsageError as error:
        if streams.has_error:
            raise
        _log.critical("--stdio: %s", error.format_message())
        return error.exit_code
    except Exception:
        _log.critical("a bug of ours", exc_info=sys.exc_info())
        return 1
    return 0


def _serve(file: Path | None, name: str, streams: StandardStreams) -> None:
    site = open_site(find_configuration(file))
    for plugin in site.plugins.broken:
        _log.warning("%s", plugin)
    listener = listener_named(site, name)
    try:
        _set_up_log(site.config.log, streams)
        with asyncio.Runner(loop_factory=loop_factory(site.config.server.loop)) as runner:
            runner.run(_serve_stdio(site, listener, streams))
    except ConfigError as error:
        raise located(site.document, [error]) from None


def _set_up_log(config: LogConfig | None, streams: StandardStreams) -> None:
    """As the configuration says, None before it is read; but not to the peer."""
    to, level, form = (config.to, config.level, config.format) if config else ("stderr", "warning", "text")
    if to == "stderr" and not streams.has_error:
        if not has_syslog():
            drop_log()
            return
        to = "syslog"
    set_up_log(to, level, form, config.log_keys if config else "hash")


async def _serve_stdio(site: Site, listener: ListenerConfig, streams: StandardStreams) -> None:
    """Until the peer hangs up, or SIGTERM. Raises `ConfigError` for tables, `StartError` when the replies
    cannot be written."""
    stopping = told_to_stop()
    names = served_maps(listener, site.maps.maps)
    started = False
    try:
        if not await before(stopping, site.start(names)):
            return
        started = True
        site.plugins.startup(site.config)
        await SingleConnection(site, listener, streams).serve(stopping)
    finally:
        await site.maps.stop()
        if started:
            site.plugins.shutdown()


class SingleConnection:
    """The one connection, on these streams; `service` is what it is served by."""

    def __init__(self, site: Site, listener: ListenerConfig, streams: StandardStreams) -> None:
        maps = site.served_by(listener)
        self._streams = streams
        self._grace = site.config.server.grace
        self._ended = asyncio.Event()
        self._failure: OSError | None = None
        self._loop = asyncio.get_running_loop()
        clock = site.maps.clock
        self.service = new_service(listener, maps, clock, lambda connection: None, self._closed)
        self._connection = Connection(self.service)

    async def serve(self, stopping: asyncio.Event) -> None:
        """Answer until the peer hangs up or is idle for too long, or `stopping` is set."""
        peer = self._streams.as_socket(self._written)
        try:
            await self._loop.connect_accepted_socket(lambda: self._connection, peer)
        except OSError as error:
            peer.close()
            raise StartError(f"standard input and output are no connection: {error.strerror}") from None
        told = asyncio.ensure_future(stopping.wait())
        try:
            await self._until_ended(told)
        finally:
            told.cancel()
        if not self._ended.is_set():
            self._connection.finish()
            if not await self._ends_within(self._grace):
                _log.warning("the connection did not finish within the grace and is dropped")
                self._connection.abort()
                await self._ends_within(_LAST_TURNS)
        if self._failure is not None:
            raise StartError(f"standard output cannot be written: {self._failure.strerror}")

    async def _until_ended(self, told: asyncio.Future[Any]) -> None:
        ended = asyncio.ensure_future(self._ended.wait())
        allowed = self.service.idle_timeout
        try:
            while not ended.done() and not told.done():
                idle = self.service.clock() - self._connection.last_active
                if idle >= allowed:
                    self._connection.close_idle()
                    idle = 0.0
                await asyncio.wait((ended, told), timeout=allowed - idle, return_when="FIRST_COMPLETED")
        finally:
            ended.cancel()

    async def _ends_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        except TimeoutError:
            return False
        return True

    def _closed(self, connection: Connection) -> None:
        if self._streams.one_socket:
            self._ended.set()

    def _written(self, failure: OSError | None) -> None:
        """Called in a thread: the last reply has gone, or cannot go."""

        def end() -> None:
            self._failure = failure
            self._ended.set()

        try:
            self._loop.call_soon_threadsafe(end)
        except RuntimeError:
            _log.debug("the loop is closed: the peer took its replies after the grace")
