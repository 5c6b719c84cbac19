"""One process's server and the site that it serves, in whose place other sites and other tables come."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tcpmapkit import systemd
from tcpmapkit.at_start import AtStart
from tcpmapkit.config import read_document
from tcpmapkit.errors import ConfigError, ConfigErrors
from tcpmapkit.held import HeldTables, Place
from tcpmapkit.log import change_log
from tcpmapkit.process import StartError
from tcpmapkit.reloaded import Prepared, Reloaded, Reloads
from tcpmapkit.renewal import Renewal, renew
from tcpmapkit.server import Server
from tcpmapkit.systemd import Notifier
from tcpmapkit.watching import TableWatch

if TYPE_CHECKING:
    import socket

    from tcpmapkit.at_rest import AtRest
    from tcpmapkit.built_maps import BuiltMaps
    from tcpmapkit.config import Document
    from tcpmapkit.site import Site

__all__ = ["Serving"]

_log = logging.getLogger(__name__)

#: Seconds for a reload that is given up to end.
_PATIENCE = 1.0


def _shutting_down() -> ConfigErrors:
    return ConfigErrors([ConfigError("the server is shutting down")])


class Serving:
    """A site that is served by this process. Without `accepts` the process is one of several, and is given
    its connections."""

    def __init__(self, site: Site, *, accepts: bool = True) -> None:
        self.site = site
        self.server = Server(
            site.config.server, [(one, site.served_by(one)) for one in site.config.listeners], accepts=accepts
        )
        self.reloads = Reloads()
        #: Who is told of reloads and of held tables.
        self.notifier = Notifier()
        #: Whether lookups are answered: from the start to the order to stop.
        self.ready = False
        #: When the configuration that is served was loaded, in seconds since 1970.
        self.loaded_at = time.time()
        self._at_start = AtStart(site.config)
        self._tables = HeldTables()
        self._watch = TableWatch(self._tables_changed)
        self._one_at_a_time = asyncio.Lock()
        self._preparing: set[asyncio.Task[Any]] = set()
        self._given_up: set[asyncio.Task[Any]] = set()
        self._stopping = False
        self._retiring: dict[asyncio.Task[None], BuiltMaps] = {}

    @property
    def held(self) -> Mapping[Place, ConfigError]:
        """The tables that keep contents which their files no longer have, and why."""
        return self._tables.reasons

    @property
    def status(self) -> str:
        """What is served, in one line."""
        maps, listeners = len(self.site.maps.maps), len(self.site.config.listeners)
        return systemd.serving(maps, listeners, held=len(self.held))

    async def start(self) -> None:
        """Begin to serve a site that is started."""
        self.loaded_at = time.time()
        await self.server.start()
        self._watch_tables()
        self._watch.start()
        self.ready = True

    def serve_connection(self, listener: int, connection: socket.socket) -> None:
        """Serve a connection that was accepted for the listener of that number, from 0."""
        self.server.serve_connection(listener, connection)

    async def stop(self) -> None:
        """Answer what is in flight and stop all that was started."""
        self.ready = False
        self._stopping = True
        await self._watch.stop()
        await self._give_up_reloads()
        await self.server.stop()
        for retiring in self._retiring:
            retiring.cancel()
        for retiring, old in list(self._retiring.items()):
            await asyncio.wait((retiring,))
            await old.stop(but=self.site.maps)
        await self.site.maps.stop()

    async def _give_up_reloads(self) -> None:
        """Nothing more is taken: what is being prepared is given up."""
        self._given_up = self._preparing - {asyncio.current_task()}
        for task in self._given_up:
            task.cancel()
        if self._given_up:
            await asyncio.wait(self._given_up, timeout=_PATIENCE)

    # Another configuration

    async def reload(self, *, force: bool = False) -> Reloaded:
        """Take the configuration as its file now is, if there is nothing wrong with it. `force`: whatever its
        tables have lost. What becomes of it is logged."""
        self.notifier.reloading()
        try:
            document = await asyncio.to_thread(read_document, self.site.document.path)
            prepared = await self.prepare(document, force=force)
            return await self.take(prepared)
        except ConfigError as error:
            return self.refuse(error)
        except Exception as error:
            _log.exception("reload: a bug of ours")
            return self.refuse(ConfigError(f"internal error: {type(error).__name__}"))
        finally:
            if self.ready:
                self.notifier.ready(self.status)

    def refuse(self, error: ConfigError) -> Reloaded:
        """Log and count a configuration that is not taken."""
        errors = ConfigErrors([error]).errors
        self.reloads.bad += 1
        for one in errors:
            _log.error("reload: %s", str(one).partition("\n")[0])
        _log.error("reload: refused, the configuration of before serves on")
        return Reloaded(errors)

    async def prepare(self, document: Document, *, force: bool = False) -> Prepared:
        """Build what a document says beside what is served, load it, test it.

        Raises `ConfigErrors` with every mistake; nothing has changed then. Else nothing else is prepared, no
        table either, before it is taken or discarded.
        """
        await self._one_at_a_time.acquire()
        try:
            with self._may_be_given_up():
                return await self._with_listeners(await renew(self.site, document, force=force))
        except BaseException:
            self._one_at_a_time.release()
            raise

    @contextlib.contextmanager
    def _may_be_given_up(self) -> Iterator[None]:
        """Raises `ConfigErrors` when the server stops meanwhile."""
        task = asyncio.current_task()
        assert task is not None
        if self._stopping:
            raise _shutting_down()
        self._preparing.add(task)
        try:
            yield
        except asyncio.CancelledError:
            # Who else cancels it wants it to end: what looks after the tables is waited for.
            if task in self._given_up and task.uncancel() == 0:
                raise _shutting_down() from None
            raise
        finally:
            self._preparing.discard(task)

    async def _with_listeners(self, renewal: Renewal) -> Prepared:
        site = renewal.site
        listeners = [(one, site.served_by(one)) for one in site.config.listeners]
        try:
            if not listeners:
                raise ConfigError("there is nothing to serve: no [[listeners]]", file=site.document.path)
            return Prepared(renewal, self.server.prepare(site.config.server, listeners))
        except (StartError, ConfigError) as error:
            await site.maps.stop(but=self.site.maps)
            failure = (
                error if isinstance(error, ConfigError) else ConfigError(str(error), path=("listeners",))
            )
            raise ConfigErrors([failure]) from None

    async def take(self, prepared: Prepared) -> Reloaded:
        """Serve what was prepared, from one request to the next."""
        renewal = prepared.renewal
        if self._stopping:
            await self.discard(prepared)
            return self.refuse(_shutting_down())
        try:
            self._swap(prepared)
        finally:
            self._one_at_a_time.release()
        change_log(self.site.config.log.level, self.site.config.log.log_keys)
        self._hold({})
        self.reloads.good += 1
        self.loaded_at = time.time()
        warnings = (
            *renewal.warnings,
            *self._at_start.needs_a_restart(self.site.config),
            *(
                ConfigError(listener.unapplied, path=("listeners", index))
                for index, listener in enumerate(self.server.listeners)
                if listener.unapplied is not None
            ),
        )
        if self.server.accepts:  # else the parent says it, once for all workers
            for warning in warnings:
                _log.warning("reload: %s", str(warning).partition("\n")[0])
            _log.info("reload: taken, %d of %d maps are new", len(renewal.changed), len(self.site.maps.maps))
        return Reloaded((), warnings, renewal.changed)

    async def discard(self, prepared: Prepared) -> None:
        """Give up what was prepared."""
        self._one_at_a_time.release()
        self.server.discard(prepared.change)
        await prepared.renewal.site.maps.stop(but=self.site.maps)

    def _swap(self, prepared: Prepared) -> None:
        old = self.site.maps
        self.server.take(prepared.change)
        self.site = prepared.renewal.site
        if self.site.maps is not old:
            self.site.maps.adopt()
            earlier = list(self._retiring)
            retiring = asyncio.get_running_loop().create_task(_retire(old, self.site.maps, earlier))
            self._retiring[retiring] = old
            retiring.add_done_callback(self._retiring.pop)
            self._watch_tables()

    # Other tables

    async def reload_tables(self, *, force: bool = False) -> frozenset[str]:
        """Take the tables whose files have changed; the names of the maps that are new. Those that are wrong
        keep the contents that they have (`held`). `force`: whatever they have lost."""
        renewal = await self._renew_tables(force)
        self._hold(renewal.held)
        return renewal.changed

    async def _tables_changed(self, final: bool, at_rest: AtRest) -> bool:
        """What `TableWatch` calls."""
        renewal = await self._renew_tables(at_rest=at_rest)
        # Of a file that is being written nothing new is known.
        held = {place: why for place, why in self.held.items() if place in renewal.unrested}
        held |= renewal.held
        well = not self._tables.is_news(held)
        if well or final:
            self._hold(held)
        return well

    async def _renew_tables(self, force: bool = False, at_rest: AtRest | None = None) -> Renewal:
        async with self._one_at_a_time:
            with self._may_be_given_up():
                renewal = await renew(self.site, force=force, at_rest=at_rest)
            if renewal.site is not self.site:
                self._swap(await self._with_listeners(renewal))
        if renewal.changed:
            _log.info("tables have changed: %s", ", ".join(sorted(renewal.changed)))
        return renewal

    def _hold(self, held: Mapping[Place, ConfigError]) -> None:
        before = len(self.held)
        self._tables.become(held)
        if len(held) != before:
            self.notifier.status(self.status)

    def _watch_tables(self) -> None:
        self._watch.update(one.resolver for one in self.site.maps.steps)


async def _retire(old: BuiltMaps, new: BuiltMaps, earlier: Collection[asyncio.Task[None]]) -> None:
    """Stop what serves no more, when the last lookup that uses it has ended: those too of the sites of
    before, which wait to be stopped themselves."""
    if earlier:
        await asyncio.wait(earlier)
    await old.finish(but=new)
    await old.stop(but=new)
