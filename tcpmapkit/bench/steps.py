"""What each step of the chain takes: a sample of the keys, asked with the steps noted, past the cache.

To note the steps takes time of its own, so these lookups are in none of the other figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import attrs

from tcpmapkit.bench.latencies import Latencies
from tcpmapkit.query import Failure, Found
from tcpmapkit.step_answer import NotAsked, StepTrace

if TYPE_CHECKING:
    from tcpmapkit.maps import Map

__all__ = ["StepFigures", "ask_steps"]


@attrs.define(eq=False)
class StepFigures:
    """One step: of which map, how often it was asked and passed by, what it answered, how long it took."""

    map: str
    step: str
    passed_by: int = 0
    found: int = 0
    failed: int = 0
    latencies: Latencies = attrs.Factory(Latencies)


async def ask_steps(map: Map, keys: Iterable[str], go_on: Callable[[], bool]) -> list[StepFigures]:
    """Ask the map's chain for these keys while `go_on` says so; its steps and those of the maps that it
    refers to, in the order in which they first had a part."""
    steps: dict[tuple[str, str], StepFigures] = {}
    generation = map.current
    for key in keys:
        if not go_on():
            break
        question = map.query(key if generation.conversion is None else generation.conversion(key))
        question.trace = []
        chain = generation.chain
        if chain.can_wait:
            await chain.resolve(question)
        else:
            chain.resolve(question)
        for trace in question.trace:
            if isinstance(trace, StepTrace):
                place = trace.map, trace.step
                _add(steps.setdefault(place, StepFigures(*place)), trace)
    return list(steps.values())


def _add(figures: StepFigures, trace: StepTrace) -> None:
    if isinstance(trace.outcome, NotAsked):
        figures.passed_by += 1
        return
    figures.latencies.add(trace.elapsed)
    if isinstance(trace.outcome, Found):
        figures.found += 1
    elif isinstance(trace.outcome, Failure):
        figures.failed += 1
