"""What the codecs share: the requests they give out, their limits, the bounded line buffer.

A codec does no I/O (h11's way): `receive_data` only stores, `next_request` pulls one request at a
time, so whoever pulls decides the pace. The memory of a codec is bounded by its limits whatever
the peer sends, as long as its owner pulls until None before it feeds more than it is willing to
hold; the work is linear in the bytes fed, however they are cut up.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Protocol, final

import attrs

from tcpmapkit.query import Outcome

__all__ = [
    "MAX_KEY",
    "MAX_REASON",
    "MAX_UNENDED",
    "SILENCE",
    "TOO_LONG",
    "Codec",
    "LineBuffer",
    "Lookup",
    "ProtocolError",
    "Refused",
    "reason_sent",
]

MAX_KEY: Final = 10_000
"""Bytes of a decoded key, on every protocol (Postfix's own limit since 3.12)."""

MAX_UNENDED: Final = 1 << 20
"""Bytes of one request without an end after which the peer is no Postfix."""

MAX_REASON: Final = 200
"""Characters of a reason that are sent: it is for one line of the mail log."""

SILENCE: Final = b""
"""The reply where a protocol has none: nothing is said, and the connection is closed."""

TOO_LONG: Final = b""
"""What a buffer answers for a line or netstring over its limit (a real one holds its own end at least)."""


_NO_ATTRIBUTES: Mapping[str, str] = MappingProxyType({})


class ProtocolError(Exception):
    """The peer's bytes can never become a request (or a reply): log one line and close."""


@final
@attrs.define
class Lookup:
    """A well-formed request: the decoded `key`, and `raw`, all its bytes as they came, its end included.

    `map` is the name of the map that is asked, "" where the endpoint has a single one. `attributes` are
    those of a policy request, whose key is the listener's to make of them. `began` is when it was asked, by
    the server's clock.
    """

    key: str
    raw: bytes
    map: str = ""
    attributes: Mapping[str, str] = _NO_ATTRIBUTES
    began: float = attrs.field(default=0.0, kw_only=True, eq=False)


@final
@attrs.define
class Refused:
    """A request that no map needs to see: `reply` answers it; `reason` is for the log and without the key."""

    reply: bytes
    reason: str


def reason_sent(reason: str) -> str:
    """What the peer is told of a failure's reason: at most `MAX_REASON` characters, and never nothing."""
    return reason[:MAX_REASON] or "lookup failed"


class Codec(Protocol):
    """One connection's view of a protocol."""

    @property
    def buffered_bytes(self) -> int:
        """Bytes received and not yet given out as requests."""

    @property
    def between_requests(self) -> bool:
        """Whether nothing is held and the next byte begins a request."""

    def receive_data(self, data: bytes) -> None:
        """Store what the peer sent."""

    def whole_request(self, data: bytes) -> Lookup | Refused | None:
        """The request that `data` is from its first byte to its last, which need not be stored then; None
        when it is less or more, or that is not plain to see. To be asked between two requests only."""

    def next_request(self) -> Lookup | Refused | None:
        """The next request in order, or None when more bytes are needed.

        Raises `ProtocolError` when no request can follow any more; the codec is of no use then.
        """

    def encode(self, outcome: Outcome) -> bytes:
        """The reply to one request; `reply_too_long`, the very object, when Postfix would not read it;
        `SILENCE` where the protocol has no reply for such an outcome."""

    @property
    def reply_too_long(self) -> bytes:
        """What is answered in place of a reply over the protocol's limit: a temporary failure, or
        `SILENCE`."""


class LineBuffer:
    """Lines out of a byte stream.

    A line over `max_line` bytes, newline included, is thrown away as it arrives.
    """

    __slots__ = ("_buffer", "_dropped", "_max_line", "_max_unended", "_searched")

    def __init__(self, max_line: int, max_unended: int = MAX_UNENDED) -> None:
        self._max_line = max_line
        self._max_unended = max_unended
        self._buffer = bytearray()
        self._searched = 0  # no newline before this offset
        self._dropped = 0  # bytes of the line under way that were thrown away

    def __len__(self) -> int:
        return len(self._buffer)

    @property
    def between_lines(self) -> bool:
        """Whether nothing is held and the next byte begins a line."""
        return not self._buffer and not self._dropped

    def receive(self, data: bytes) -> None:
        """Store `data`, less what belongs to a line already known to be too long."""
        if self._dropped and not self._buffer:
            end = data.find(b"\n")
            self._dropped += len(data) if end < 0 else end
            data = b"" if end < 0 else data[end:]  # the newline stays: it ends the line in next_line
        self._buffer += data

    def next_line(self) -> bytes | None:
        """The next line with its newline, `TOO_LONG`, or None when its end has not come yet.

        Raises `ProtocolError` for a line of `max_unended` bytes or more, ended or not.
        """
        buffer = self._buffer
        end = buffer.find(b"\n", self._searched)
        length = self._dropped + (len(buffer) if end < 0 else end)
        if length >= self._max_unended:
            buffer.clear()
            raise ProtocolError(f"no end of request within {self._max_unended} bytes")
        if end < 0:
            if length >= self._max_line:
                self._dropped = length
                buffer.clear()
            self._searched = len(buffer)
            return None
        if end + 1 == len(buffer):
            line = bytes(buffer)
            buffer.clear()
        else:
            line = bytes(buffer[: end + 1])
            del buffer[: end + 1]  # cheap: a bytearray gives up its front without moving the rest
        self._searched = self._dropped = 0
        return TOO_LONG if length >= self._max_line else line
