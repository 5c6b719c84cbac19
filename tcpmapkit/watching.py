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

from tcpmapkit.at_rest import QUIET, AtRest, States, Watched, has_files
from tcpmapkit.file_events import FileEvents
from tcpmapkit.threads import SmallPool, TooBusy
from tcpmapkit.watched_files import State, directories_of, is_told_of, network_devices, state_of

__all__ = ["TableWatch"]

_log = logging.getLogger(__name__)

#: Seconds between two looks: where every change is told; where it is not, and while a file is wrong.
_TOLD: Final = 30.0
_NOT_TOLD: Final = 2.0

#: Seconds between two looks at a file that changes without end, and after how many that is told.
_SLOWLY: Final = 1.0
_LONG: Final = 15.0

#: Seconds until the system is asked again to tell of changes.
_TELL_AGAIN: Final = 600.0

#: Seconds that the system may take to say what the files are.
_PATIENCE: Final = 10.0

_T = TypeVar("_T")


class Events(Protocol):
    """What tells of changes: see `FileEvents`."""

    @property
    def alive(self) -> bool: ...

    def stop(self) -> None: ...


OpenEvents = Callable[[Mapping[str, frozenset[str]], Callable[[], object]], Awaitable[Events]]


@attrs.frozen
class _Seen:
    """What was found: what the files are of each resolver, and whether it is current; the directories to be
    told of, by device and inode too; whether all of them can be told of; the devices of the network."""

    states: tuple[tuple[Watched, States, bool], ...]
    directories: Mapping[str, frozenset[str]]
    armed: Mapping[str, tuple[State, frozenset[str]]]
    all_told: bool
    network: frozenset[int]


async def _wait(event: asyncio.Event, seconds: float | None) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


class TableWatch:
    """Has `reload` called, never twice at once, when files of resolvers have changed and come to rest.

    `reload(final, at_rest)` loads what is not current and is among those `at_rest`, and answers whether
    everything is well. Where it is not, it is called once more, a second later: `final` is false the first
    time, when there is no need yet to complain of a file that somebody may be in the middle of replacing.
    `update(resolvers)` says whose files they are; those count that have `files` and `is_current()`.

    `clock` gives seconds, `sleep` waits for so many, `wait` for an event or so many; `open_events` makes what
    tells of changes.
    """

    def __init__(
        self,
        reload: Callable[[bool, AtRest], Awaitable[bool]],
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
        self._watched: tuple[Watched, ...] = ()
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
            before.get(id(one)) or Watched(one)
            for one in resolvers
            if hasattr(one, "is_current") and has_files(one)
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
        for one, states, current in seen.states:
            if current:
                one.is_current(states)
            else:
                one.has_changed(states, self._clock())
        now = self._clock()
        changed = [one for one, _, current in seen.states if not current]
        due = [one for one in changed if one.is_due(now)]
        whole = [one for one in due if one.is_at_rest(now, seen.network)]
        if whole:
            await self._load(whole)
            return 0  # one may have changed meanwhile
        if due:
            await self._sleep(min(map(self._wait_for, due)))
            return 0
        if changed:
            return min(_NOT_TOLD, *(one.due - now for one in changed))
        return _TOLD if seen.all_told and self._events is not None else _NOT_TOLD

    def _wait_for(self, one: Watched) -> float:
        """The seconds until the next look at what is not at rest. That it takes long is said once."""
        now = self._clock()
        long = now - (now if one.began is None else one.began)
        if long < _LONG:
            return QUIET
        if not one.said:
            one.said = True
            names = ", ".join(map(str, one.named))
            _log.warning("%s: still being written after %d s; the table of before serves on", names, long)
        return _SLOWLY

    async def _load(self, whole: list[Watched]) -> None:
        final = any(one.wrong for one in whole)
        try:
            well = await self._reload(final, AtRest(whole))
        except Exception:
            _log.exception("table files could not be loaded")
            well = False
        for one in whole:
            one.is_loaded(well, self._clock())

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
        self._arm_again = self._clock() + _TELL_AGAIN
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


def _see(watched: tuple[Watched, ...]) -> _Seen:
    found = []
    for one in watched:
        try:
            states = one.states()  # before it is asked, so that they are those of what is current
            found.append((one, states, bool(one.resolver.is_current())))
        except Exception:
            _log.exception("%s does not say whether its files are current", type(one.resolver).__name__)
    directories = directories_of(file for one in watched for file in one.files)
    network = network_devices()
    told = {name: names for name, names in directories.items() if is_told_of(name, network)}
    armed = {name: (state_of(Path(name))[:2], names) for name, names in told.items()}
    return _Seen(tuple(found), told, armed, len(told) == len(directories), network)
