"""What the connections of one listener share: its maps, its ready replies, its counters."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Protocol

import attrs

from tcpmapkit.cache import Answer
from tcpmapkit.protocols.framing import Codec, Lookup
from tcpmapkit.query import Found, NotFound, Outcome, PermFail, Query
from tcpmapkit.seldom import Seldom
from tcpmapkit.step import INTERNAL_ERROR

if TYPE_CHECKING:
    from tcpmapkit.connection import Connection

__all__ = ["Counters", "ServedMap", "Service"]

_UNKNOWN_MAP: Final = PermFail("unknown map")

_log = logging.getLogger(__name__)


class ServedMap(Protocol):
    """What a connection asks of its map (see `tcpmapkit.maps.Map`)."""

    @property
    def name(self) -> str: ...

    def query(self, key: str, protocol: str = "", attributes: Mapping[str, str] | None = None) -> Query: ...

    def ask(self, query: Query, answered: Callable[[Answer], None]) -> Answer | None: ...


@attrs.define(eq=False)
class Counters:
    """What a listener has done since it started, and how many connections it has now.

    `ready` counts the replies that were found ready; `found` to `permanent` those made from a lookup,
    by outcome; `refused` the requests that reached no map; `too_long` the values that no reply holds
    (they are in `found`); `errors` our own bugs (they are in `temporary`).
    """

    ready: int = 0
    found: int = 0
    not_found: int = 0
    temporary: int = 0
    permanent: int = 0
    refused: int = 0
    too_long: int = 0
    errors: int = 0
    connections: int = 0
    connections_open: int = 0
    connections_refused: int = 0

    @property
    def requests(self) -> int:
        """Requests answered; each has had one reply."""
        return self.ready + self.found + self.not_found + self.temporary + self.permanent + self.refused


@attrs.define(eq=False)
class Service:
    """What the connections of one listener share.

    `maps` has the maps by the name that a request gives, "" where it gives none; `find` and `keep`
    are those of its ready replies; `opened` and `closed` are told of each connection; `clock` gives
    seconds, `idle_timeout` is in seconds; `gives_way` as `ServedProtocol` has it.
    """

    name: str
    protocol: str
    maps: Mapping[str, ServedMap]
    find: Callable[[bytes], bytes | None]
    keep: Callable[[str, bytes, bytes, Answer], None]
    new_codec: Callable[[], Codec]
    idle_timeout: float
    clock: Callable[[], float]
    opened: Callable[[Connection], None]
    closed: Callable[[Connection], None]
    gives_way: bool = False
    counters: Counters = attrs.Factory(Counters)
    said: Seldom = attrs.Factory(Seldom)

    def ask(self, request: Lookup, answered: Callable[[Answer], None]) -> Answer | None:
        """The answer at once; or None, and `answered` is called with it later, as `ServedMap.ask` does."""
        asked = self.maps.get(request.map)
        if asked is None:
            known = ", ".join(self.maps)
            self._say("unknown", logging.WARNING, "asked for map %.100r, which is none of %s", request.map, known)
            return Answer(_UNKNOWN_MAP)
        return asked.ask(asked.query(request.key, self.protocol), answered)

    def encode(self, outcome: Outcome, codec: Codec) -> bytes:
        """The reply that tells `outcome`."""
        return codec.encode(outcome)

    def reply_to(self, answer: Answer, request: Lookup, codec: Codec) -> bytes:
        """The reply that tells `answer`, kept ready for the same request where that is allowed."""
        counters = self.counters
        outcome = answer.outcome
        reply = self.encode(outcome, codec)
        if type(outcome) is Found:
            counters.found += 1
            if reply is codec.reply_too_long:
                counters.too_long += 1
                self._say(
                    "too long",
                    logging.WARNING,
                    "map %s: a value found is too long for a reply",
                    self.maps[request.map].name,
                )
                return reply
            self.keep(self.maps[request.map].name, request.raw, reply, answer)
        elif type(outcome) is NotFound:
            counters.not_found += 1
            self.keep(self.maps[request.map].name, request.raw, reply, answer)
        elif type(outcome) is PermFail:
            counters.permanent += 1
        else:
            counters.temporary += 1
        return reply

    def reply_to_bug(self, error: Exception, codec: Codec) -> bytes:
        """Called while an exception that should not exist is handled: even then there is a reply."""
        self.counters.errors += 1
        self.counters.temporary += 1
        self._say(
            type(error).__qualname__,
            logging.ERROR,
            "a lookup raised, which is a bug of ours",
            exc_info=error,
        )
        return self.encode(INTERNAL_ERROR, codec)

    def _say(
        self, subject: str, level: int, text: str, *args: object, exc_info: Exception | None = None
    ) -> None:
        """Log it, once a minute for each subject."""
        now = self.clock()
        self.said.log(_log, level, subject, now, "%s: " + text, self.name, *args, exc_info=exc_info)
