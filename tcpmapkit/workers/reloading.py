"""A new configuration for all workers or for none: each builds it, then each takes it."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import attrs

from tcpmapkit.config import read_document
from tcpmapkit.errors import ConfigError, ConfigErrors
from tcpmapkit.listener import Listener, those_there
from tcpmapkit.log import change_log
from tcpmapkit.process import StartError, limit_connections
from tcpmapkit.site import build_site, located
from tcpmapkit.workers.known_tables import KnownTables

if TYPE_CHECKING:
    from tcpmapkit.config import Config, Document
    from tcpmapkit.workers.admission import Admission
    from tcpmapkit.workers.crew import Crew
    from tcpmapkit.workers.in_force import InForce
    from tcpmapkit.workers.member import Member
    from tcpmapkit.workers.turns import Timer, Turns

__all__ = ["PREPARED_WITHIN", "Reloading"]

PREPARED_WITHIN: Final = 600.0
"""Seconds for the workers to load and to test all tables. One whose loop is stuck is killed long before,
which ends the reload too; the index of a table with tens of millions of rows takes minutes."""

_STOPPING: Final = {"error": "the server is starting or stopping", "kind": "unavailable"}

_log = logging.getLogger(__name__)

Done = Callable[[dict[str, Any]], None]


@attrs.define(eq=False)
class _Attempt:
    """A reload under way: what would be in force, the listeners it adds, who has not answered yet."""

    document: Document
    config: Config
    listeners: list[Listener]
    added: list[Listener]
    limit: int
    force: bool
    done: Done
    waiting: set[int] = attrs.Factory(set)
    taking: bool = False
    warnings: dict[str, None] = attrs.Factory(dict)
    changed: dict[str, None] = attrs.Factory(dict)
    timer: Timer | None = None


class Reloading:
    """Does one reload after the other. `began` and `ended` are called around each; `ended` with whether it
    was taken."""

    def __init__(self, turns: Turns, crew: Crew, admission: Admission, in_force: InForce) -> None:
        self._turns = turns
        self._crew = crew
        self._admission = admission
        self._in_force = in_force
        self._queue: deque[tuple[bool, Done]] = deque()
        self._attempt: _Attempt | None = None
        self._stopped = False
        self._version = 0  # of the configuration that was prepared last
        self.began: Callable[[], None] = lambda: None
        self.ended: Callable[[bool], None] = lambda good: None
        #: How many were taken and refused since the start.
        self.results = {"good": 0, "bad": 0}
        crew.on.update(prepared=self._prepared, took=self._took)
        crew.on_ready.append(self._worker_came)
        crew.on_gone.append(self._worker_went)

    def stop(self) -> None:
        """Give up what is under way, and take nothing more; nobody is told of an end."""
        self._stopped = True
        waiting = [done for _, done in self._queue]
        self._queue.clear()
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            self._no_timer(attempt)
            waiting.append(attempt.done)
            if not attempt.taking:
                self._close(attempt)
        for done in waiting:
            done(_STOPPING)

    def close(self) -> None:
        """Give up what an attempt has bound that was not taken."""
        if self._attempt is not None:
            self._close(self._attempt)

    @staticmethod
    def _close(attempt: _Attempt) -> None:
        for listener in attempt.added:
            listener.close()

    def abandon(self) -> None:
        """Close what a forked process has of that; the sockets of its parent go on listening."""
        for listener in self._attempt.added if self._attempt is not None else ():
            for listening in listener.sockets:
                listening.close()

    def reload(self, *, force: bool, done: Done) -> None:
        """Read the file, and have all serve what it says; `done` is called with the answer: whether it is
        ``ok``, ``errors`` and ``warnings`` as text, the names of the maps that ``changed``."""
        if self._stopped:
            done(_STOPPING)
            return
        self._queue.append((force, done))
        self._next()

    @property
    def one_waits(self) -> bool:
        """Whether a reload is asked for that has not read the file yet: it will find what it says then."""
        return bool(self._queue)

    def _next(self) -> None:
        if self._attempt is None and self._queue:
            force, done = self._queue.popleft()
            self.began()
            try:
                self._attempt = self._begin(force, done)
            except ConfigError as error:
                self._refused(done, [str(one) for one in ConfigErrors([error]).errors])
                return
            except StartError as error:
                self._refused(done, [str(error)])
                return
            self._ask_all()

    def _refused(self, done: Done, errors: Sequence[str]) -> None:
        for error in errors:
            _log.error("reload: %s", error.partition("\n")[0])
        _log.error("reload: refused, the configuration of before serves on")
        for member in self._crew.ready:
            self._crew.tell(member, {"refused": self._version})
        self._finish(done, errors, [], [])

    def _finish(
        self, done: Done, errors: Sequence[str], warnings: Sequence[str], changed: Sequence[str]
    ) -> None:
        self._attempt = None
        self.results["bad" if errors else "good"] += 1
        self.ended(not errors)
        done(
            {
                "ok": not errors,
                "file": str(self._in_force.document.path.absolute()),
                "errors": [*errors],
                "warnings": [*warnings],
                "changed": [*changed],
            }
        )
        self._next()

    # Preparing.

    def _begin(self, force: bool, done: Done) -> _Attempt:
        now = self._in_force
        document = read_document(now.document.path)
        site = build_site(document, now.plugins)
        config = site.config
        if site.mistakes:
            raise ConfigErrors(site.mistakes)
        if not config.listeners:
            raise ConfigError("there is nothing to serve: no [[listeners]]", file=document.path)
        server = config.server
        limit = limit_connections(server.max_connections, written=server.max_connections_written)
        listeners: list[Listener] = []
        added: list[Listener] = []
        try:
            for one, there in zip(
                config.listeners, those_there(config.listeners, self._admission.listeners), strict=True
            ):
                if there is None:
                    added.append(Listener(one))
                    added[-1].bind()
                elif (anew := there.bound_anew(one)) is not None:
                    added.append(anew)
                    there = None
                listeners.append(there or added[-1])
        except BaseException as error:
            for new in added:
                new.close()
            if isinstance(error, ConfigError):
                raise located(document, [error]) from None
            raise
        return _Attempt(document, config, listeners, added, limit, force, done)

    def _ask_all(self) -> None:
        attempt = self._attempt
        assert attempt is not None
        self._version += 1
        attempt.timer = self._turns.later(PREPARED_WITHIN, self._too_late)
        for member in self._crew.ready:
            self._ask(attempt, member)
        if not attempt.waiting:  # nobody serves: those who try to start can do so from what is new
            self._take(attempt)

    def _ask(self, attempt: _Attempt, member: Member) -> None:
        attempt.waiting.add(member.pid)
        prepare = {"text": attempt.document.text, "force": attempt.force}
        self._crew.tell(member, {"prepare": self._version, **prepare})

    def _prepared(self, member: Member, message: dict[str, Any]) -> None:
        attempt = self._attempt
        if attempt is None or attempt.taking or message["prepared"] != self._version:
            return
        if message["errors"]:
            self._give_up(attempt, message["errors"])
            return
        attempt.waiting.discard(member.pid)
        if not attempt.waiting:
            self._take(attempt)

    def _too_late(self) -> None:
        attempt = self._attempt
        if attempt is not None and not attempt.taking:
            names = [one.name for one in self._crew.members if one.pid in attempt.waiting]
            late = f"{', '.join(names)} did not load it within {PREPARED_WITHIN:g} s"
            self._give_up(attempt, [late])

    def _give_up(self, attempt: _Attempt, errors: Sequence[str]) -> None:
        self._no_timer(attempt)
        self._close(attempt)
        self._refused(attempt.done, errors)

    @staticmethod
    def _no_timer(attempt: _Attempt) -> None:
        if attempt.timer is not None:
            attempt.timer.cancel()

    # Taking.

    def _take(self, attempt: _Attempt) -> None:
        self._no_timer(attempt)
        attempt.taking = True
        now = self._in_force
        now.document, now.config = attempt.document, attempt.config
        if attempt.force:
            now.tables = KnownTables()  # for those that start now; the others tell of what they take
        change_log(now.config.log.level, now.config.log.log_keys)
        for listener, config in zip(attempt.listeners, attempt.config.listeners, strict=True):
            listener.take(config)
            if listener.unapplied is not None:
                attempt.warnings[f"{config.endpoint}: {listener.unapplied}"] = None
        self._admission.limit = attempt.limit
        self._admission.replace(attempt.listeners)
        for member in list(self._crew.members):
            if member.ready and not member.leaving:
                attempt.waiting.add(member.pid)
                member.allow_as_many_files()
                self._crew.tell(member, {"take": self._version})
            elif not member.leaving:
                self._crew.renew(member)
        self._done_when_all_took(attempt)

    def _took(self, member: Member, message: dict[str, Any]) -> None:
        attempt = self._attempt
        if attempt is not None and attempt.taking and message["took"] == self._version:
            attempt.warnings.update(dict.fromkeys(message["warnings"]))
            attempt.changed.update(dict.fromkeys(message["changed"]))
            attempt.waiting.discard(member.pid)
            self._done_when_all_took(attempt)

    def _done_when_all_took(self, attempt: _Attempt) -> None:
        if not attempt.waiting:
            for warning in attempt.warnings:
                _log.warning("reload: %s", warning.partition("\n")[0])
            maps = len(attempt.config.maps)
            _log.info("reload: taken, %d of %d maps are new", len(attempt.changed), maps)
            self._finish(attempt.done, [], list(attempt.warnings), sorted(attempt.changed))

    # Workers.

    def _worker_came(self, member: Member) -> None:
        attempt = self._attempt
        if attempt is not None and not attempt.taking:
            self._ask(attempt, member)

    def _worker_went(self, member: Member) -> None:
        attempt = self._attempt
        if attempt is None or member.pid not in attempt.waiting:
            return
        if attempt.taking:  # the next one starts from what is new
            attempt.waiting.discard(member.pid)
            self._done_when_all_took(attempt)
        else:
            self._give_up(attempt, [f"{member.name} has ended while it loaded the new configuration"])
