"""Telling plugins of every lookup (the hook `query_resolved`)."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from tcpmapkit.cache import Answer
from tcpmapkit.query import Outcome, Query

__all__ = ["Observer", "observed"]

Observer = Callable[[Query, Outcome, str, float], None]
"""Called after a lookup: query, outcome, who answered, seconds."""


def observed(query: Query, observer: Observer) -> Callable[[Answer], Answer]:
    """What tells `observer` of the answer to a lookup that begins now. The answer is not kept ready: the
    next lookup is to be told of too."""
    began = query.clock()

    def observe(answer: Answer) -> Answer:
        observer(query, answer.outcome, answer.resolver, query.clock() - began)
        return attrs.evolve(answer, expires=0.0)

    return observe
