"""What a step tells its chain, and what it notes of a query for ``query --explain``."""

from __future__ import annotations

from typing import final

import attrs

from tcpmapkit.query import Miss, Outcome

__all__ = ["NotAsked", "StepAnswer", "StepTrace"]


@final
@attrs.frozen(eq=False)
class NotAsked:
    """The query is not for this step, and why: no miss of its own, which `authoritative` would make
    final."""

    why: str


#: What a step tells its chain.
StepAnswer = Outcome | Miss | NotAsked


@attrs.frozen
class StepTrace:
    """What one step did, for ``query --explain``.

    `outcome` says why when the step was not asked; `elapsed` is in seconds; `map` is the name of the map
    whose step it is.
    """

    step: str
    key: str
    outcome: StepAnswer
    elapsed: float
    map: str = ""
