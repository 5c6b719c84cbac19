"""What the connections of one listener share: its maps, its ready replies, its counters."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

import attrs

from tcpmapkit.cache import Answer
from tcpmapkit.counters import LOWEST, OUTCOMES, Counters, Outcomes
from tcpmapkit.protocols.framing import Codec, Lookup, Refused
from tcpmapkit.query import Found, NotFound, Outcome, PermFail, Query, TempFail
from tcpmapkit.seldom import Seldom
from tcpmapkit.shown import personal
from tcpmapkit.step_failures import INTERNAL_ERROR

if TYPE_CHECKING:
    from tcpmapkit.connection import Connection

__all__ = ["ServedMap", "Service"]

_UNKNOWN_MAP: Final = PermFail("unknown map")

_CALLED: Final[Mapping[type, str]] = dict(zip((Found, NotFound, TempFail, PermFail), OUTCOMES, strict=True))

_log = logging.getLogger(__name__)


class ServedMap(Protocol):
    """What a connection asks of its map (see `tcpmapkit.maps.Map`)."""

    @property
    def name(self) -> str: ...

    def query(
        self,
        key: str,
        protocol: str = "",
        attributes: Mapping[str, str] | None = None,
        began: float | None = None,
    ) -> Query: ...

    def ask(self, query: Query, answered: Callable[[Answer], None]) -> Answer | None: ...


class KeptReady(Protocol):
    """What a connection asks of ready replies (see `tcpmapkit.ready.ReadyReplies`)."""

    def serve(self, maps: Iterable[Any]) -> None: ...

    def find(self, raw: bytes) -> bytes | None: ...

    def keep(self, name: str, raw: bytes, reply: bytes, answer: Answer) -> None: ...


@attrs.define(eq=False)
class Service:
    """What the connections of one listener share.

    `maps` has the maps by the name that a request gives, "" where it gives none; `ready` are its ready
    replies; `opened` and `closed` are told of each connection; `clock` gives seconds and is that of the
    maps, `idle_timeout` is in seconds; `gives_way` as `ServedProtocol` has it.
    """

    name: str
    protocol: str
    ready: KeptReady
    new_codec: Callable[[], Codec]
    idle_timeout: float
    clock: Callable[[], float]
    opened: Callable[[Connection], None]
    closed: Callable[[Connection], None]
    gives_way: bool = False
    counters: Counters = attrs.Factory(Counters)
    said: Seldom = attrs.Factory(Seldom)
    maps: Mapping[str, ServedMap] = attrs.field(factory=dict, init=False)
    #: When the last reply was made, those that were ready excepted: each is written at once.
    replied_at: float = attrs.field(default=0.0, init=False)
    _outcomes: dict[str, Outcomes] = attrs.field(factory=dict, init=False)

    def serve(self, maps: Mapping[str, ServedMap]) -> None:
        """Ask these maps from now on."""
        self.maps = maps
        self._outcomes = {called: self.counters.of(map.name) for called, map in maps.items()}

    def forget_ready(self) -> None:
        """Forget the replies that are kept ready."""
        self.ready.serve(self.maps.values())

    @property
    def find(self) -> Callable[[bytes], bytes | None]:
        """What finds a ready reply."""
        return self.ready.find

    def ask(self, request: Lookup, answered: Callable[[Answer], None]) -> Answer | None:
        """The answer at once; or None, and `answered` is called with it later, as `ServedMap.ask` does."""
        request.began = began = self.clock()
        asked = self.maps.get(request.map)
        if asked is None:
            known = ", ".join(self.maps)
            text = "asked for map %.100r, which is none of %s"
            self._say("unknown", logging.WARNING, text, request.map, known)
            return Answer(_UNKNOWN_MAP)
        return asked.ask(asked.query(request.key, self.protocol, None, began), answered)

    def encode(self, outcome: Outcome, codec: Codec) -> bytes:
        """The reply that tells `outcome`."""
        return codec.encode(outcome)

    def reply_to(self, answer: Answer, request: Lookup, codec: Codec) -> bytes:
        """The reply that tells `answer`, kept ready for the same request where that is allowed."""
        outcome = answer.outcome
        kind = type(outcome)
        # What is found is told as it is, by every service.
        reply = codec.encode(outcome) if kind is Found else self.encode(outcome, codec)
        counted = self._outcomes.get(request.map, self.counters.no_map)
        self.replied_at = now = self.clock()
        elapsed = now - request.began
        latency = counted.latency
        if elapsed <= LOWEST:
            latency.quick += 1
            latency.total += elapsed
        else:
            latency.observe(elapsed)
        if answer.cached:
            counted.cached[_CALLED[kind]] += 1
            counted.stale += answer.stale
        if kind is Found:
            counted.found += 1
            if reply is codec.reply_too_long:
                self._note_too_long(request)
                return reply
        elif kind is NotFound:
            counted.not_found += 1
        else:
            if kind is PermFail:
                counted.permanent += 1
            else:
                counted.temporary += 1
            return reply
        if answer.expires > 0.0:
            self.keep(request, reply, answer)
        return reply

    def keep(self, request: Lookup, reply: bytes, answer: Answer) -> None:
        """Keep a reply ready for the same request."""
        map = self.maps.get(request.map)
        if map is not None:  # else it is served no more
            self.ready.keep(map.name, request.raw, reply, answer)

    def _note_too_long(self, request: Lookup) -> None:
        self.counters.too_long += 1
        text = "map %s: a value found is too long for a reply"
        map = self.maps.get(request.map)
        self._say("too long", logging.WARNING, text, map.name if map is not None else request.map)

    def reply_to_refused(self, request: Refused) -> bytes:
        """The reply to a request that no map needs to see."""
        self.replied_at = self.clock()
        self.counters.refused += 1
        _log.debug("%s: refused a request: %s", self.name, request.reason)
        return request.reply

    def reply_to_bug(self, error: Exception, request: Lookup, codec: Codec) -> bytes:
        """Called while an exception that should not exist is handled: even then there is a reply."""
        self.replied_at = self.clock()
        self.counters.errors += 1
        self._outcomes.get(request.map, self.counters.no_map).temporary += 1
        self._say(
            type(error).__qualname__,
            logging.ERROR,
            "a lookup raised, which is a bug of ours",
            exc_info=error,
            request=request,
        )
        return self.encode(INTERNAL_ERROR, codec)

    def _say(
        self,
        subject: str,
        level: int,
        text: str,
        *args: object,
        exc_info: Exception | None = None,
        request: Lookup | None = None,
    ) -> None:
        """Log it, once a minute for each subject; what `request` says of somebody is hidden in it."""
        now = self.clock()
        hidden = () if request is None else (request.key, *personal(request.attributes))
        extra = {"hidden": hidden}
        text = "%s: " + text
        self.said.log(_log, level, subject, now, text, self.name, *args, exc_info=exc_info, extra=extra)
