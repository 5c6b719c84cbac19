"""The parent of several workers: it listens, accepts, deals out, and serves nothing itself.

It has no thread, no event loop and no table, so that it can fork at any time. It stays the user that it
was started as, as Postfix's master does, and the workers become the configured one when they have read
their secrets: those that take the place of a dead one read them again.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from tcpmapkit.errors import ConfigErrors
from tcpmapkit.handover import MOST_LEFT, store, take_stored
from tcpmapkit.inherited import inherited_sockets
from tcpmapkit.listener import Listener, as_bound
from tcpmapkit.process import StartError, drop_privileges, find_identity, limit_connections
from tcpmapkit.serve import loop_factory
from tcpmapkit.systemd import Notifier, serving
from tcpmapkit.workers.admission import Admission
from tcpmapkit.workers.asking import Asking
from tcpmapkit.workers.channel import Channel
from tcpmapkit.workers.crew import Crew
from tcpmapkit.workers.forking import fork
from tcpmapkit.workers.in_force import InForce, worker_count
from tcpmapkit.workers.known_tables import KnownTables
from tcpmapkit.workers.mistakes import from_data
from tcpmapkit.workers.reloading import Reloading
from tcpmapkit.workers.turns import Turns

if TYPE_CHECKING:
    import socket

    from tcpmapkit.config import ListenerConfig
    from tcpmapkit.site import Site
    from tcpmapkit.workers.member import Member

__all__ = ["Parent", "Work", "serve_with_workers"]

Work = Callable[[Channel, InForce, int], int]
"""What a worker does until it is told to stop: given its channel, the configuration and its number; the
exit status."""

_LAST_TURNS: Final = 2.0
"""Seconds more than the grace for workers to end before they are killed."""

_log = logging.getLogger(__name__)


def serve_with_workers(site: Site, ready: Callable[[list[ListenerConfig]], None]) -> None:
    """`Parent.run` for the real workers."""
    from tcpmapkit.workers.process import work

    Parent(site, ready, work, Notifier.from_environment()).run()


class Parent:
    """Serves a site with several workers that do `work`. `ready` is called with the listeners, their ports
    as bound, when all of them can answer."""

    def __init__(
        self, site: Site, ready: Callable[[list[ListenerConfig]], None], work: Work, notifier: Notifier
    ) -> None:
        self._in_force = InForce(
            site.document, site.config, site.plugins, site.config.server, site.config.admin
        )
        self._ready = ready
        self._work = work
        self._notifier = notifier
        self._turns = Turns()
        self._crew = Crew(self._turns, self._spawn)
        listeners = [Listener(one) for one in site.config.listeners]
        admin = Listener(site.config.admin) if site.config.admin is not None else None
        limit = site.config.server.max_connections
        self._admission = Admission(self._turns, self._crew, listeners, admin, limit)
        self._reloading = Reloading(self._turns, self._crew, self._admission, self._in_force)
        Asking(self._turns, self._crew, self._admission, self._reloading)
        self._listen_to_workers()
        self._failure: Exception | None = None
        self._serving = False
        self._stopping = False
        self._left: list[int] = []  # connections for the next start

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; a second signal ends it at once.

        Raises `ConfigError` when a table does not load or there is no such user, `StartError` when the
        server cannot start here and now, `ImportError` when the event loop that is wanted is not installed.
        """
        config = self._in_force.config
        loop_factory(config.server.loop)  # told, and imported, before there are workers
        find_identity(config.server.user, config.server.group)
        if (config.server.user, config.server.group) == (None, None):
            drop_privileges(None, None)  # warns of what the workers will be
        try:
            self._admission.limit = limit_connections(
                config.server.max_connections, written=config.server.max_connections_written
            )
            self._admission.bind()
            self._turns.on_signals(
                (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD), self._signalled
            )
            self._notifier.status("loading tables")
            self._crew.start(worker_count(config.server.workers))
            self._turns.run()
        finally:
            self._crew.end()
            self._reloading.close()
            self._admission.close()
            self._turns.close()
        if self._left:
            asyncio.run(store(self._left, self._notifier))  # nothing is forked any more
        self._notifier.close()
        if self._failure is not None:
            raise self._failure

    def _spawn(self, number: int) -> tuple[int, Channel]:
        ours, theirs = Channel.pair()

        def prepare() -> None:
            ours.close()
            self._turns.abandon()
            self._crew.abandon()
            self._admission.abandon()
            self._reloading.abandon()
            self._notifier.close()
            inherited_sockets().close()

        try:
            pid = fork(prepare, lambda: self._work(theirs, self._in_force, number))
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return pid, ours

    # Starting.

    def _listen_to_workers(self) -> None:
        crew = self._crew
        crew.on["failed"] = self._worker_failed
        crew.on["tables"] = self._worker_told_of_tables
        crew.on_ready.append(self._worker_came)
        crew.on_gone.append(lambda member: self._end_when_all_went())
        crew.on_failed_start = self._worker_died_early
        self._reloading.began = self._notifier.reloading
        self._reloading.ended = lambda good: self._notifier.ready(self._status())

    def _worker_came(self, member: Member) -> None:
        if not self._serving and not self._stopping and len(self._crew.ready) == self._crew.count:
            self._serving = True
            self._admission.start()
            listeners = self._admission.listeners
            self._ready(
                [
                    as_bound(config, listener.addresses)
                    for config, listener in zip(self._in_force.config.listeners, listeners, strict=True)
                ]
            )
            for number, connection in take_stored(listeners, self._notifier):
                self._admission.deal(listeners[number], connection)
            inherited_sockets().warn_of_left()
            self._notifier.ready(self._status())
            self._tell_watchdog()

    def _status(self) -> str:
        config = self._in_force.config
        return serving(len(config.maps), len(config.listeners), workers=self._crew.count)

    def _tell_watchdog(self) -> None:
        """Unless no worker answers of those that serve. While there are none they are being replaced, which
        a restart of everything would only undo."""
        if self._notifier.watchdog_interval is not None:
            self._turns.later(self._notifier.watchdog_interval, self._tell_watchdog)
            now = self._turns.clock()
            if not self._crew.ready or any(not member.is_late(now) for member in self._crew.ready):
                self._notifier.alive()

    def _worker_told_of_tables(self, member: Member, message: dict[str, Any]) -> None:
        self._in_force.tables = KnownTables.from_data(message["tables"])

    def _worker_failed(self, member: Member, message: dict[str, Any]) -> None:
        """It says why it cannot serve: `errors` of the configuration, else what is wrong here and now."""
        errors = from_data(message["errors"])
        if not self._serving:
            failure = ConfigErrors(errors) if errors else StartError(message["failed"])
            self._fail(failure)
            return
        for reason in errors or [message["failed"]]:
            _log.error("%s cannot start: %s", member.name, str(reason).partition("\n")[0])

    def _worker_died_early(self, member: Member, fate: str) -> bool:
        if not self._serving:
            self._fail(StartError(f"a worker has ended before it could serve: {fate}"))
        return not self._serving

    def _fail(self, failure: Exception) -> None:
        self._failure = self._failure or failure
        self._turns.end()

    # Signals, and the end.

    def _signalled(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._crew.reap()
        elif number == signal.SIGHUP:
            if self._serving and not self._stopping and not self._reloading.one_waits:
                self._reloading.reload(force=False, done=lambda answer: None)
        elif self._stopping:
            self._crew.end()
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        else:
            _log.info("%s: stopping", signal.Signals(number).name)
            self._stop()

    def _stop(self) -> None:
        self._stopping = True
        self._notifier.stopping()
        self._reloading.stop()
        self._admission.close()
        self._crew.on_left = self._leave
        self._crew.stop(leave=self._notifier.is_heard)
        self._turns.later(self._in_force.config.server.grace + _LAST_TURNS, self._kill_the_rest)
        self._end_when_all_went()

    def _leave(self, connection: socket.socket) -> None:
        """Keep a connection that a worker has left for the next start."""
        if len(self._left) < MOST_LEFT:
            self._left.append(connection.detach())
        else:
            connection.close()

    def _kill_the_rest(self) -> None:
        for member in self._crew.members:
            _log.warning("%s has not ended within the grace, and is killed", member.name)
            self._crew.kill(member)

    def _end_when_all_went(self) -> None:
        if self._stopping and not self._crew.members:
            self._turns.end()
