"""What the connections of a policy listener share: how a request becomes a key, what a failure becomes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

import attrs

from tcpmapkit.cache import Answer
from tcpmapkit.protocols.framing import MAX_KEY, Codec, Lookup
from tcpmapkit.query import Found, NotFound, Outcome, Query, TempFail
from tcpmapkit.service import Service
from tcpmapkit.template import Template

__all__ = ["PolicyService"]

_KEY_TOO_LONG: Final = TempFail("key too long")


def _nothing_ready(raw: bytes) -> None:
    return None


@attrs.define(eq=False, kw_only=True)
class PolicyService(Service):
    """A `Service` of the requests of smtpd(8).

    `key` makes the key of a request, in which an attribute that is absent is empty text; `default_action`
    is told when a lookup fails, None for nothing; `stage` is the ``protocol_state`` that requests should
    come from, None for any. Nothing is kept ready: a request is never the same twice.
    """

    key: Template = attrs.field(init=False)
    default_action: Found | None = attrs.field(default=None, init=False)
    stage: str | None = attrs.field(default=None, init=False)

    @property
    def find(self) -> Callable[[bytes], bytes | None]:
        """Finds nothing."""
        return _nothing_ready

    def keep(self, request: Lookup, reply: bytes, answer: Answer) -> None:
        """Keeps nothing."""

    def ask(self, request: Lookup, answered: Callable[[Answer], None]) -> Answer | None:
        """As `Service.ask`, with the key that the listener makes."""
        request.began = began = self.clock()
        stage = request.attributes.get("protocol_state")
        if self.stage is not None and stage != self.stage:
            text = "asked at stage %s, and meant for %s: see the smtpd_*_restrictions in main.cf"
            self._say(f"stage {stage}"[:40], logging.WARNING, text, stage or "?", self.stage)
        return self.ask_map(self.question(request.attributes, began), answered)

    def question(self, attributes: Mapping[str, str], began: float | None = None) -> Query:
        """What the map is asked about a request with these attributes; `began` as `Map.query` has it."""
        texts = self.key.texts(Query("", attributes=attributes))
        key = "".join(text or "" for _, text in texts)
        return self.maps[""].query(key, self.protocol, attributes, began)

    def ask_map(self, question: Query, answered: Callable[[Answer], None]) -> Answer | None:
        """As `ServedMap.ask`; a key over `MAX_KEY` is a failure."""
        if len(question.key.encode()) > MAX_KEY:
            return Answer(_KEY_TOO_LONG)
        return self.maps[""].ask(question, answered)

    def told(self, outcome: Outcome) -> Outcome:
        """What Postfix is to be told: of a failure the default action, where there is one."""
        if isinstance(outcome, Found | NotFound) or self.default_action is None:
            return outcome
        return self.default_action

    def reply_to(self, answer: Answer, request: Lookup, codec: Codec) -> bytes:
        """As `Service.reply_to`; a failure, whose reason Postfix is not told, has a line in the log."""
        outcome = answer.outcome
        if not isinstance(outcome, Found | NotFound):
            text, map = "map %s: a lookup failed: %s", self.maps[""].name
            self._say("failed", logging.WARNING, text, map, outcome.reason, request=request)
        return super().reply_to(answer, request, codec)

    def encode(self, outcome: Outcome, codec: Codec) -> bytes:
        """The action; of a failure the default action or silence."""
        return codec.encode(self.told(outcome))
