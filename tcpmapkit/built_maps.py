"""The maps of a configuration as one thing to start and to stop."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from tcpmapkit.built_step import BuiltStep, Place
from tcpmapkit.counters import MapCounters, StepCounters
from tcpmapkit.errors import ConfigErrors
from tcpmapkit.http_client import SharedHttpClient
from tcpmapkit.maps import Map

if TYPE_CHECKING:
    from tcpmapkit.config import StepConfig

__all__ = ["BuiltMaps"]


class Progress:
    """Shows somebody how far a long start is, where `show` is set: somebody waits for it."""

    def __init__(self) -> None:
        self.show: Callable[[str], AbstractContextManager[Callable[[float], None]]] | None = None

    def open(self, what: str) -> AbstractContextManager[Callable[[float], None]]:
        """What `Context.progress` gives the resolvers."""
        return nullcontext(_show_nobody) if self.show is None else self.show(what)


class BuiltMaps:
    """All maps of a configuration, and the steps of their chains; those of `before`, which these follow,
    may be among them, and what these share is shared with them: HTTP client, counters, progress."""

    def __init__(self, clock: Callable[[], float], before: BuiltMaps | None = None) -> None:
        self.maps: dict[str, Map] = {}
        self.clock = clock
        self.before = before
        self.http: SharedHttpClient = before.http if before is not None else SharedHttpClient()
        self.steps: list[BuiltStep] = []
        self.progress: Progress = before.progress if before is not None else Progress()
        #: map -> the maps that its steps refer to.
        self.references: dict[str, set[str]] = {}
        #: What this configuration says of each step, of those too that another one had already.
        self.configs: dict[Place, StepConfig] = {}
        #: map -> what it was made by: while that is the same, the map may serve on.
        self.made_by: dict[str, object] = {}
        #: What maps and steps have done, whatever took their places.
        self.map_counters: defaultdict[str, MapCounters] = (
            before.map_counters if before is not None else defaultdict(MapCounters)
        )
        self.step_counters: defaultdict[Place, StepCounters] = (
            before.step_counters if before is not None else defaultdict(StepCounters)
        )

    def steps_of(self, map: str) -> list[BuiltStep]:
        """The steps of the map of that name, groups included."""
        return [one for one in self.steps if one.context.map == map]

    async def start(self, only: Iterable[str] | None = None, spare: Iterable[BuiltStep] = ()) -> None:
        """Let the resolvers that are new load their tables and open their clients: those of all maps, or of
        the maps named and what these refer to.

        Raises `ConfigErrors` with all that went wrong; what was started is then stopped again, but not those
        that are to be spared.
        """
        maps = set(self.maps) if only is None else self.reached(only)
        new = [one for one in self.steps if one.context.map in maps and not one.started]
        outcomes = await asyncio.gather(*(one.start() for one in new), return_exceptions=True)
        errors = []
        for outcome in outcomes:
            if isinstance(outcome, ConfigErrors):
                errors.append(outcome)
            elif outcome is not None:
                raise outcome
        if errors:
            await asyncio.gather(*(one.stop() for one in new))
            await self.stop(but=self.before, spare=spare)
            raise ConfigErrors(errors)

    def reached(self, names: Iterable[str]) -> set[str]:
        """The maps of these names, and those that they refer to."""
        reached: set[str] = set()
        ahead = list(names)
        while ahead:
            name = ahead.pop()
            if name not in reached:
                reached.add(name)
                ahead.extend(self.references.get(name, ()))
        return reached

    def adopt(self) -> None:
        """Go by this configuration: where its lines are, for errors to come; what was before is over."""
        self.before = None
        for one in self.steps:
            one.config = self.configs.get(one.place, one.config)

    async def finish(self, but: BuiltMaps) -> None:
        """Wait for the lookups under way of the maps that `but` has not."""
        others = set(but.maps.values())
        await asyncio.gather(*(map.finish() for map in self.maps.values() if map not in others))

    async def stop(self, but: BuiltMaps | None = None, spare: Iterable[BuiltStep] = ()) -> None:
        """End the lookups under way and let every resolver that was started close what it opened, once; but
        not those that `but` has too or that are to be spared. Never raises."""
        maps = set(but.maps.values()) if but is not None else set()
        await asyncio.gather(*(map.stop() for map in self.maps.values() if map not in maps))
        steps = {*spare, *(but.steps if but is not None else ())}
        await asyncio.gather(*(one.stop() for one in self.steps if one not in steps))
        if but is None:
            await self.http.close()
            return
        for map in self.maps.values():
            if map not in maps:
                await map.dismantle()


def _show_nobody(done: float) -> None:
    pass
