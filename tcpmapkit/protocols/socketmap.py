"""socketmap_table(5), the server's side and, for tests and `query --explain`, the client's.

A request is a netstring of ``MAP SPACE KEY``, a reply one of a status word, a space, and the value or a
reason. Nothing is quoted, lengths count bytes, and a key may hold spaces or be empty. Postfix
(dict_sockmap.c) reads replies of 100000 bytes, status word included, and asks no key over 10000 bytes:
such a key does not exist.

``PERM`` only tells Postfix's log that a retry will not help; the mail is deferred all the same.
"""

from __future__ import annotations

from typing import Final

from tcpmapkit.protocols.framing import MAX_KEY, TOO_LONG, Lookup, ProtocolError, Refused, reason_sent
from tcpmapkit.protocols.netstrings import NetstringBuffer, netstring, netstring_content
from tcpmapkit.query import Found, NotFound, Outcome, PermFail, TempFail

__all__ = [
    "MAX_MAP_NAME",
    "MAX_REPLY",
    "MAX_REQUEST",
    "REPLY_TOO_LONG",
    "SocketmapCodec",
    "decode",
    "encode",
    "encode_request",
    "parse",
]

MAX_MAP_NAME: Final = 1000
"""Bytes of a map's name for which there is always room in a request beside the longest key."""

MAX_REQUEST: Final = MAX_MAP_NAME + 1 + MAX_KEY
"""Bytes of a request without its netstring's length and comma."""

MAX_REPLY: Final = 100_000
"""Bytes of a reply without its netstring's length and comma (DICT_SOCKMAP_DEF_MAX_REPLY)."""


def _reply(status: bytes, text: str = "") -> bytes:
    # A reason may come from anywhere, also as text that UTF-8 cannot hold; a value cannot (see Found).
    return netstring(status + b" " + text.encode(errors="backslashreplace"))


_NOT_FOUND: Final = _reply(b"NOTFOUND")

REPLY_TOO_LONG: Final = _reply(b"TEMP", "value too long for a socketmap reply")
"""What `encode` answers, this very object, for a value that does not fit into `MAX_REPLY` bytes."""


def _malformed(reason: str) -> Refused:
    return Refused(_reply(b"PERM", f"malformed request: {reason}"), reason)


_KEY_TOO_LONG = Refused(_NOT_FOUND, "key too long")
_KEY_NOT_UTF8 = Refused(_NOT_FOUND, "key is not valid UTF-8")
_NO_SPACE = _malformed("no space behind the map's name")
_NO_MAP = _malformed("no map's name")


def parse(whole: bytes) -> Lookup | Refused:
    """One request, a whole netstring.

    A key that Postfix itself would call invalid (too long, not UTF-8) does not exist. What of a map's
    name is not UTF-8 becomes lone surrogates, which no map of ours has in its name.

    Raises `ProtocolError` for what is no netstring.
    """
    return _parse(netstring_content(whole), whole)


def _parse(content: bytes, whole: bytes) -> Lookup | Refused:
    name, space, key = content.partition(b" ")
    if not space:
        return _NO_SPACE
    if not name:
        return _NO_MAP
    if len(key) > MAX_KEY:
        return _KEY_TOO_LONG
    try:
        return Lookup(key.decode(), whole, name.decode(errors="surrogateescape"))
    except UnicodeDecodeError:
        return _KEY_NOT_UTF8


def encode(outcome: Outcome) -> bytes:
    """The reply for `outcome`; `REPLY_TOO_LONG` itself, never a truncation, for a value over it."""
    if type(outcome) is Found:
        content = b"OK " + outcome.value.encode()
        return netstring(content) if len(content) <= MAX_REPLY else REPLY_TOO_LONG
    match outcome:
        case NotFound():
            return _NOT_FOUND
        case TempFail(reason):
            return _reply(b"TEMP", reason_sent(reason))
        case PermFail(reason):
            return _reply(b"PERM", reason_sent(reason))
    raise TypeError(f"not an outcome: {type(outcome).__name__}")


class SocketmapCodec:
    """The server's end of one socketmap connection; see `tcpmapkit.protocols.framing.Codec`."""

    __slots__ = ("_netstrings",)

    encode = staticmethod(encode)
    reply_too_long = REPLY_TOO_LONG

    def __init__(self) -> None:
        self._netstrings = NetstringBuffer(MAX_REQUEST)

    @property
    def buffered_bytes(self) -> int:
        """Bytes received and not yet given out."""
        return len(self._netstrings)

    @property
    def between_requests(self) -> bool:
        """Whether nothing is held and the next byte begins a request."""
        return self._netstrings.between_netstrings

    def receive_data(self, data: bytes) -> None:
        """Store what the peer sent."""
        self._netstrings.receive(data)

    def whole_request(self, data: bytes) -> Lookup | Refused | None:
        """The request that `data` is, when it is a whole one and no more."""
        if len(data) > MAX_REQUEST:
            return None
        try:
            content = netstring_content(data)
        except ProtocolError:
            return None
        return _parse(content, data)

    def next_request(self) -> Lookup | Refused | None:
        """The next request, or None when more bytes are needed. Raises `ProtocolError`."""
        whole = self._netstrings.next_netstring()
        if whole is None:
            return None
        return parse(whole) if whole is not TOO_LONG else _KEY_TOO_LONG


def encode_request(map: str, key: str) -> bytes:
    """The netstring with which Postfix asks `map` for `key`."""
    return netstring(f"{map} {key}".encode())


def decode(reply: bytes) -> Outcome:
    """What Postfix makes of a reply (dict_sockmap.c), a whole netstring.

    ``TIMEOUT``, which no server of ours says, is a temporary failure. Raises `ProtocolError` for what
    Postfix calls an input format error, a size limit exceeded or an unknown error, and for an empty
    value.
    """
    content = netstring_content(reply)
    if len(content) > MAX_REPLY:
        raise ProtocolError(f"a reply is at most {MAX_REPLY} bytes")
    status, _, text = content.partition(b" ")
    try:
        match status:
            case b"OK":
                return Found(text.decode())
            case b"NOTFOUND":
                return NotFound()
            case b"TEMP" | b"TIMEOUT":
                return TempFail(text.decode().lstrip())
            case b"PERM":
                return PermFail(text.decode().lstrip())
    except ValueError as error:
        raise ProtocolError(f"malformed reply: {error}") from None
    raise ProtocolError("a reply begins with OK, NOTFOUND, TEMP, TIMEOUT or PERM")
