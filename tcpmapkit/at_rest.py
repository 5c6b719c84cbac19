"""Whether the files of a resolver are whole: how long each must have been left alone before it is loaded.

A file that is written in place is half of what it will be until its writer has ended, and nothing tells when
that is; so whatever it says is believed only when it was left alone for long. A file that was put in the
place of another (rename(2)) is whole. That it was is told by another inode whose time of change (ctime) is
not that of its last writing, since renaming changes the one only; within a tick of the system's clock both
are the same, as they are for a file that is being written.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Set
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import attrs

from tcpmapkit.watched_files import State, state_of

__all__ = ["QUIET", "AtRest", "States", "Watched", "has_files"]

_log = logging.getLogger(__name__)

States = tuple[State, ...]

#: Seconds for which files must have been left alone: one that was renamed; one that was, or is being written
#: under another name; one that is not there, since who replaces it may be between removing and naming; one
#: that was written in place, here and on the network, where a writer is seen late (nfs(5): acregmin).
QUIET: Final = 0.2
_UNSURE: Final = 1.0
_MISSING: Final = 1.0
_IN_PLACE: Final = 3.0
_ON_NETWORK: Final = 10.0

#: Seconds until a table that could not be loaded is tried again: before that is told of; then though its file
#: has not changed, for what it lacked may have been room on the disk; doubled each time.
_ONCE_MORE: Final = 1.0
_AGAIN: Final = 30.0
_MOST_AGAIN: Final = 600.0


@attrs.define(eq=False)
class Watched:
    """A resolver, its files as it named them last, and while they are not the ones that it has read, what is
    seen of them: what they are and since when, when that began, and what came of the attempt to load them."""

    resolver: Any
    named: tuple[Path, ...] = ()
    complained: bool = False
    #: What they were when they were those that were read, and at the first look at those in their place.
    read: States = ()
    first: States = ()
    now: States = ()
    since: float = 0.0
    #: When the first change was seen that nothing was loaded after; whether it was said how long ago.
    began: float | None = None
    said: bool = False
    #: What they were when they could not be loaded; when another attempt is due, and after how long the next;
    #: whether it was the first, of which nobody is told yet.
    tried: States | None = None
    due: float = 0.0
    pause: float = _AGAIN
    wrong: bool = False

    @property
    def files(self) -> tuple[Path, ...]:
        """Those that the resolver names. A resolver that fails to is logged once."""
        try:
            self.named = tuple(map(Path, self.resolver.files))
        except Exception:  # somebody else's plugin
            if not self.complained:
                self.complained = True
                _log.exception("%s does not say which its files are", type(self.resolver).__name__)
        return self.named

    def states(self) -> States:
        """What its files are now; blocks."""
        return tuple(map(state_of, self.files))

    def is_current(self, states: States) -> None:
        """Its files, which were so, are those that it has read."""
        self.read, self.first, self.now = states, (), ()
        self.began, self.tried, self.wrong = None, None, False

    def has_changed(self, states: States, now: float) -> None:
        """Its files, which are not those that it has read, are so."""
        if len(states) != len(self.first):
            self.first = states
        if states != self.now:
            if self.began is None:
                self.began, self.said = now, False
            self.first = tuple(
                first if first[:2] == state[:2] else state
                for first, state in zip(self.first, states, strict=True)
            )
            self.now, self.since = states, now

    def is_due(self, now: float) -> bool:
        """Whether to load it, once it is at rest."""
        return self.tried != self.now or now >= self.due

    def is_at_rest(self, now: float, network: Set[int]) -> bool:
        """Whether each file was left alone for as long as it must. `network` are the devices of others."""
        needs = max((self._needs(at, network) for at in range(len(self.now))), default=QUIET)
        # Times are sums of floats.
        return now - self.since > needs - 1e-6

    def _needs(self, at: int, network: Set[int]) -> float:
        state, first = self.now[at], self.first[at]
        if len(state) == 1:
            return _MISSING
        read = self.read[at] if len(self.read) == len(self.now) else state
        if state[:2] == read[:2] or state != first:
            return _ON_NETWORK if state[0] in network else _IN_PLACE
        written, changed = state[3:]
        return _UNSURE if written == changed else QUIET

    def is_loaded(self, well: bool, now: float) -> None:
        """An attempt was made to load what the files are now; another resolver, if there is one, has its
        place in what is watched. Where it was not `well`, it is made once more before that is told."""
        self.began = None
        if self.tried != self.now:
            self.pause = _AGAIN
        if not well and not self.wrong:
            self.wrong, self.due = True, now + _ONCE_MORE
        else:
            self.due = now + self.pause
            self.pause = min(2 * self.pause, _MOST_AGAIN)
        self.tried = self.now


class AtRest:
    """The resolvers whose files may be loaded now."""

    def __init__(self, watched: Iterable[Watched]) -> None:
        self._watched = {id(one.resolver): (one, one.now) for one in watched}

    def __contains__(self, resolver: object) -> bool:
        return id(resolver) in self._watched

    def still(self, resolver: object) -> bool:
        """Whether its files are what they were before they were loaded; blocks. What was read of others is
        perhaps half of something."""
        one, states = self._watched[id(resolver)]
        return one.states() == states


def has_files(resolver: Any) -> bool:
    """Whether it names files, if only it could."""
    with suppress(Exception):
        return hasattr(resolver, "files")
    return True  # and to name them fails, which is logged by who asks for them
