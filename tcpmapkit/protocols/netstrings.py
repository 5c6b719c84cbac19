"""Netstrings (``LENGTH:CONTENT,``), as Postfix's netstring(3) writes and reads them, and a bounded buffer."""

from __future__ import annotations

import re

from tcpmapkit.protocols.framing import MAX_UNENDED, TOO_LONG, ProtocolError

__all__ = ["NetstringBuffer", "netstring", "netstring_content"]

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
