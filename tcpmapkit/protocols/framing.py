"""What the codecs share: the requests they give out, their limits, bounded buffers of lines and netstrings.

A codec does no I/O (h11's way): `receive_data` only stores, `next_request` pulls one request at a
time, so whoever pulls decides the pace. The memory of a codec is bounded by its limits whatever
the peer sends, as long as its owner pulls until None before it feeds more than it is willing to
hold; the work is linear in the bytes fed, however they are cut up.
"""

from __future__ import annotations

import re
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
    "NetstringBuffer",
    "ProtocolError",
    "Refused",
    "netstring",
    "netstring_content",
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
    those of a policy request, whose key is the listener's to make of them.
    """

    key: str
    raw: bytes
    map: str = ""
    attributes: Mapping[str, str] = _NO_ATTRIBUTES


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


_LENGTH = re.compile(rb"(0|[1-9][0-9]{0,6}):")
_LENGTH_BEGUN = re.compile(rb"(?:0|[1-9][0-9]{0,6})?")


def netstring(content: bytes) -> bytes:
    """`content` with its length in front and the comma behind, as Postfix's netstring_put() writes it."""
    return b"%d:%b," % (len(content), content)


def netstring_content(whole: bytes) -> bytes:
    """What is in a netstring. Raises `ProtocolError` when it is none, or more than one."""
    length = _LENGTH.match(whole)
    if length is None or len(whole) != length.end() + int(length[1]) + 1 or whole[-1:] != b",":
        raise ProtocolError("not a netstring")
    return whole[length.end() : -1]


class NetstringBuffer:
    """Netstrings (``LENGTH:CONTENT,``) out of a byte stream.

    One whose content is over `max_content` bytes is thrown away as it arrives. A length has no leading
    zeros, Postfix writes none, and so at most seven digits.
    """

    __slots__ = ("_buffer", "_comma", "_dropping", "_max_content", "_max_unended")

    def __init__(self, max_content: int, max_unended: int = MAX_UNENDED) -> None:
        self._max_content = max_content
        self._max_unended = max_unended
        self._buffer = bytearray()
        self._comma = -1  # where in the buffer the netstring under way ends; -1: its length is not known
        self._dropping = False  # the netstring under way is too long: the buffer begins in its midst

    def __len__(self) -> int:
        return len(self._buffer)

    @property
    def between_netstrings(self) -> bool:
        """Whether nothing is held and the next byte begins a netstring."""
        return not self._buffer and self._comma < 0

    def receive(self, data: bytes) -> None:
        """Store `data`, less what belongs to a netstring already known to be too long."""
        if self._dropping and not self._buffer:
            content = min(self._comma, len(data))
            self._comma -= content
            data = data[content:]
        self._buffer += data

    def next_netstring(self) -> bytes | None:
        """The next one, whole, `TOO_LONG`, or None when its end has not come yet.

        Raises `ProtocolError` for what is no netstring, and for one of `max_unended` bytes or more as
        soon as its length says so.
        """
        buffer = self._buffer
        if self._comma < 0:
            length = _LENGTH.match(buffer)
            if length is None:
                if _LENGTH_BEGUN.fullmatch(buffer):
                    return None
                raise self._error("a netstring begins with its length and a colon")
            content = int(length[1])
            if content >= self._max_unended:
                raise self._error(f"no end of request within {self._max_unended} bytes")
            self._comma = length.end() + content
            self._dropping = content > self._max_content
        comma = self._comma
        if len(buffer) <= comma:
            if self._dropping:
                self._comma -= len(buffer)
                buffer.clear()
            return None
        if buffer[comma] != 0x2C:
            raise self._error("a netstring ends with a comma")
        whole = TOO_LONG if self._dropping else bytes(buffer[: comma + 1])
        del buffer[: comma + 1]  # cheap: a bytearray gives up its front without moving the rest
        self._comma = -1
        self._dropping = False
        return whole

    def _error(self, text: str) -> ProtocolError:
        self._buffer.clear()
        return ProtocolError(text)
