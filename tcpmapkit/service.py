"""What the connections of one listener share: its map, its ready replies, its counters."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import attrs

from tcpmapkit.cache import Answer
from tcpmapkit.protocols.framing import Codec
from tcpmapkit.query import Found, NotFound, PermFail, Query
from tcpmapkit.seldom import Seldom
from tcpmapkit.step import INTERNAL_ERROR

if TYPE_CHECKING:
    from tcpmapkit.connection import Connection

__all__ = ["Counters", "ServedMap", "Service"]

_log = logging.getLogger(__name__)


class ServedMap(Protocol):
    """What a connection asks of its map (see `tcpmapkit.maps.Map`)."""

    @property
    def name(self) -> str: ...

    def query(self, key: str, protocol: str = "") -> Query: ...

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

    `find` and `keep` are those of its ready replies; `opened` and `closed` are told of each
    connection; `clock` gives seconds, `idle_timeout` is in seconds.
    """

    name: str
    protocol: str
    map: ServedMap
    find: Callable[[bytes], bytes | None]
    keep: Callable[[bytes, bytes, Answer], None]
    new_codec: Callable[[], Codec]
    idle_timeout: float
    clock: Callable[[], float]
    opened: Callable[[Connection], None]
    closed: Callable[[Connection], None]
    counters: Counters = attrs.Factory(Counters)
    said: Seldom = attrs.Factory(Seldom)

    def reply_to(self, answer: Answer, raw: bytes, codec: Codec) -> bytes:
        """The reply that tells `answer`, kept ready for the same request where that is allowed."""
        counters = self.counters
        outcome = answer.outcome
        reply = codec.encode(outcome)
        if type(outcome) is Found:
            counters.found += 1
            if reply is codec.reply_too_long:
                counters.too_long += 1
                self._say(
                    "too long",
                    logging.WARNING,
                    "map %s: a value found is too long for a reply",
                    self.map.name,
                )
                return reply
            self.keep(raw, reply, answer)
        elif type(outcome) is NotFound:
            counters.not_found += 1
            self.keep(raw, reply, answer)
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
            "map %s: a lookup raised, which is a bug of ours",
            self.map.name,
            exc_info=error,
        )
        return codec.encode(INTERNAL_ERROR)

    def _say(
        self, subject: str, level: int, text: str, *args: object, exc_info: Exception | None = None
    ) -> None:
        """Log it, once a minute for each subject."""
        now = self.clock()
        self.said.log(_log, level, subject, now, "%s: " + text, self.name, *args, exc_info=exc_info)
