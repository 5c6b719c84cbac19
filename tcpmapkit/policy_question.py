"""A policy listener asked without a connection, by the code that answers its connections.

For ``query --policy`` and for ``[[listeners.tests]]``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

from tcpmapkit.cache import Answer
from tcpmapkit.listener_service import new_service
from tcpmapkit.policy_service import PolicyService
from tcpmapkit.protocols.actions import NO_ACTION, is_none
from tcpmapkit.protocols.framing import SILENCE
from tcpmapkit.query import Found, NotFound, Outcome, Query

if TYPE_CHECKING:
    from tcpmapkit.config import ListenerConfig
    from tcpmapkit.maps import Map

__all__ = ["PolicyAnswer", "PolicyQuestions"]


@attrs.frozen
class PolicyAnswer:
    """What came of a request.

    `query` is what the map was asked and `outcome` what it answered; `told` is what Postfix is to be
    told, which after a failure is the listener's default action; `reply` is what is sent, `SILENCE`
    when the connection is closed; `elapsed` is in seconds.
    """

    query: Query
    outcome: Outcome
    told: Outcome
    reply: bytes
    elapsed: float

    @property
    def action(self) -> str | None:
        """The action that Postfix is told; None when it is told nothing."""
        if self.reply == SILENCE:
            return None
        return self.told.value if isinstance(self.told, Found) else NO_ACTION

    @property
    def found(self) -> bool:
        """Whether the map has an action for the request, other than none."""
        return isinstance(self.outcome, Found) and not is_none(self.outcome.value)

    @property
    def failure(self) -> str | None:
        """Why the map has no answer, or none that Postfix can be told; None when it has."""
        if not isinstance(self.outcome, Found | NotFound):
            return self.outcome.reason
        return "the action is too long for a reply" if self.reply == SILENCE else None


class PolicyQuestions:
    """What can be asked of a policy listener that serves this map."""

    def __init__(self, listener: ListenerConfig, map: Map) -> None:
        service = new_service(listener, [map], map.clock, lambda _: None, lambda _: None)
        assert isinstance(service, PolicyService)
        self._service = service
        self._map = map

    async def ask(self, attributes: Mapping[str, str], *, trace: bool = False) -> PolicyAnswer:
        """The answer to a request with these attributes; with `trace` the query notes what was asked."""
        service, clock = self._service, self._map.clock
        question = service.question(attributes)
        if trace:
            question.trace = []
        came: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def answered(answer: Answer) -> None:
            if not came.done():
                came.set_result(answer)

        began = clock()
        answer = service.ask_map(question, answered)
        outcome = (answer if answer is not None else await came).outcome
        elapsed = clock() - began
        told = service.told(outcome)
        return PolicyAnswer(question, outcome, told, service.new_codec().encode(told), elapsed)
