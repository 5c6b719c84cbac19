"""Table files that change while they are served: noticed, waited for until they are at rest, and loaded.

That a file has changed is told by its resolver's `is_current()`. When to ask is told by the system, of the
directories that the files are in and by which symbolic links lead to them (`file_events`); where the system
does not tell, on a network or without watchfiles, every resolver is asked every two seconds, and everywhere
every half a minute, whatever is told.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import attrs

from tcpmapkit.file_events import FileEvents
from tcpmapkit.threads import SmallPool, TooBusy
from tcpmapkit.watched_files import State, directories_of, is_told_of, network_devices, state_of

__all__ = ["TableWatch"]

_log = logging.getLogger(__name__)

#: Seconds between two looks: where every change is told; where it is not, and while a file is wrong.
_TOLD: Final = 30.0
_NOT_TOLD: Final = 2.0

#: Seconds for which a file must have been left alone; for which one that is not there is waited for, since
#: who replaces it may be between removing the old one and naming the new one; and the most for either.
_QUIET: Final = 0.2
_MISSING: Final = 1.0
_MOST_WAIT: Final = 5.0

#: Seconds until a table that could not be loaded is tried again though its file has not changed: what it
#: lacked may have been room on the disk. Doubled each time.
_AGAIN: Final = 30.0
_MOST_AGAIN: Final = 600.0

#: Seconds that the system may take to say what the files are.
_PATIENCE: Final = 10.0

_States = tuple[State, ...]
_T = TypeVar("_T")


class Events(Protocol):
    """What tells of changes: see `FileEvents`."""

    @property
    def alive(self) -> bool: ...

    def stop(self) -> None: ...


OpenEvents = Callable[[Mapping[str, frozenset[str]], Callable[[], object]], Awaitable[Events]]


@attrs.define(eq=False)
class _Watched:
    """A resolver, its files as it named them last; when they are not the ones that were read: what they were
    at the last attempt to load them, when another is due, and after how long the one after that."""

    resolver: Any
    named: tuple[Path, ...] = ()
    complained: bool = False
    tried: _States | None = None
    due: float = 0.0
    pause: float = _AGAIN

    @property
    def files(self) -> tuple[Path, ...]:
        try:
            self.named = tuple(map(Path, self.resolver.files))
        except Exception:  # somebody else's plugin
            if not self.complained:
                self.complained = True
                _log.exception("%s does not say which its files are", type(self.resolver).__name__)
        return self.named

    def states(self) -> _States:
        """What its files are now; blocks."""
        return tuple(map(state_of, self.files))

    def failed(self, tried: _States, now: float) -> None:
        """It could not be loaded from files that were so."""
        self.pause = _AGAIN if self.tried != tried else min(2 * self.pause, _MOST_AGAIN)
        self.tried = tried
        self.due = now + self.pause


@attrs.frozen
class _Seen:
    """What was found: what the files are of each resolver that is not current; the directories to be told
    of, by device and inode too; whether all of them can be told of."""

    changed: tuple[tuple[_Watched, _States], ...]
    directories: Mapping[str, frozenset[str]]
    armed: Mapping[str, tuple[State, frozenset[str]]]
    all_told: bool


async def _wait(event: asyncio.Event, seconds: float | None) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


class TableWatch:
    """Has `reload` called, never twice at once, when files of resolvers have changed and come to rest.

    `reload(final)` loads what is not current, and answers whether everything is well. Where it is not, it is
    called once more, a second later: `final` is false the first time, when there is no need yet to complain
    of a file that somebody may be in the middle of replacing. `update(resolvers)` says whose files they are;
    those count that have `files` and `is_current()`.

    `clock` gives seconds, `sleep` waits for so many, `wait` for an event or so many; `open_events` makes what
    tells of changes.
    """

    def __init__(
        self,
        reload: Callable[[bool], Awaitable[bool]],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        wait: Callable[[asyncio.Event, float | None], Awaitable[object]] = _wait,
        open_events: OpenEvents = FileEvents.open,
    ) -> None:
        self._reload = reload
        self._clock = clock
        self._sleep = sleep
        self._wait = wait
        self._open_events = open_events
        self._watched: tuple[_Watched, ...] = ()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._threads = SmallPool("table-files", 1)
        self._events: Events | None = None
        self._armed: Mapping[str, tuple[State, frozenset[str]]] = {}
        self._arm_again = 0.0
        self._complaint = ""

    def update(self, resolvers: Iterable[Any]) -> None:
        """Watch the files of these resolvers from now on, and of no others."""
        before = {id(one.resolver): one for one in self._watched}
        self._watched = tuple(
            before.get(id(one)) or _Watched(one)
            for one in resolvers
            if hasattr(one, "is_current") and _has_files(one)
        )
        self._wake.set()

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(_tell_why)

    async def stop(self) -> None:
        """End; a reload under way is cancelled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            self._task = None
        self._disarm()
        self._threads.close()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            pause: float | None = _TOLD
            try:
                pause = await self._look()
            except Exception:
                _log.exception("looking after table files failed; it goes on")
            await self._wait(self._wake, pause)

    async def _look(self) -> float | None:
        """See what has changed, and load it; the seconds until the next look, None for ever."""
        if not any(one.files for one in self._watched):
            self._disarm()
            return None
        seen = await self._see()
        if seen is None:
            return _NOT_TOLD
        if await self._arm(seen):
            seen = await self._see() or seen  # what changed before that was not told
        if any(one.tried != states or self._clock() >= one.due for one, states in seen.changed):
            await self._load([one for one, _ in seen.changed])
            return 0  # one may have changed meanwhile
        return _TOLD if seen.all_told and self._events is not None and not seen.changed else _NOT_TOLD

    async def _load(self, changed: Iterable[_Watched]) -> None:
        tried = await self._at_rest(changed)
        try:
            if not await self._reload(False):
                await self._sleep(_MISSING)
                tried = await self._at_rest(changed)
                await self._reload(True)
        except Exception:
            _log.exception("table files could not be loaded")
        for one, states in tried:
            one.failed(states, self._clock())  # or else another has its place by now

    async def _at_rest(self, changed: Iterable[_Watched]) -> list[tuple[_Watched, _States]]:
        """Wait until the files have been left alone for a moment; what they are then."""
        watched = tuple(changed)
        began = self._clock()
        before = await self._in_thread(_states_of, watched)
        while True:
            await self._sleep(_QUIET)
            now = await self._in_thread(_states_of, watched)
            waited = self._clock() - began
            missing = any(len(state) == 1 for states in now or () for state in states)
            if waited >= _MOST_WAIT or (now == before and (not missing or waited >= _MISSING)):
                return [] if now is None else list(zip(watched, now, strict=True))
            before = now

    async def _see(self) -> _Seen | None:
        return await self._in_thread(_see, self._watched)

    async def _in_thread(self, function: Callable[[Any], _T], argument: Any) -> _T | None:
        """Call what blocks; None when the system does not answer, as a server of files that is away."""
        try:
            async with asyncio.timeout(_PATIENCE):
                result: _T = await self._threads.run(function, argument)
        except (TimeoutError, TooBusy):
            self._complain("the system does not say what the table files are: their changes go unnoticed")
            return None
        return result

    async def _arm(self, seen: _Seen) -> bool:
        """Have changes told of the directories there are now; whether that began just now."""
        alive = self._events is not None and self._events.alive
        if alive and seen.armed == self._armed:
            return False
        if not alive and seen.armed == self._armed and self._clock() < self._arm_again:
            return False
        self._disarm()
        self._armed = seen.armed
        self._arm_again = self._clock() + _MOST_AGAIN
        if not seen.directories:
            self._complain("")
            return False
        try:
            self._events = await self._open_events(seen.directories, self._wake.set)
        except ImportError:
            self._complain(f"watchfiles is not installed: table files are looked at every {_NOT_TOLD:g} s")
        except Exception as error:
            self._complain(f"table files are looked at every {_NOT_TOLD:g} s: no changes are told: {error}")
        else:
            self._complain("")
            return True
        return False

    def _disarm(self) -> None:
        if self._events is not None:
            self._events.stop()
            self._events = None
        self._armed = {}

    def _complain(self, text: str) -> None:
        """Log what is wrong with the watching itself, once."""
        if text and text != self._complaint:
            _log.warning("%s", text)
        self._complaint = text


def _tell_why(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        _log.critical("table files are not looked after any more", exc_info=task.exception())


def _has_files(resolver: Any) -> bool:
    with suppress(Exception):
        return hasattr(resolver, "files")
    return True  # and to name them fails, which is logged by who asks for them


def _states_of(watched: tuple[_Watched, ...]) -> list[_States]:
    return [one.states() for one in watched]


def _see(watched: tuple[_Watched, ...]) -> _Seen:
    changed = []
    for one in watched:
        try:
            if not one.resolver.is_current():
                changed.append((one, one.states()))
        except Exception:
            _log.exception("%s does not say whether its files are current", type(one.resolver).__name__)
    directories = directories_of(file for one in watched for file in one.files)
    network = network_devices()
    told = {name: names for name, names in directories.items() if is_told_of(name, network)}
    armed = {name: (state_of(Path(name))[:2], names) for name, names in told.items()}
    return _Seen(tuple(changed), told, armed, len(told) == len(directories))
